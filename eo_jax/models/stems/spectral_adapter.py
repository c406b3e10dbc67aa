"""The stem of SpectralEarth: a 1-D convolutional network over the bands of each pixel, then a patch
embedding.

Source: recipes of SpecViT (arXiv 2408.08447, AABNassim/spectral_earth): three convolutions along
the spectral axis (kernel 7, 7, 5; stride 5, 5, 3; padding 1; 32, 64, 128 channels), each with
BatchNorm and ReLU, then the mean over the remaining spectral axis. It is pointwise in space, so
under MAE it runs on visible tokens only; SpectralEarth's own code runs it on every pixel. Its
filters belong to band *positions*, so weights are only meaningful for the band order of the sensor.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.dense import Dense
from eo_jax.models.layers.product import product
from eo_jax.sensors import Sensor

# (kernel, stride, output channels) of the three spectral convolutions; padding is 1.
_LAYERS = ((7, 5, 32), (7, 5, 64), (5, 3, 128))
CHANNELS = 128


@dataclasses.dataclass(frozen=True)
class Config:
    """A spectral adapter and patch embedding.

    Attributes:
        patch: side of a token in pixels; 4, 8 or 16.
    """

    patch: int = 4

    output_kind: ClassVar[str] = "tokens"

    def __post_init__(self):
        if self.patch not in (4, 8, 16):
            raise ValueError(f"config.model.stems.*.patch: {self.patch}; expected 4, 8 or 16")

    def build(
        self, sensor: Sensor, width: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> SpectralPatchEmbedding:
        """The stem for a sensor; ValueError if it has too few bands for three strided
        convolutions.
        """
        if spectral_lengths(len(sensor.bands))[-1] < 1:
            raise ValueError(
                f"config.model.stems: the spectral adapter needs at least 75 bands, {sensor.title} "
                f"has {len(sensor.bands)}"
            )
        return SpectralPatchEmbedding(self.patch, width, dtype, rngs=rngs)


def spectral_lengths(bands: int) -> tuple[int, int, int]:
    """Length of the spectral axis after each convolution: 202 bands -> 40, 8, 2."""
    lengths = []
    for kernel, stride, _ in _LAYERS:
        bands = (bands + 2 - kernel) // stride + 1
        lengths.append(bands)
    return tuple(lengths)


class SpectralPatchEmbedding(nnx.Module):
    """Pixels of tokens -> token embeddings."""

    def __init__(self, patch: int, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.adapter = SpectralAdapter(dtype, rngs=rngs)
        self.embed = Dense(patch * patch * CHANNELS, width, dtype, rngs=rngs)
        self.patch = patch

    def __call__(
        self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], mode: Mode
    ) -> Float[Array, "b n d"]:
        """`p` runs over the patch x patch pixels of a token, row by row."""
        features = self.adapter(pixels, valid, mode)
        return self.embed(features.reshape(*features.shape[:2], -1))


class SpectralAdapter(nnx.Module):
    """[..., c] -> [..., 128], pixel by pixel (BatchNorm statistics aside)."""

    def __init__(self, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        channels_in = 1
        for i, (kernel, stride, channels) in enumerate(_LAYERS):
            setattr(
                self,
                f"conv{i}",
                SpectralConv(kernel, stride, channels_in, channels, dtype, rngs=rngs),
            )
            setattr(self, f"norm{i}", BatchNorm(channels))
            channels_in = channels

    def __call__(
        self, pixels: Float[Array, "*pixel c"], valid: Bool[Array, "*pixel"], mode: Mode
    ) -> Float[Array, "*pixel 128"]:
        x = pixels.reshape(-1, pixels.shape[-1], 1)
        flat_valid = valid.reshape(-1, 1)
        for i in range(len(_LAYERS)):
            conv = getattr(self, f"conv{i}")
            x = jax.nn.relu(getattr(self, f"norm{i}")(conv(x), flat_valid, mode, conv.bias[...]))
        return x.mean(axis=1).reshape(*pixels.shape[:-1], CHANNELS)


class SpectralConv(nnx.Module):
    """1-D convolution along the spectral axis, [p, s, i] -> [p, s', o], padding 1; the following
    BatchNorm adds `bias`.

    Written as strided slices side by side and one matrix product, twice as fast as XLA's
    convolution on CPU, forward and backward.
    """

    def __init__(
        self,
        kernel: int,
        stride: int,
        channels_in: int,
        channels: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        # PyTorch's default for convolutions, weight and bias
        bound = 1 / np.sqrt(kernel * channels_in)

        def uniform(shape):
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        self.kernel = nnx.Param(uniform((kernel, channels_in, channels)))
        self.bias = nnx.Param(uniform((channels,)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Float[Array, "p s i"]) -> Float[Array, "p s2 o"]:
        kernel = jnp.asarray(self.kernel[...])
        taps = len(kernel)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        starts = x.shape[1] - taps + 1
        slices = [x[:, tap : tap + starts : self.stride] for tap in range(taps)]
        windows = jnp.concatenate(slices, axis=-1)
        # One row per window: the gradient of a product of three axes is three times slower on CPU.
        rows = windows.reshape(-1, windows.shape[-1])
        return product(rows, kernel.reshape(-1, kernel.shape[-1])).reshape(*windows.shape[:2], -1)
