"""The gradient of a train step, and the views that it is taken on: functions of (state, batch)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eo_jax.objectives.base import Objective
from eo_jax.schema import Batch, Carry, Metrics, Params, TrainState, Views


def make_gradient(
    objective: Objective,
    make_views: Callable[[Batch, jax.Array], Views],
    *,
    seed: int,
    steps: int,
    accum: int,
) -> Callable[[TrainState, Batch], tuple[jax.Array, Metrics, Carry, Params]]:
    """The function (state, batch) -> (loss, metrics, carry, gradient) of a train step."""

    def micro_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array, progress: jax.Array):
        view_key, loss_key = jax.random.split(key)
        views = make_views(batch, view_key)
        loss, (carry, metrics) = objective.loss(params, carry, views, loss_key, progress)
        return loss, (carry, metrics | _valid_fractions(views))

    micro_gradient = jax.value_and_grad(micro_loss, has_aux=True)

    def gradient(state: TrainState, batch: Batch):
        key = _key_of_step(seed, state)
        return _accumulate(micro_gradient, state, batch, key, state["step"] / steps, accum)

    return gradient


def make_views_of_step(
    make_views: Callable[[Batch, jax.Array], Views], *, seed: int, accum: int
) -> Callable[[TrainState, Batch], Views]:
    """The function (state, batch) -> the views of a train step, or of its first microbatch."""

    def views(state: TrainState, batch: Batch) -> Views:
        key = _key_of_step(seed, state)
        if accum > 1:
            batch, key = _first_part(_parts(batch, accum)), jax.random.split(key, accum)[0]
        view_key, _ = jax.random.split(key)
        return make_views(batch, view_key)

    return views


def _key_of_step(seed: int, state: TrainState) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), state["step"])


def _valid_fractions(views: Views) -> Metrics:
    """{"valid_fraction/<source>": the fraction of pixels in its views that have any valid band}.

    Counting all valid values instead would read twice the memory, 2 % of that of a small step on
    202 bands.
    """
    masks: dict[str, list[jax.Array]] = {}
    for name, value in views.items():
        source, _, field = name.partition("/")
        if field.endswith("/valid"):
            masks.setdefault(f"valid_fraction/{source}", []).append(value.any(-1))
    return {
        name: sum(jnp.mean(mask, dtype=jnp.float32) for mask in of_source) / len(of_source)
        for name, of_source in masks.items()
    }


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

    parts = _parts(batch, accum)
    first = _first_part(parts)
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


def _parts(batch: Batch, accum: int) -> Batch:
    """[accum, rows, ...]: rows r, r + accum, ... each, so that every microbatch is spread over all
    devices, as the batch is.
    """
    return jax.tree.map(lambda x: x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1), batch)


def _first_part(parts: Batch) -> Batch:
    return jax.tree.map(lambda x: x[0], parts)
