"""Even numbers in [0, 1), one a view for everything that is decided by chance, and what is made of
them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# A new one goes to the end and leaves the others as they were.
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
)
Uniforms = dict[str, Float[Array, "b v"]]


def draw(key: jax.Array, rows: int, views: int) -> Uniforms:
    """One number for each decision and view; drawn at once, since every draw takes half a second to
    compile.
    """
    return dict(
        zip(_DECISIONS, jax.random.uniform(key, (len(_DECISIONS), rows, views)), strict=True)
    )


def bernoulli(chance: Float[Array, "b v"], probs: tuple[float, ...]) -> Bool[Array, "b v"]:
    """True with `probs`, one for all views or one a view."""
    return chance < np.float32(probs)


def uniform(chance: Float[Array, "b v"], limits: tuple[float, float]) -> Float[Array, "b v"]:
    """A number from a range."""
    return limits[0] + chance * (limits[1] - limits[0])


def randint(chance: Float[Array, "b v"], first: int, last: int) -> Int[Array, "b v"]:
    """A whole number from a range, both ends included."""
    return first + jnp.floor(chance * (last + 1 - first)).astype(int)
