"""Pixels of masked tokens: taken from an image, put back into it, their moments over valid
values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from eo_jax.models.encoder import patchify, take_tokens, unpatchify

_EPSILON = 1e-6  # as MAE's norm_pix_loss


def take_pixels(
    image: Shaped[Array, "b H W m"], ids: Int[Array, "b h"], patch: int
) -> Shaped[Array, "b h r s m"]:
    """The pixels of the tokens `ids`, rows and columns within each."""
    return take_tokens(patchify(image, patch), ids).reshape(*ids.shape, patch, patch, -1)


def put_pixels(
    image: Shaped[Array, "b H W m"],
    ids: Int[Array, "b h"],
    pixels: Shaped[Array, "b h r s m"],
    patch: int,
) -> Shaped[Array, "b H W m"]:
    """The image with the pixels of the tokens `ids` replaced."""

    def replace(tokens, at, values):
        return tokens.at[at].set(values, unique_indices=True)

    _, height, width, _ = image.shape
    values = pixels.reshape(*ids.shape, patch**2, -1)
    tokens = jax.vmap(replace)(patchify(image, patch), ids, values)
    return unpatchify(tokens, height // patch, width // patch, patch)


def moments(
    pixels: Float[Array, "b h r s c"], valid: Bool[Array, "b h r s m"]
) -> tuple[Float[Array, "b h 1 1 1"], Float[Array, "b h 1 1 1"]]:
    """Mean and sqrt(unbiased variance + 1e-6) of each token over its valid values."""
    values = count_valid(valid, pixels.shape[-1])
    mean = total(jnp.where(valid, pixels, 0.0)) / jnp.maximum(values, 1)
    squares = total(jnp.square(jnp.where(valid, pixels - mean, 0.0)))
    return mean, jnp.sqrt(squares / jnp.maximum(values - 1, 1) + _EPSILON)


def count_valid(valid: Bool[Array, "b h r s m"], bands: int) -> Float[Array, "b h 1 1 1"]:
    """Number of valid values of each token. Rows first: see `masking.valid_values`."""
    rows = valid.sum(2, dtype=jnp.int32, keepdims=True).astype(jnp.float32)
    return total(rows) * (bands // valid.shape[-1])


def total(x: Float[Array, "b h r s c"]) -> Float[Array, "b h 1 1 1"]:
    """The sum over each token."""
    return x.sum((2, 3, 4), keepdims=True)
