"""Uniform random numbers, one per view and random decision, and the decisions made from them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# A new decision is appended, so that the others keep their numbers.
_DECISIONS = (
    "date",
    "jitter",
    "brightness",
    "contrast",
    "grey",
    "blur",
    "sigma",
    "solarise",
    "band_drop",
    "band_count",
    "contrast_jitter",
)
Uniforms = dict[str, Float[Array, "b v"]]


def draw(key: jax.Array, rows: int, views: int) -> Uniforms:
    """One number per decision and view, all drawn at once: each draw takes half a second to
    compile.
    """
    return dict(
        zip(_DECISIONS, jax.random.uniform(key, (len(_DECISIONS), rows, views)), strict=True)
    )


def bernoulli(u: Float[Array, "b v"], probs: tuple[float, ...]) -> Bool[Array, "b v"]:
    """True with probability `probs`, one for all views or one per view."""
    return u < np.float32(probs)


def uniform(u: Float[Array, "b v"], limits: tuple[float, float]) -> Float[Array, "b v"]:
    """A number from a range."""
    return limits[0] + u * (limits[1] - limits[0])


def randint(u: Float[Array, "b v"], first: int, last: int) -> Int[Array, "b v"]:
    """An integer from a range, both ends included."""
    return first + jnp.floor(u * (last + 1 - first)).astype(int)
