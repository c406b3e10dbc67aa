"""Distortions of a view's values. Normalised values are physical ones except for a scale and an
offset per band.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Values of views and their valid masks.
Values = Float[Array, "b v h w c"]
Valid = Bool[Array, "b v h w c"]


def brightness(
    z: Values,
    valid: Valid,
    factor: Float[Array, "b v"],
    zero: Float[np.ndarray, " c"],
    lit: Bool[np.ndarray, " c"],
) -> Values:
    """Physical values of the reflective bands times `factor`.

    Args:
        zero: the normalised value of the physical 0.
        lit: which bands are reflective.
    """
    more = jnp.where(lit, factor[..., None] - 1, 0.0)[:, :, None, None]
    return jnp.where(valid, z + more * (z - zero.astype(np.float32)), 0.0)


def contrast(z: Values, valid: Valid, factor: Float[Array, "b v"]) -> Values:
    """The distance of each band from its mean over the view's valid pixels, times `factor`."""
    count = valid.sum((2, 3), keepdims=True)
    mean = jnp.where(valid, z, 0.0).sum((2, 3), keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(valid, z + (_of_views(factor) - 1) * (z - mean), 0.0)


def shift(
    z: Values,
    valid: Valid,
    amount: Float[Array, "b v"],
    applied: Bool[Array, "b v"],
    low: Float[np.ndarray, " c"],
    high: Float[np.ndarray, " c"],
) -> Values:
    """Adds `amount` of the physical range, low..high in normalised values, and clips to it:
    kornia's `adjust_brightness`.
    """
    low, high = low.astype(np.float32), high.astype(np.float32)
    shifted = jnp.clip(z + _of_views(amount) * (high - low), low, high)
    return jnp.where(valid, jnp.where(_of_views(applied), shifted, z), 0.0)


def stretch(
    z: Values,
    valid: Valid,
    factor: Float[Array, "b v"],
    applied: Bool[Array, "b v"],
    low: Float[np.ndarray, " c"],
    high: Float[np.ndarray, " c"],
) -> Values:
    """Distances from the low end of the physical range times `factor`, clipped to low..high:
    kornia's `adjust_contrast`.
    """
    low, high = low.astype(np.float32), high.astype(np.float32)
    stretched = jnp.clip(low + _of_views(factor) * (z - low), low, high)
    return jnp.where(valid, jnp.where(_of_views(applied), stretched, z), 0.0)


def grayscale(z: Values, valid: Valid, applied: Bool[Array, "b v"]) -> Values:
    """The mean of a pixel's valid bands in all its valid bands.

    The mean is over normalised values, for three reasons. The network sees the same number in
    every band, as in published code, which never normalised per band. Units may differ between
    bands. And the remaining spectrum is the mean spectrum, brighter or darker, whereas equal
    reflectance in 202 bands is not the spectrum of any material.
    """
    count = valid.sum(-1, keepdims=True)
    mean = jnp.where(valid, z, 0.0).sum(-1, keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(valid, jnp.where(_of_views(applied), mean, z), 0.0)


def solarise(
    z: Values,
    valid: Valid,
    applied: Bool[Array, "b v"],
    low: Float[np.ndarray, " c"],
    high: Float[np.ndarray, " c"],
    threshold: float,
) -> Values:
    """Clips values from `low + threshold (high - low)` on to low..high and inverts them within it;
    darker ones do not change.
    """
    low, high = low.astype(np.float32), high.astype(np.float32)
    bright = z >= low + np.float32(threshold) * (high - low)
    inverted = jnp.where(_of_views(applied) & bright, low + high - jnp.clip(z, low, high), z)
    return jnp.where(valid, inverted, 0.0)


def add_noise(z: Values, valid: Valid, key: jax.Array, std: float) -> Values:
    """Adds Gaussian noise, independent for each value."""
    return jnp.where(valid, z + std * jax.random.normal(key, z.shape), 0.0)


def drop_bands(z: Values, key: jax.Array, count: Int[Array, "b v"]) -> Values:
    """Sets `count` bands of each view, drawn uniformly, to 0."""
    noise = jax.random.uniform(key, (*count.shape, z.shape[-1]))
    smallest_kept = jnp.take_along_axis(jnp.sort(noise), count[..., None], axis=-1)
    return jnp.where((noise < smallest_kept)[:, :, None, None], 0.0, z)


def _of_views(x: Array) -> Array:
    return x[:, :, None, None, None]
