"""The stem of SpectralEarth's SpecResNet (arXiv 2408.08447): the spectral adapter on every pixel
makes an image of 128 channels.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.stems import spectral_adapter
from eo_jax.sensors import Sensor


@dataclasses.dataclass(frozen=True)
class Config:
    """The adapter; it has no options."""

    output_kind: ClassVar[str] = "image"

    @property
    def patch(self) -> int:
        """Stride in pixels."""
        return 1

    def channels(self, sensor: Sensor) -> int:
        """Channels of the image."""
        return spectral_adapter.CHANNELS

    def build(self, sensor: Sensor, dtype: jnp.dtype, rngs: nnx.Rngs) -> SpectralImage:
        """The stem for a sensor; ValueError if it has too few bands for three strided
        convolutions.
        """
        if spectral_adapter.spectral_lengths(len(sensor.bands))[-1] < 1:
            raise ValueError(
                "config.model.stems: spectral_adapter_image needs at least 75 bands, "
                f"{sensor.title} has {len(sensor.bands)}; conv takes any number"
            )
        return SpectralImage(dtype, rngs=rngs)


class SpectralImage(nnx.Module):
    """Bands -> 128 channels, pixel by pixel (BatchNorm statistics aside)."""

    def __init__(self, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.adapter = spectral_adapter.SpectralAdapter(dtype, rngs=rngs)

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W"], mode: Mode
    ) -> tuple[Float[Array, "b H W 128"], Bool[Array, "b H W"]]:
        """(image, its valid mask)."""
        return self.adapter(view, valid, mode), valid
