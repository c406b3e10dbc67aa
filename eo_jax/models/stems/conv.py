"""The stem of torchvision's ResNets: a 7 x 7 convolution, BatchNorm, ReLU and max pooling, to a
quarter of the resolution.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.conv import Conv, valid_cells
from eo_jax.sensors import Sensor

_KERNEL, _CHANNELS = 7, 64


@dataclasses.dataclass(frozen=True)
class Config:
    """The convolutional stem; it has no options."""

    output_kind: ClassVar[str] = "image"

    @property
    def patch(self) -> int:
        """Stride in pixels."""
        return 4

    def channels(self, sensor: Sensor) -> int:
        """Channels of the image."""
        return _CHANNELS

    def build(self, sensor: Sensor, dtype: jnp.dtype, rngs: nnx.Rngs) -> ConvStem:
        """The stem for a sensor of any number of bands."""
        return ConvStem(len(sensor.bands), dtype, rngs=rngs)


class ConvStem(nnx.Module):
    """Bands -> 64 channels at a quarter of the resolution."""

    def __init__(self, bands: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.conv = Conv(bands, _CHANNELS, _KERNEL, 2, dtype, rngs=rngs)
        self.norm = BatchNorm(_CHANNELS)

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W"], mode: Mode
    ) -> tuple[Float[Array, "b h w 64"], Bool[Array, "b h w"]]:
        """(image, its valid mask)."""
        valid = valid_cells(valid, 2)
        x = jax.nn.relu(self.norm(self.conv(view), valid, mode))
        return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1))), valid_cells(valid, 2)
