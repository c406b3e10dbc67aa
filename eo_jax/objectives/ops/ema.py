"""Exponential moving averages of weights, and the schedule of their momentum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eo_jax.schema import Params


def ema(teacher: Params, student: Params, momentum: float | jax.Array) -> Params:
    """momentum teacher + (1 - momentum) student, leaf by leaf."""
    return jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, teacher, student)


def cosine_ramp(start: float, end: float, progress: jax.Array) -> jax.Array:
    """From `start` at progress 0 to `end` at 1 along half a cosine, as teachers' momenta rise."""
    return end - (end - start) * (jnp.cos(jnp.pi * progress) + 1) / 2
