"""Losses far above the recent ones: a step with one leaves the state unchanged.

The rule is that of OLMo-core's SkipStepOptimizer, for the loss alone: one is a spike if it is more
than `sigma` standard deviations above the mean of the last 128. Spikes are remembered like any
loss, so that where losses stay at a higher level, as after a change in the schedule of a recipe,
only a few steps in a row are skipped: four for a sigma of 6, see `most_in_a_row`. A loss that is
not finite is not remembered: a single one would make all of the next 128 comparisons false. Mixture
components have levels of their own, and a window each.
"""

from __future__ import annotations

import math
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


def most_in_a_row(sigma: float) -> int:
    """The most spikes in a row where losses stay at one higher level.

    Among n losses, k of them far above the others by one and the same amount, that amount is
    sqrt((n - k) / k) standard deviations above the mean: no longer a spike when k is
    n / (1 + sigma^2).
    """
    return math.ceil(WINDOW / (1 + sigma**2))


def check_sigma(sigma: float, max_skipped: int) -> None:
    """Raises ValueError where spikes alone, of losses that stay at a higher level, would end a run.

    Args:
        max_skipped: steps in a row that may be skipped.
    """
    if sigma and (most := most_in_a_row(sigma)) > max_skipped:
        least = math.ceil(10 * math.sqrt(WINDOW / max_skipped - 1)) / 10
        raise ValueError(
            f"config.optim.spike_sigma: {sigma:g}; where losses stay at a higher level, {most} "
            f"steps in a row would be spikes, and config.run.max_skipped, {max_skipped}, ends the "
            f"run before; expected at least {least:g}, or 0 for never, or max_skipped of at least "
            f"{most}"
        )


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
