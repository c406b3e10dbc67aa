"""A trained encoder with all that its input needs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.augment.radiometry import normalise
from eo_jax.checkpoint import leaf_hashes, state_hash
from eo_jax.exchange.contract import pooling_of
from eo_jax.models.encoder import Encoder
from eo_jax.schema import Carry, Params
from eo_jax.sensors import Sensor


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with its weights, computing in float32.

    Attributes:
        name: of the encoder: "enmap.teacher".
        encoder: its structure; `encoder.sensor` is what it reads.
        params, statistics: its weights and running statistics.
        mean, std: float32 [c], in digital numbers.
        view: side in pixels of the images that it takes.
    """

    name: str
    encoder: Encoder
    params: Params
    statistics: Carry
    mean: np.ndarray
    std: np.ndarray
    view: int

    @property
    def sensor(self) -> Sensor:
        """The sensor whose bands it reads, in their order."""
        return self.encoder.sensor

    @property
    def patch(self) -> int:
        """Side in pixels of one dense feature."""
        return self.encoder.patch

    @property
    def width(self) -> int:
        """Number of channels of its features."""
        return self.encoder.width

    @property
    def side(self) -> int:
        """Rows, and columns, of tokens in a view."""
        return self.view // self.patch

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What decides its features, in plain JSON types; equal for equal features."""
        weights = state_hash(leaf_hashes({"params": self.params, "statistics": self.statistics}))
        return {
            "encoder": self.name,
            "sensor": self.sensor.id,
            "bands": [band.name for band in self.sensor.bands],
            "weights_sha256": weights,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "view": self.view,
            "patch": self.patch,
            "width": self.width,
            "pool": pooling_of(self.encoder),
        }

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, d] of views: digital numbers float32 and valid mask, both [b, c, H, W]."""
        return jax.device_get(self._functions[0](self.params, self.statistics, pixels, valid))

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, d] of the same."""
        return jax.device_get(self._functions[1](self.params, self.statistics, pixels, valid))

    @functools.cached_property
    def _functions(self) -> tuple[Any, Any]:
        def features(params: Params, statistics: Carry, pixels: jax.Array, valid: jax.Array):
            view = normalise(pixels, valid, self.mean, self.std)
            return self.encoder.features(
                params, statistics, jnp.moveaxis(view, 1, -1), jnp.moveaxis(valid, 1, -1)
            )

        # Two functions, so that XLA leaves out what is not asked for.
        return (
            jax.jit(lambda *inputs: features(*inputs)["pooled"]),
            jax.jit(lambda *inputs: features(*inputs)["dense"]),
        )
