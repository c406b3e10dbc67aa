"""Gradient transformations that optax lacks: decay by factors, norms per layer of stacked weights,
weights that are skipped or temporarily frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eo_jax import rules
from eo_jax.schema import Params

# The steps [from, until) in which a weight is frozen; None for never.
Interval = tuple[int, int] | None


class StepState(NamedTuple):
    """The number of steps so far."""

    count: jax.Array


class FreezeState(NamedTuple):
    """The number of steps so far, and the state of the inner optimizer."""

    count: jax.Array
    inner: optax.OptState


def scale(scales: Params) -> optax.GradientTransformation:
    """Each update times its scale: a number, or an array that broadcasts to it."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))


def scale_by_rates(
    schedule: Callable[[jax.Array], jax.Array], constant_rate: float, constant: Params
) -> optax.GradientTransformation:
    """Each update times minus the scheduled rate, or minus `constant_rate` where `constant` is
    True.
    """

    def update(updates: Params, state: StepState, _: Params) -> tuple[Params, StepState]:
        rate = schedule(state.count)
        scaled = jax.tree.map(
            lambda u, is_constant: -(constant_rate if is_constant else rate) * u, updates, constant
        )
        return scaled, StepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda _: StepState(jnp.zeros((), jnp.int32)), update)


def clip_each(limit: float) -> optax.GradientTransformation:
    """Each gradient, per layer of a stack, scaled down to the norm `limit`; 1e-6 as in DINO's
    released code.
    """

    def clip(keys: tuple, gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, limit / (_norm(keys, gradient) + 1e-6))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(clip, updates))


def scale_by_trust(trust: float, factors: Params) -> optax.GradientTransformation:
    """Each update scaled to `trust` times the norm of its weight; unchanged where one of the norms
    or its factor is 0. optax's takes one norm of a whole stack of layers.
    """

    def rescale(keys: tuple, update: jax.Array, weight: jax.Array, factor: float) -> jax.Array:
        if not factor:
            return update
        update_norm, weight_norm = _norm(keys, update), _norm(keys, weight)
        ratio = trust * weight_norm / jnp.where(update_norm > 0, update_norm, 1.0)
        return update * jnp.where((weight_norm > 0) & (update_norm > 0), ratio, 1.0)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(rescale, updates, params, factors)
    )


def _norm(keys: tuple, leaf: jax.Array) -> jax.Array:
    """L2 norm of a weight, [1, 1, ...], or of each layer of a stack, [l, 1, ...]."""
    first = 1 if rules.is_stacked(rules.path_name(keys)) else 0
    return jnp.sqrt(jnp.sum(jnp.square(leaf), tuple(range(first, leaf.ndim)), keepdims=True))


def add_decay(
    schedule: Callable[[jax.Array], jax.Array | float], factors: Params
) -> optax.GradientTransformation:
    """Adds to each update its weight times the scheduled decay times its factor."""

    def update(updates: Params, state: StepState, params: Params) -> tuple[Params, StepState]:
        decay = schedule(state.count)
        decayed = jax.tree.map(
            lambda u, weight, factor: u + decay * factor * weight, updates, params, factors
        )
        return decayed, StepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda _: StepState(jnp.zeros((), jnp.int32)), update)


def scale_by_adam(
    beta1: float, beta2: float, epsilon: float, intervals: Params
) -> optax.GradientTransformation:
    """Adam's direction, bias-corrected by the number of steps in which a weight was not frozen, as
    PyTorch's counter per weight.
    """
    adam = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(
        updates: Params, state: optax.ScaleByAdamState, _: Params
    ) -> tuple[Params, optax.ScaleByAdamState]:
        directions, state = adam.update(updates, state)

        def corrected(
            direction: jax.Array, mu: jax.Array, nu: jax.Array, interval: Interval
        ) -> jax.Array:
            if interval is None:
                return direction
            start, stop = interval
            # At least 1, so that the values that are discarded while frozen are finite.
            count = jnp.maximum(state.count - jnp.clip(state.count - start, 0, stop - start), 1)
            mu, nu = (
                optax.tree.bias_correction(mu, beta1, count),
                optax.tree.bias_correction(nu, beta2, count),
            )
            return mu / (jnp.sqrt(nu) + epsilon)

        return jax.tree.map(corrected, directions, state.mu, state.nu, intervals), state

    return optax.GradientTransformation(adam.init, update)


def freeze(inner: optax.GradientTransformation, intervals: Params) -> optax.GradientTransformation:
    """`inner`, except that in its interval a weight has neither gradient nor update, and keeps its
    moments.
    """

    def update(updates: Params, state: FreezeState, params: Params) -> tuple[Params, FreezeState]:
        def hold(now: jax.Array, frozen: Any, interval: Interval) -> jax.Array:
            if interval is None:
                return now
            start, stop = interval
            return jnp.where((start <= state.count) & (state.count < stop), frozen, now)

        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, after = inner.update(
            jax.tree.map(hold, updates, zeros, intervals), state.inner, params
        )
        of_state = optax.tree.map_params(
            inner,
            lambda _, interval: interval,
            state.inner,
            intervals,
            transform_non_params=lambda _: None,
        )
        after = jax.tree.map(hold, after, state.inner, of_state)
        return jax.tree.map(hold, updates, zeros, intervals), FreezeState(
            optax.safe_increment(state.count), after
        )

    return optax.GradientTransformation(
        lambda params: FreezeState(jnp.zeros((), jnp.int32), inner.init(params)), update
    )


def skip_unused(
    inner: optax.GradientTransformation, per_sensor: Params
) -> optax.GradientTransformation:
    """`inner`, except that weights that are True in `per_sensor` are skipped in steps without their
    sensor, where their gradient is 0 everywhere.

    A skipped weight has no decay, no moments and no update, as PyTorch's optimizers skip a weight
    without gradient. LARS would scale the decay, all that is left, to the length of any other
    update. Adam's bias correction counts all steps, PyTorch's only those of the weight.
    """

    def update(
        updates: Params, state: optax.OptState, params: Params
    ) -> tuple[Params, optax.OptState]:
        absent = jax.tree.map(
            lambda gradient, owned: ~jnp.any(gradient) if owned else None, updates, per_sensor
        )

        def hold(now: jax.Array, before: Any, skipped: jax.Array | None) -> jax.Array:
            return now if skipped is None else jnp.where(skipped, before, now)

        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, after = inner.update(updates, state, params)
        of_state = optax.tree.map_params(
            inner, lambda _, skipped: skipped, state, absent, transform_non_params=lambda _: None
        )
        return jax.tree.map(hold, updates, zeros, absent), jax.tree.map(
            hold, after, state, of_state
        )

    return optax.GradientTransformation(inner.init, update)
