"""Bilinear samples of images, in float32 and with gradients that a GPU sums in a fixed order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# HIGHEST, so that matrix units keep float32.
EXACT = jax.lax.Precision.HIGHEST


def sample_bilinear(
    image: Float[Array, "b h w c"], points: Float[Array, "b p 2"]
) -> Float[Array, "b p c"]:
    """Bilinear samples of the image at points (row, column) in cells; the image is 0 outside.
    Weights and sums are float32.

    This is PyTorch's grid_sample with align_corners, whose -1 and 1 are the first and the last cell
    here. It is written as a product with a weight for every cell: the gradient of a gather would be
    a scatter, which a GPU sums in no fixed order.
    """
    rows, columns = (cell_weights(points[..., i], image.shape[i + 1]) for i in (0, 1))
    weights = rows[..., :, None] * columns[..., None, :]
    sampled = jnp.einsum("bphw,bhwc->bpc", weights, image.astype(jnp.float32), precision=EXACT)
    return sampled.astype(image.dtype)


def cell_weights(position: Float[Array, "*p"], cells: int) -> Float[Array, "*p n"]:
    """Weight of each cell of a row or column in a sample at `position`."""
    distance = jnp.abs(position[..., None] - jnp.arange(cells, dtype=jnp.float32))
    return jnp.maximum(0.0, 1.0 - distance)
