"""One train step for every objective: views, loss, gradient, optimizer, teacher. No `if objective` anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eo_jax.objectives.base import Objective
from eo_jax.schema import Batch, Carry, Metrics, Params, Views

# {"step": int32, "params": Params, "carry": Carry, "optimizer": optax state}
TrainState = dict[str, Any]


def init_state(objective: Objective, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Step 0."""
    params, carry = objective.init(jax.random.key(seed))
    return {"step": jnp.zeros((), jnp.int32), "params": params, "carry": carry, "optimizer": optimizer.init(params)}


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    make_views: Callable[[Batch, jax.Array], Views],
    *,
    seed: int,
    steps: int,
    accum: int,
    log_every: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure function (state, batch) -> (state, metrics); jit it with donated state.

    All randomness comes from fold_in(seed, step). A step whose loss or gradient is not finite leaves everything as it was, except the step number.
    On CPU, norms of weights and updates are NaN in steps that `is_logged` leaves out.
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
            return {"step": state["step"], "params": params, "carry": objective.ema_update(params, carry, progress), "optimizer": opt_state}

        logged = is_logged(state["step"] + 1, log_every, steps)
        new, norms = _if_finite(finite, logged | ~finite, advanced, state)
        metrics = {"loss": loss, **metrics, "grad_norm": grad_norm, **norms, "skipped": 1.0 - finite}
        return {**new, "step": state["step"] + 1}, metrics

    return train_step


def is_logged(step: int | jax.Array, log_every: int, steps: int) -> bool | jax.Array:
    """Whether the metrics of a step, counted from 1, go into the log: those of the first, of the last and of every so many."""
    return (step % log_every == 0) | (step == 1) | (step == steps)


def _if_finite(finite: jax.Array, measured: jax.Array, advanced: Callable[[], TrainState], state: TrainState) -> tuple[TrainState, Metrics]:
    """(`advanced()`, or the state as it was, its norms).

    On CPU by branches. Selecting leaf by leaf keeps XLA from updating moments in place, which makes the update of 69M weights five times slower; and
    norms read all weights three times, 5 % of a small step, so they are made where they are `measured`, else NaN.
    On accelerators leaf by leaf: that costs nothing there, and a branch would wait for the gradient on the host.
    """

    def select() -> tuple[TrainState, Metrics]:
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), advanced(), state)
        return new, _norms(new, state)

    def branch() -> tuple[TrainState, Metrics]:
        new = jax.lax.cond(finite, advanced, lambda: state)
        unknown = dict.fromkeys(("update_norm", "param_norm"), jnp.nan)
        return new, jax.lax.cond(measured, lambda: _norms(new, state), lambda: unknown)

    return jax.lax.platform_dependent(cpu=branch, default=select)


def _norms(new: TrainState, old: TrainState) -> Metrics:
    moved = jax.tree.map(jnp.subtract, new["params"], old["params"])
    return {"update_norm": optax.tree.norm(moved), "param_norm": optax.tree.norm(new["params"])}


def _accumulate(gradient: Callable, state: TrainState, batch: Batch, key: jax.Array, progress: jax.Array, accum: int):
    """Loss, metrics and gradients averaged over `accum` microbatches, the carry threaded through them in order."""
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

    (carry, sums), _ = jax.lax.scan(add, (state["carry"], zeros), (parts, jax.random.split(key, accum)))
    loss, metrics, grads = jax.tree.map(lambda x: x / accum, sums)
    return loss, metrics, carry, grads
