"""One train step for every objective: views, loss, gradient, optimizer, teacher. No `if objective`
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eo_jax.objectives.base import Objective, features_of
from eo_jax.schema import Batch, Carry, Metrics, Params, Views

# {"step": int32, "params": Params, "carry": Carry, "optimizer": optax state}
TrainState = dict[str, Any]

# samples of a batch whose features are watched: what their decomposition costs is bounded, whatever
# the batch
_WATCHED = 256


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

    All randomness comes from fold_in(seed, step). A step whose loss or gradient is not finite
    leaves everything as it was, except the step number.
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


def _if_finite(
    finite: jax.Array, advanced: Callable[[], TrainState], state: TrainState
) -> TrainState:
    """`advanced()`, or the state as it was.

    On CPU by a branch: selecting leaf by leaf keeps XLA from updating moments in place, which makes
        the update of 69M weights five times slower.
    On accelerators leaf by leaf: that costs nothing there, and a branch would wait for the gradient
        on the host.
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
    """The "param_norm" of the weights after a step, and "update_norm", how far they moved in it.

    Beside the train step, for the steps that are logged: a step that gives them keeps the old
        weights until the new ones are made, 4 % of a small one
    on CPU. A skipped step that is logged out of turn has neither.
    """
    moved = jax.tree.map(jnp.subtract, after, before)
    return {"update_norm": optax.tree.norm(moved), "param_norm": optax.tree.norm(after)}


def make_pooled(
    objective: Objective,
    make_views: Callable[[Batch], Views],
    same_encoder: Mapping[str, Sequence[str]],
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
    """The pure function (state, batch) -> {"pooled/<source>": features [m, d]} in evaluation mode
    of at most 256 samples, spread over the batch.

    Beside the train step, for the steps that are logged, as `norms` are: the watch on collapse
    takes them apart on the host. Sources without an encoder have none.

    Args:
        make_views: batch -> Views without augmentation.
        same_encoder: {source: names of the sources that share its encoder, its own among them}.
    """

    def pooled(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        weights = state["params"], state["carry"]
        encoded = {found["source"] for found in objective.encoders(*weights).values()}
        shown = {
            source: {"pixels": _subsample(fields["pixels"])}
            for source, fields in batch.items()
            if encoded & set(same_encoder[source])
        }
        views = make_views(shown)
        return {
            f"pooled/{source}": features_of(
                objective, *weights, views, source, same_encoder[source]
            )["pooled"]
            for source in shown
        }

    return pooled


def _subsample(rows: jax.Array) -> jax.Array:
    """Every k-th row: where there are enough for all devices, each keeps some of its own."""
    return rows[:: -(-len(rows) // _WATCHED)]


def _accumulate(
    gradient: Callable,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    progress: jax.Array,
    accum: int,
):
    """Loss, metrics and gradients averaged over `accum` microbatches, the carry threaded through
    them in order.
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
