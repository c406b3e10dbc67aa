"""The stem that adds nothing: the trunk reads an image whose channels are the bands of the view."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.sensors import Sensor


@dataclasses.dataclass(frozen=True)
class Config:
    """The bands as they are; it has no options."""

    output_kind: ClassVar[str] = "image"
    patch: ClassVar[int] = 1

    def channels(self, sensor: Sensor) -> int:
        """Channels of the image."""
        return len(sensor.bands)

    def build(self, sensor: Sensor, dtype: jnp.dtype, rngs: nnx.Rngs) -> Bands:
        """The stem, which has no weights."""
        return Bands(dtype)


class Bands(nnx.Module):
    """A view in the compute type."""

    def __init__(self, dtype: jnp.dtype):
        self.dtype = dtype

    def __call__(
        self, view: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> tuple[Array, Array]:
        """(the view, its valid mask)."""
        return view.astype(self.dtype), valid
