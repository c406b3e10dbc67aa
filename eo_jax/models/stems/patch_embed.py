"""The stem of a plain vision transformer: one linear layer on the pixels and bands of a patch
(He et al. 2022, arXiv 2111.06377).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.layers.dense import Dense
from eo_jax.sensors import Sensor


@dataclasses.dataclass(frozen=True)
class Config:
    """A patch embedding.

    Attributes:
        patch: side of a token in pixels; published encoders use 4, 8, 14 or 16.
    """

    patch: int = 16

    output_kind: ClassVar[str] = "tokens"

    def __post_init__(self):
        if self.patch < 1:
            raise ValueError(f"config.model.stems.*.patch: {self.patch}; expected at least 1 pixel")

    def build(self, sensor: Sensor, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> PatchEmbedding:
        """The stem for a sensor."""
        return PatchEmbedding(self.patch, len(sensor.bands), width, dtype, rngs=rngs)


class PatchEmbedding(nnx.Module):
    """Pixels of tokens -> token embeddings. The weight [p * c, d] is initialised as a matrix, as in
    MAE, not as a convolution.
    """

    def __init__(self, patch: int, bands: int, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.embed = Dense(patch * patch * bands, width, dtype, rngs=rngs)
        self.patch = patch

    def __call__(
        self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], mode: Mode
    ) -> Float[Array, "b n d"]:
        """`p` runs over the patch x patch pixels of a token, row by row."""
        return self.embed(pixels.reshape(*pixels.shape[:2], -1))
