"""Gaussian blur as a small matrix times the resampling matrix: a blurred view costs no extra pass
over its pixels.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def blur_matrix(sigma: Float[Array, ""], size: int, kernel: int) -> Float[Array, "s s"]:
    """Weights that blur `size` pixels with a Gaussian of `kernel` taps.

    Borders mirror the image without repeating the outermost pixel, as kornia's "reflect" and
    OpenCV's default. Sigma is in pixels; 0 gives the identity. The kernel spans at most one mirror
    image: kernel < 2 size.
    """
    i, j = jnp.arange(size)[:, None], jnp.arange(size)
    images = (
        i - j,
        jnp.where(j > 0, i + j, kernel),
        jnp.where(j < size - 1, 2 * (size - 1) - i - j, kernel),
    )
    weights = sum(_tap(distance, sigma, kernel) for distance in images)
    return weights / weights.sum(axis=1, keepdims=True)


def _tap(distance: Array, sigma: Array, kernel: int) -> Array:
    # With a sigma of 0.001 the neighbours' weight exp(-500000) is exactly 0.
    bell = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(sigma, 1e-3)))
    return jnp.where(jnp.abs(distance) <= kernel // 2, bell, 0.0)
