"""One train step for every objective: views, loss, gradient, optimizer, teacher. No `if objective`
anywhere. And the step of an experiment on a mesh: its state placed, compiled once per component.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eo_jax import sharding, spikes
from eo_jax.fixed_step import FixedStep
from eo_jax.gradient import make_gradient
from eo_jax.objectives.base import Objective
from eo_jax.objectives.features import make_pooled
from eo_jax.optim.optimizers import make_optimizer
from eo_jax.schema import Batch, Carry, Metrics, Params, TrainState, Views


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
        watched = _watched(experiment.data) if optim.spike_sigma else ()
        make_state = functools.partial(init_state, objective, optimizer, run.seed, watched)
        shapes = jax.eval_shape(make_state)
        self.placement = sharding.state_sharding(experiment.sharding, shapes, mesh)
        self.shapes = sharding.with_sharding(shapes, self.placement)
        inputs = self.placement, sharding.batch_sharding(mesh)
        replicated = NamedSharding(mesh, PartitionSpec())
        step = make_train_step(
            objective,
            optimizer,
            recipe.train,
            seed=run.seed,
            steps=run.steps,
            accum=optim.accum,
            spike_sigma=optim.spike_sigma,
            of_gradient=self.placement["params"],
        )
        step = sharding.fetching_moments(experiment.sharding, self.placement, step)
        pooled = make_pooled(objective, recipe.evaluate, experiment.same_encoder)
        self._init = jax.jit(make_state, out_shardings=self.placement)
        self.step = jax.jit(
            sharding.on_mesh(mesh, step),
            donate_argnums=0,
            in_shardings=inputs,
            out_shardings=(self.placement, replicated),
        )
        self.pooled = jax.jit(
            sharding.on_mesh(mesh, pooled), in_shardings=inputs, out_shardings=replicated
        )

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
                FixedStep(self.step.lower(self.shapes, batch).compile(options), self.shapes, batch),
                self.pooled.lower(self.shapes, batch).compile(),
            )
            for component, batch in batches.items()
        }


class CompiledStep(NamedTuple):
    """The compiled train step of a mixture component, and the pass for its collapse metrics."""

    step: FixedStep
    pooled: jax.stages.Compiled


def _watched(data: Any) -> tuple[tuple[str, ...], ...]:
    """The sources of each mixture component."""
    components = data.mixture.values()
    return tuple(component.sources for component in components) or (tuple(data.sources),)


def init_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    watched: Iterable[Iterable[str]] = (),
) -> TrainState:
    """Step 0; `watched` are the sources of each mixture component whose losses are remembered."""
    params, carry = objective.init(jax.random.key(seed))
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "carry": carry,
        "optimizer": optimizer.init(params),
        "recent_losses": {_name_of(sources): spikes.empty() for sources in watched},
    }


def _name_of(batch: Iterable[str]) -> str:
    """The sources of a batch, or of views in its place."""
    return "+".join(sorted({name.partition("/")[0] for name in batch}))


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    make_views: Callable[[Batch, jax.Array], Views],
    *,
    seed: int,
    steps: int,
    accum: int,
    spike_sigma: float = 0.0,
    of_gradient: Any = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure function (state, batch) -> (state, metrics); jit it with donated state.

    All randomness comes from fold_in(seed, step). A step whose loss, gradient or carry is not
    finite, or whose loss is a spike (see `spikes.py`), leaves the state unchanged, except for the
    step number and the recent losses.

    Args:
        of_gradient: a sharding for every gradient; None leaves them to XLA.
    """
    gradient = make_gradient(objective, make_views, seed=seed, steps=steps, accum=accum)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, metrics, carry, grads = gradient(state, batch)
        if of_gradient is not None:
            grads = jax.lax.with_sharding_constraint(grads, of_gradient)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        finite &= _changes_are_finite(state["carry"], carry)
        recent, spike = _judged(state["recent_losses"], batch, loss, spike_sigma)
        used = {name: state[name] for name in ("params", "carry", "optimizer")}

        def advanced() -> TrainState:
            updates, opt_state = optimizer.update(grads, used["optimizer"], used["params"])
            params = optax.apply_updates(used["params"], updates)
            return {
                "params": params,
                "carry": objective.ema_update(params, carry, state["step"] / steps),
                "optimizer": opt_state,
            }

        learns = finite & ~spike
        new = _if_it_learns(learns, advanced, used)
        metrics = {"loss": loss, **metrics, "grad_norm": grad_norm}
        metrics |= {"skipped": 1.0 - learns, "spike": 1.0 * spike}
        return {**new, "step": state["step"] + 1, "recent_losses": recent}, metrics

    return train_step


def _judged(
    recent: dict[str, spikes.Recent], batch: Batch, loss: jax.Array, sigma: float
) -> tuple[dict[str, spikes.Recent], jax.Array]:
    """(the recent losses with this one, whether it is a spike among those of its component)."""
    if not sigma:
        return recent, jnp.zeros((), bool)
    component = _name_of(batch)
    before = recent[component]
    return {**recent, component: spikes.with_loss(before, loss)}, spikes.is_spike(
        before, loss, sigma
    )


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


def _if_it_learns(
    learns: jax.Array, advanced: Callable[[], TrainState], state: TrainState
) -> TrainState:
    """`advanced()`, or the state as it was.

    A branch on CPU, where selecting leaf by leaf keeps XLA from updating moments in place (the
    update of 69M weights takes five times longer). Leaf by leaf on accelerators, where that is free
    and a branch would wait for the gradient on the host.
    """

    def select() -> TrainState:
        return jax.tree.map(
            lambda after, before: jnp.where(learns, after, before), advanced(), state
        )

    return jax.lax.platform_dependent(
        cpu=lambda: jax.lax.cond(learns, advanced, lambda: state), default=select
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
