"""From digital numbers to normalised values, and what counts as data."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num


def normalise(
    digital_numbers: Num[Array, "b c h w"],
    gain: Float[Array, " b"],
    mean: Float[np.ndarray, " c"],
    std: Float[np.ndarray, " c"],
    nodata: int | float | None,
) -> tuple[Float[Array, "b c h w"], Bool[Array, "b c h w"]]:
    """((gain x - mean) / std, 0 where there is no data; where there is data). NaN and infinity count as no data.

    Products whose physical zero is the digital number 0 (reflectance) may take a gain other than 1.
    """
    x = digital_numbers.astype(jnp.float32)
    valid = jnp.isfinite(x) if nodata is None else (x != nodata) & jnp.isfinite(x)
    z = (gain[:, None, None, None] * x - jnp.asarray(mean, jnp.float32)[:, None, None]) / jnp.asarray(std, jnp.float32)[:, None, None]
    return jnp.where(valid, z, 0.0), valid
