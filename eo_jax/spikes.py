"""Losses far above the recent ones: a step with one leaves the state unchanged.

The rule is that of OLMo-core's SkipStepOptimizer, for the loss alone: one is a spike if it is more
than `sigma` standard deviations above the mean of the last 128. Spikes are remembered like any
loss, so that where losses stay high, as after a change in the schedule of a recipe, at most four
steps in a row are skipped. A loss that is not finite is not remembered: a single one would make all
of the next 128 comparisons false. Mixture components have levels of their own, and a window each.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

WINDOW = 128  # losses; before so many, nothing is a spike


class Recent(NamedTuple):
    """The last losses of a mixture component.

    Attributes:
        losses: float32 [WINDOW], in no order.
        count: int32, how many have been remembered since step 0.
    """

    losses: jax.Array
    count: jax.Array


def empty() -> Recent:
    """Before step 0."""
    return Recent(jnp.zeros(WINDOW, jnp.float32), jnp.zeros((), jnp.int32))


def is_spike(recent: Recent, loss: jax.Array, sigma: float) -> jax.Array:
    """Whether a loss is more than `sigma` standard deviations above the mean of the recent ones."""
    limit = jnp.mean(recent.losses) + sigma * jnp.std(recent.losses)
    return (recent.count >= WINDOW) & (loss > limit)


def with_loss(recent: Recent, loss: jax.Array) -> Recent:
    """With one more loss in place of the oldest, unless it is not finite."""
    finite = jnp.isfinite(loss)
    at = recent.count % WINDOW
    losses = recent.losses.at[at].set(jnp.where(finite, loss, recent.losses[at]))
    return Recent(losses, recent.count + finite)
