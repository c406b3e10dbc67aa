"""The first overlapping patch embedding of SegFormer as a stem: a 7 x 7 convolution of stride 4 and
a LayerNorm (arXiv 2105.15203).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.layers.conv import BiasedConv, valid_cells
from eo_jax.models.layers.layer_norm import TORCH_EPSILON, LayerNorm
from eo_jax.sensors import Sensor

_KERNEL, _STRIDE = 7, 4


@dataclasses.dataclass(frozen=True)
class Config:
    """The stem of a `mit` trunk.

    Attributes:
        width: channels of the image: 32 for MiT-B0, 64 for the others.
    """

    width: int = 64

    output_kind: ClassVar[str] = "image"

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(
                f"config.model.stems.*.width: {self.width}; expected 32 for MiT-B0, 64 for B1 to B5"
            )

    @property
    def patch(self) -> int:
        """Stride in pixels."""
        return _STRIDE

    def channels(self, sensor: Sensor) -> int:
        """Channels of the image."""
        return self.width

    def build(self, sensor: Sensor, dtype: jnp.dtype, rngs: nnx.Rngs) -> OverlapStem:
        """The stem for a sensor of any number of bands."""
        return OverlapStem(len(sensor.bands), self.width, dtype, rngs=rngs)


class OverlapStem(nnx.Module):
    """Bands -> `width` channels at a quarter of the resolution."""

    def __init__(self, bands: int, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.embed = OverlapEmbedding(bands, width, _KERNEL, _STRIDE, dtype, rngs=rngs)

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W"], mode: Mode
    ) -> tuple[Float[Array, "b h w d"], Bool[Array, "b h w"]]:
        """(image, its valid mask)."""
        return self.embed(view), valid_cells(valid, _STRIDE)


class OverlapEmbedding(nnx.Module):
    """Patches that overlap by more than half, embedded and normalised."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        kernel: int,
        stride: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv = BiasedConv(channels_in, width, kernel, stride, kernel // 2, dtype, rngs=rngs)
        self.norm = LayerNorm(width, dtype, TORCH_EPSILON)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        return self.norm(self.conv(x))
