"""Gradient transformations that optax lacks: decay by factors, norms of single layers in stacked
weights, weights that rest or are frozen a while.
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
    """Steps so far."""

    count: jax.Array


class FreezeState(NamedTuple):
    """Steps so far, and the state of the optimizer inside."""

    count: jax.Array
    inner: optax.OptState


def scale(scales: Params) -> optax.GradientTransformation:
    """Each update times its number, or times an array that broadcasts to it."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))


def scale_by_rates(
    schedule: Callable[[jax.Array], jax.Array], constant_rate: float, constant: Params
) -> optax.GradientTransformation:
    """Each update times minus the scheduled rate; times minus `constant_rate` where `constant` says
    so.
    """

    def update(updates: Params, state: StepState, _: Params) -> tuple[Params, StepState]:
        rate = schedule(state.count)
        scaled = jax.tree.map(
            lambda u, is_constant: -(constant_rate if is_constant else rate) * u, updates, constant
        )
        return scaled, StepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda _: StepState(jnp.zeros((), jnp.int32)), update)


def clip_each(limit: float) -> optax.GradientTransformation:
    """Each gradient, of each layer in a stack, scaled down to the norm `limit`; 1e-6 as in DINO's
    released code.
    """

    def clip(keys: tuple, gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, limit / (_norm(keys, gradient) + 1e-6))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(clip, updates))


def scale_by_trust(trust: float, factors: Params) -> optax.GradientTransformation:
    """Each update scaled to `trust` times the norm of its weight, or left alone where one of them
    is 0 or its share is 0.

    Not optax's, which takes one norm of a whole stack of layers.
    """

    def scaled(keys: tuple, update: jax.Array, weight: jax.Array, share: float) -> jax.Array:
        if not share:
            return update
        update_norm, weight_norm = _norm(keys, update), _norm(keys, weight)
        ratio = trust * weight_norm / jnp.where(update_norm > 0, update_norm, 1.0)
        return update * jnp.where((weight_norm > 0) & (update_norm > 0), ratio, 1.0)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params, factors)
    )


def _norm(keys: tuple, leaf: jax.Array) -> jax.Array:
    """L2 norm of a weight, shape [1, 1, ...]; of each layer of a stack, [l, 1, ...]."""
    first = 1 if rules.is_stacked(rules.path_name(keys)) else 0
    return jnp.sqrt(jnp.sum(jnp.square(leaf), tuple(range(first, leaf.ndim)), keepdims=True))


def add_decay(
    schedule: Callable[[jax.Array], jax.Array | float], factors: Params
) -> optax.GradientTransformation:
    """Adds to each update its weight times the scheduled decay times its share."""

    def update(updates: Params, state: StepState, params: Params) -> tuple[Params, StepState]:
        decay = schedule(state.count)
        decayed = jax.tree.map(
            lambda u, weight, share: u + decay * share * weight, updates, params, factors
        )
        return decayed, StepState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda _: StepState(jnp.zeros((), jnp.int32)), update)


def scale_by_adam(
    beta1: float, beta2: float, epsilon: float, intervals: Params
) -> optax.GradientTransformation:
    """Adam's direction, bias-corrected for the steps in which a weight was not frozen, as PyTorch's
    counter of each weight does.
    """
    adam = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(
        updates: Params, state: optax.ScaleByAdamState, _: Params
    ) -> tuple[Params, optax.ScaleByAdamState]:
        directions, state = adam.update(updates, state)

        def corrected(
            direction: jax.Array, mu: jax.Array, nu: jax.Array, span: Interval
        ) -> jax.Array:
            if span is None:
                return direction
            # At least one, so that what is thrown away while frozen is finite.
            count = jnp.maximum(
                state.count - jnp.clip(state.count - span[0], 0, span[1] - span[0]), 1
            )
            mu, nu = (
                optax.tree.bias_correction(mu, beta1, count),
                optax.tree.bias_correction(nu, beta2, count),
            )
            return mu / (jnp.sqrt(nu) + epsilon)

        return jax.tree.map(corrected, directions, state.mu, state.nu, intervals), state

    return optax.GradientTransformation(adam.init, update)


def freeze(inner: optax.GradientTransformation, intervals: Params) -> optax.GradientTransformation:
    """`inner`, but in its span a weight has neither gradient nor update, and its moments stay as
    they are.
    """

    def update(updates: Params, state: FreezeState, params: Params) -> tuple[Params, FreezeState]:
        def hold(now: jax.Array, frozen: Any, span: Interval) -> jax.Array:
            return (
                now
                if span is None
                else jnp.where((span[0] <= state.count) & (state.count < span[1]), frozen, now)
            )

        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, after = inner.update(
            jax.tree.map(hold, updates, zeros, intervals), state.inner, params
        )
        of_state = optax.tree.map_params(
            inner, lambda _, span: span, state.inner, intervals, transform_non_params=lambda _: None
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
    """`inner`, but weights that are used `per_sensor` (a bool each) rest in a step without them,
    which is where their gradient is 0 everywhere: no decay, no moments, no update, as PyTorch's
    optimizers pass over a weight without gradient. LARS would scale what is left, the decay alone,
    to the length of any other update. Adam's correction of its moments for the first steps counts
    all steps, PyTorch's those of the weight.
    """

    def update(
        updates: Params, state: optax.OptState, params: Params
    ) -> tuple[Params, optax.OptState]:
        absent = jax.tree.map(
            lambda gradient, turn: ~jnp.any(gradient) if turn else None, updates, per_sensor
        )

        def hold(now: jax.Array, before: Any, resting: jax.Array | None) -> jax.Array:
            return now if resting is None else jnp.where(resting, before, now)

        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, after = inner.update(updates, state, params)
        of_state = optax.tree.map_params(
            inner, lambda _, resting: resting, state, absent, transform_non_params=lambda _: None
        )
        return jax.tree.map(hold, updates, zeros, absent), jax.tree.map(
            hold, after, state, of_state
        )

    return optax.GradientTransformation(inner.init, update)
