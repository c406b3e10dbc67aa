"""What changes the values of a view, not where they lie. Normalised values are physical ones but
for a scale and an offset a band.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Values of views, and a number a view.
Values = Float[Array, "b v h w c"]
Valid = Bool[Array, "b v h w c"]


def brightness(
    z: Values,
    valid: Valid,
    factor: Float[Array, "b v"],
    zero: Float[np.ndarray, " c"],
    lit: Bool[np.ndarray, " c"],
) -> Values:
    """Physical values of the bands that are `lit` times `factor`; `zero` is the normalised value of
    the physical 0.
    """
    more = jnp.where(lit, factor[..., None] - 1, 0.0)[:, :, None, None]
    return jnp.where(valid, z + more * (z - zero.astype(np.float32)), 0.0)


def contrast(z: Values, valid: Valid, factor: Float[Array, "b v"]) -> Values:
    """The distance of each band to its mean over the view's valid pixels, times `factor`."""
    count = valid.sum((2, 3), keepdims=True)
    mean = jnp.where(valid, z, 0.0).sum((2, 3), keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(valid, z + (_of_views(factor) - 1) * (z - mean), 0.0)


def grayscale(z: Values, valid: Valid, applied: Bool[Array, "b v"]) -> Values:
    """The mean of a pixel's valid bands in all its valid bands.

    Of normalised values: the same number reaches the network in every band, as in published code,
        which never normalised by band; units may differ
    between bands; and the spectrum that is left is the mean spectrum, brighter or darker, where
    equal reflectance in 202 bands is no spectrum of anything.
    """
    count = valid.sum(-1, keepdims=True)
    mean = jnp.where(valid, z, 0.0).sum(-1, keepdims=True) / jnp.maximum(count, 1)
    return jnp.where(_of_views(applied) & valid, mean, z)


def solarise(
    z: Values,
    valid: Valid,
    applied: Bool[Array, "b v"],
    low: Float[np.ndarray, " c"],
    high: Float[np.ndarray, " c"],
    share: float,
) -> Values:
    """Values from `low + share (high - low)` on, clipped to low..high and inverted in it; darker
    ones stay.
    """
    low, high = low.astype(np.float32), high.astype(np.float32)
    bright = z >= low + np.float32(share) * (high - low)
    return jnp.where(_of_views(applied) & valid & bright, low + high - jnp.clip(z, low, high), z)


def add_noise(z: Values, valid: Valid, key: jax.Array, std: float) -> Values:
    """Gaussian noise, independent in all values."""
    return jnp.where(valid, z + std * jax.random.normal(key, z.shape), 0.0)


def drop_bands(z: Values, key: jax.Array, count: Int[Array, "b v"]) -> Values:
    """`count` bands of each view, drawn evenly, set to 0."""
    noise = jax.random.uniform(key, (*count.shape, z.shape[-1]))
    smallest_kept = jnp.take_along_axis(jnp.sort(noise), count[..., None], axis=-1)
    return jnp.where((noise < smallest_kept)[:, :, None, None], 0.0, z)


def _of_views(x: Array) -> Array:
    return x[:, :, None, None, None]
