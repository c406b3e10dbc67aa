"""One train step for every objective: views, loss, gradient, optimizer, teacher. No `if objective`
anywhere. And the step of an experiment on a mesh: its state placed, compiled once per component.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eo_jax import sharding
from eo_jax.objectives.base import Objective
from eo_jax.objectives.features import make_pooled
from eo_jax.optim.optimizers import make_optimizer
from eo_jax.schema import Batch, Carry, Metrics, Params, Views

# {"step": int32, "params": Params, "carry": Carry, "optimizer": optax state}
TrainState = dict[str, Any]


class TrainSession:
    """The train step of an experiment on a mesh: the one that `train` runs, `doctor` measures and
    benchmarks race.

    Args:
        experiment: see `eo_jax.experiment.Experiment`.
        recipe: `train` and `evaluate` turn a batch into views; see `eo_jax.augment.views.Recipe`.

    Attributes:
        shapes: ShapeDtypeStructs of the TrainState, each with its sharding.
        step: the jitted (state, batch) -> (state, metrics); the state is donated.
        pooled: the jitted (state, batch) -> pooled features, for collapse metrics.
    """

    def __init__(self, experiment: Any, recipe: Any, mesh: Mesh):
        objective, run, optim = experiment.objective, experiment.run, experiment.optim
        params, _ = jax.eval_shape(objective.init, jax.random.key(0))
        optimizer = make_optimizer(optim, params, run.steps)
        make_state = functools.partial(init_state, objective, optimizer, run.seed)
        shapes = jax.eval_shape(make_state)
        self.placement = sharding.state_sharding(experiment.sharding, shapes, mesh)
        self.shapes = sharding.with_sharding(shapes, self.placement)
        inputs = self.placement, sharding.batch_sharding(mesh)
        replicated = NamedSharding(mesh, PartitionSpec())
        step = make_train_step(
            objective, optimizer, recipe.train, seed=run.seed, steps=run.steps, accum=optim.accum
        )
        pooled = make_pooled(objective, recipe.evaluate, experiment.same_encoder)
        self._init = jax.jit(make_state, out_shardings=self.placement)
        self.step = jax.jit(
            step,
            donate_argnums=0,
            in_shardings=inputs,
            out_shardings=(self.placement, replicated),
        )
        self.pooled = jax.jit(pooled, in_shardings=inputs, out_shardings=replicated)

    def init(self) -> TrainState:
        """Step 0, on the mesh."""
        return self._init()

    def compile(
        self, batches: Mapping[str, Batch], options: Mapping[str, str] | None = None
    ) -> dict[str, CompiledStep]:
        """{component: its compiled step}; `batches` are global ones, of which shapes suffice.

        `options` are for XLA, by the names of its flags.
        """
        return {
            component: CompiledStep(
                self.step.lower(self.shapes, batch).compile(options),
                self.pooled.lower(self.shapes, batch).compile(),
            )
            for component, batch in batches.items()
        }


class CompiledStep(NamedTuple):
    """The compiled train step of a mixture component, and the pass for its collapse metrics."""

    step: jax.stages.Compiled
    pooled: jax.stages.Compiled


def init_state(
    objective: Objective, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Step 0."""
    params, carry = objective.init(jax.random.key(seed))
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "carry": carry,
        "optimizer": optimizer.init(params),
    }


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    make_views: Callable[[Batch, jax.Array], Views],
    *,
    seed: int,
    steps: int,
    accum: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure function (state, batch) -> (state, metrics); jit it with donated state.

    All randomness comes from fold_in(seed, step). A step whose loss, gradient or carry is not
    finite leaves the state unchanged, except for the step number.
    """

    def micro_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array, progress: jax.Array):
        view_key, loss_key = jax.random.split(key)
        return objective.loss(params, carry, make_views(batch, view_key), loss_key, progress)

    gradient = jax.value_and_grad(micro_loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        progress = state["step"] / steps
        loss, metrics, carry, grads = _accumulate(gradient, state, batch, key, progress, accum)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        finite &= _changes_are_finite(state["carry"], carry)

        def advanced() -> TrainState:
            updates, opt_state = optimizer.update(grads, state["optimizer"], state["params"])
            params = optax.apply_updates(state["params"], updates)
            return {
                "step": state["step"],
                "params": params,
                "carry": objective.ema_update(params, carry, progress),
                "optimizer": opt_state,
            }

        new = _if_finite(finite, advanced, state)
        metrics = {"loss": loss, **metrics, "grad_norm": grad_norm, "skipped": 1.0 - finite}
        return {**new, "step": state["step"] + 1}, metrics

    return train_step


def _changes_are_finite(before: Carry, after: Carry) -> jax.Array | bool:
    """Whether all floats that a loss changed in the carry are finite: running statistics, centre,
    queue.

    A pixel of -1e22 leaves loss and gradient finite, since BatchNorm divides by the infinite
    variance, which would then stay in the running statistics for good. What the loss returns
    untouched, such as a teacher's weights, costs nothing here: its update is a mean of finite
    weights.
    """
    changed = [
        new
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        if new is not old and jnp.issubdtype(new.dtype, jnp.floating)
    ]
    return functools.reduce(jnp.logical_and, [jnp.isfinite(new).all() for new in changed], True)


def _if_finite(
    finite: jax.Array, advanced: Callable[[], TrainState], state: TrainState
) -> TrainState:
    """`advanced()`, or the state as it was.

    A branch on CPU, where selecting leaf by leaf keeps XLA from updating moments in place (the
    update of 69M weights takes five times longer). Leaf by leaf on accelerators, where that is free
    and a branch would wait for the gradient on the host.
    """

    def select() -> TrainState:
        return jax.tree.map(
            lambda after, before: jnp.where(finite, after, before), advanced(), state
        )

    return jax.lax.platform_dependent(
        cpu=lambda: jax.lax.cond(finite, advanced, lambda: state), default=select
    )


@jax.jit
def copied(params: Params) -> Params:
    """A copy that outlives the donation of the original."""
    return jax.tree.map(jnp.copy, params)


@jax.jit
def norms(after: Params, before: Params) -> Metrics:
    """The norm of the weights after a step ("param_norm") and of their change ("update_norm").

    Computed outside the train step, for logged steps only: inside, they keep the old weights alive
    until the new ones exist, 4 % of a small step on CPU. A skipped step logged out of turn has
    neither.
    """
    moved = jax.tree.map(jnp.subtract, after, before)
    return {"update_norm": optax.tree.norm(moved), "param_norm": optax.tree.norm(after)}


def _accumulate(
    gradient: Callable,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    progress: jax.Array,
    accum: int,
):
    """Loss, metrics and gradients averaged over `accum` microbatches; the carry passes through them
    in order.
    """
    params = state["params"]
    if accum == 1:
        (loss, (carry, metrics)), grads = gradient(params, state["carry"], batch, key, progress)
        return loss, metrics, carry, grads

    def micro(carry: Carry, part: tuple[Batch, jax.Array]):
        (loss, (carry, metrics)), grads = gradient(params, carry, *part, progress)
        return carry, (loss, metrics, grads)

    # Rows r, r + accum, ...: each microbatch is spread over every device, as the batch is.
    parts = jax.tree.map(lambda x: x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(lambda: gradient(params, state["carry"], first, key, progress))
    (loss, (_, metrics)), grads = shapes
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (loss, metrics, grads))

    def add(total, part):
        carry, sums = total
        carry, new = micro(carry, part)
        return (carry, jax.tree.map(jnp.add, sums, new)), None

    (carry, sums), _ = jax.lax.scan(
        add, (state["carry"], zeros), (parts, jax.random.split(key, accum))
    )
    loss, metrics, grads = jax.tree.map(lambda x: x / accum, sums)
    return loss, metrics, carry, grads
