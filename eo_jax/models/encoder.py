"""A stem and a trunk joined: views in, tokens out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from eo_jax.models import spectral_adapter, vit
from eo_jax.models.functional import Network
from eo_jax.models.positions import sincos_2d
from eo_jax.sensors import Sensor


def patchify(image: Float[Array, "b H W c"] | Bool[Array, "b H W c"], patch: int) -> Array:
    """[b, n, patch * patch, c]: tokens row by row, and inside a token pixels row by row."""
    b, height, width, c = image.shape
    grid = image.reshape(b, height // patch, patch, width // patch, patch, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch, c)


def unpatchify(tokens: Float[Array, "b n p c"] | Bool[Array, "b n p c"], rows: int, columns: int, patch: int) -> Array:
    """The inverse of `patchify`: [b, H, W, c]."""
    b, _, _, c = tokens.shape
    grid = tokens.reshape(b, rows, columns, patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(b, rows * patch, columns * patch, c)


def take_tokens(tokens: Array, ids: Int[Array, "b k"]) -> Array:
    """Rows `ids` of the token axis: [b, n, ...] -> [b, k, ...]."""
    return jnp.take_along_axis(tokens, ids.reshape(*ids.shape, *[1] * (tokens.ndim - 2)), axis=1)


class EncoderModule(nnx.Module):
    """Stem, fixed sine-cosine positions, trunk."""

    def __init__(self, stem: nnx.Module, trunk: nnx.Module):
        self.stem, self.trunk = stem, trunk

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"], ids: Int[Array, "b k"] | None, statistics: str
    ) -> Float[Array, "b k1 d"]:
        """Tokens of a view, the class token first.

        Args:
            view: normalised bands.
            valid: which values count, a band each or one for all; the others are read as 0, the training mean.
            ids: the visible patch tokens (row-major); None for all. The rest of the view is never touched.
            statistics: "batch" or "running", for BatchNorm in the stem.
        """
        patch = self.stem.patch
        rows, columns = view.shape[1] // patch, view.shape[2] // patch
        pixels, counted = patchify(jnp.where(valid, view, 0.0), patch), patchify(valid, patch).any(-1)
        if ids is not None:
            pixels, counted = take_tokens(pixels, ids), take_tokens(counted, ids)
        tokens = self.stem(pixels, counted, statistics)
        positions = jnp.asarray(sincos_2d(tokens.shape[-1], rows, columns))
        positions = positions[None] if ids is None else positions[ids]
        return self.trunk(tokens + positions.astype(tokens.dtype))


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder's structure, without weights: what objectives are built from.

    Attributes:
        network: its pure functions; modules inside are `EncoderModule`.
        sensor: whose bands it reads, in that order.
        patch: side of a token in pixels.
        width: width d of its tokens.
        layers: number of blocks.
        pool: "cls" or "mean".
        dtype: compute type.
    """

    network: Network
    sensor: Sensor
    patch: int
    width: int
    layers: int
    pool: str
    dtype: jnp.dtype

    def multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of a forward pass over `tokens` patch tokens of one sample."""
        pixels = tokens * self.patch**2
        embedding = pixels * (spectral_adapter.multiply_adds(len(self.sensor.bands)) + spectral_adapter.CHANNELS * self.width)
        return embedding + self.layers * vit.block_multiply_adds(1 + tokens, self.width)

    def features(self, params, statistics, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"]) -> dict[str, jax.Array]:
        """{"pooled": [b, d], "dense": [b, h, w, d]} in float32, with running statistics."""
        tokens, _ = self.network.apply(params, statistics, lambda module: module(view, valid, None, "running"))
        tokens = tokens.astype(jnp.float32)
        patches = tokens[:, 1:]
        pooled = tokens[:, 0] if self.pool == "cls" else patches.mean(1)
        return {"pooled": pooled, "dense": patches.reshape(len(view), view.shape[1] // self.patch, view.shape[2] // self.patch, -1)}


def make_encoder(stem_config, trunk_config, sensor: Sensor, dtype: jnp.dtype) -> Encoder:
    """The encoder of a stem config and a trunk config for a sensor, computing in `dtype`."""

    def make(rngs: nnx.Rngs) -> EncoderModule:
        return EncoderModule(stem_config.build(sensor, trunk_config.width, dtype, rngs), trunk_config.build(dtype, rngs))

    return Encoder(Network(make), sensor, stem_config.patch, trunk_config.width, trunk_config.layers, trunk_config.pool, dtype)
