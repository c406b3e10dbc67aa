"""From digital numbers to normalised values: the valid mask, the physical zero, and the range of a
sensor.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from eo_jax.sensors import Sensor


def valid_values(
    digital_numbers: Num[Array, "*n c h w"], nodata: int | float | None
) -> Bool[Array, "*n c h w"]:
    """The valid mask. NaN and infinity are not data."""
    finite = jnp.isfinite(digital_numbers)
    return finite if nodata is None else (digital_numbers != nodata) & finite


def normalise(
    x: Float[Array, "*#n c h w"],
    valid: Bool[Array, "*#n c h w"],
    mean: Float[np.ndarray, " c"],
    std: Float[np.ndarray, " c"],
) -> Float[Array, "*#n c h w"]:
    """(x - mean) / std of digital numbers; 0 where there is no data."""
    return jnp.where(valid, (x - _planes(mean)) / _planes(std), 0.0)


def brighten(
    x: Float[Array, "*#n c h w"], factor: Float[Array, "*#n 1 1 1"], sensor: Sensor
) -> Float[Array, "*#n c h w"]:
    """Digital numbers whose physical values are `factor` times those of `x`. Bands that are not
    reflective do not change.
    """
    zero, lit = physical_zero(sensor), reflective(sensor)
    if not zero.any() and lit.all():
        return factor * x
    return jnp.where(lit[:, None, None], factor * (x - _planes(zero)) + _planes(zero), x)


def reflective(sensor: Sensor) -> Bool[np.ndarray, " c"]:
    """Which bands grow with the light on the ground, unlike temperatures, decibels and heights."""
    return np.array([band.kind == "reflective" for band in sensor.bands])


def physical_zero(sensor: Sensor) -> Float[np.ndarray, " c"]:
    """Digital number of the physical value 0: 1000 in Sentinel-2 products with an offset."""
    return -sensor.offsets / sensor.scales + 0.0  # + 0.0: no negative zeros


def physical_ranges(sensor: Sensor) -> list[tuple[float, float] | None]:
    """(lowest, highest) digital number of each band: 0..255 of uint8, 0..1 of reflectance; None
    where unknown.

    Archives in uint8 were scaled to the relevant range: reflectance 0..0.4 of SSL4EO-L is 0..255.
    """
    if sensor.dtype == "uint8":
        return [(0.0, 255.0)] * len(sensor.bands)
    return [
        tuple(sorted(((0 - offset) / scale, (1 - offset) / scale)))
        if (band.units or sensor.units).endswith("reflectance")
        else None
        for band, scale, offset in zip(
            sensor.bands, sensor.scales.tolist(), sensor.offsets.tolist(), strict=True
        )
    ]


def _planes(values: np.ndarray) -> Array:
    return jnp.asarray(values, jnp.float32)[:, None, None]
