"""The stem of SpectralEarth: a 1-D convolutional network over the bands of each pixel, then a patch embedding.

Source: recipes of SpecViT (arXiv 2408.08447, AABNassim/spectral_earth): three convolutions along the spectral axis (kernel 7, 7, 5; stride 5, 5, 3;
padding 1; 32, 64, 128 channels), each with BatchNorm and ReLU, then the mean over what is left of the spectral axis. It is pointwise in
space, so under MAE it runs on visible tokens only, where SpectralEarth's own code runs it on every pixel. Its filters belong to band
*positions*: it is only meaningful for the band order of its sensor.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.vit import Dense
from eo_jax.sensors import Sensor

# (kernel, stride, channels out) of the three spectral convolutions; padding is 1 everywhere.
_LAYERS = ((7, 5, 32), (7, 5, 64), (5, 3, 128))
CHANNELS = 128
_EPSILON = 1e-5
_MOMENTUM = 0.1  # share of the new batch in the running statistics, as PyTorch counts it


@dataclasses.dataclass(frozen=True)
class Config:
    """A spectral adapter and patch embedding.

    Attributes:
        patch: side of a token in pixels; 4, 8 or 16.
    """

    patch: int = 4

    def __post_init__(self):
        if self.patch not in (4, 8, 16):
            raise ValueError(f"config.model.stems.*.patch: {self.patch}; expected 4, 8 or 16")

    def build(self, sensor: Sensor, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> SpectralPatchEmbedding:
        """The stem for a sensor; ValueError where it has too few bands for three strided convolutions."""
        if spectral_lengths(len(sensor.bands))[-1] < 1:
            raise ValueError(f"config.model.stems: the spectral adapter needs at least 75 bands, {sensor.title} has {len(sensor.bands)}")
        return SpectralPatchEmbedding(self.patch, width, dtype, rngs=rngs)


def spectral_lengths(bands: int) -> tuple[int, int, int]:
    """Length of the spectral axis after each convolution: 202 bands -> 40, 8, 2."""
    lengths = []
    for kernel, stride, _ in _LAYERS:
        bands = (bands + 2 - kernel) // stride + 1
        lengths.append(bands)
    return tuple(lengths)


def multiply_adds(bands: int) -> int:
    """Multiply-adds of the adapter for one pixel: 205,568 for 202 bands."""
    channels_in, total = 1, 0
    for (kernel, _, channels), length in zip(_LAYERS, spectral_lengths(bands), strict=True):
        total += kernel * channels_in * channels * length
        channels_in = channels
    return total


class SpectralPatchEmbedding(nnx.Module):
    """Pixels of tokens -> token embeddings."""

    def __init__(self, patch: int, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.adapter = SpectralAdapter(dtype, rngs=rngs)
        self.embed = Dense(patch * patch * CHANNELS, width, dtype, rngs=rngs)
        self.patch = patch

    def __call__(self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], statistics: str) -> Float[Array, "b n d"]:
        """`p` runs over the patch x patch pixels of a token, row by row. `statistics`: see `BatchNorm`."""
        features = self.adapter(pixels, valid, statistics)
        return self.embed(features.reshape(*features.shape[:2], -1))


class SpectralAdapter(nnx.Module):
    """[..., c] -> [..., 128], each pixel by itself (BatchNorm statistics aside)."""

    def __init__(self, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        channels_in = 1
        for i, (kernel, stride, channels) in enumerate(_LAYERS):
            setattr(self, f"conv{i}", SpectralConv(kernel, stride, channels_in, channels, dtype, rngs=rngs))
            setattr(self, f"norm{i}", BatchNorm(channels))
            channels_in = channels

    def __call__(self, pixels: Float[Array, "*pixel c"], valid: Bool[Array, "*pixel"], statistics: str) -> Float[Array, "*pixel 128"]:
        x = pixels.reshape(-1, pixels.shape[-1], 1)
        weight = valid.reshape(-1)
        for i in range(len(_LAYERS)):
            x = getattr(self, f"conv{i}")(x)
            x = jax.nn.relu(getattr(self, f"norm{i}")(x, weight, statistics))
        return x.mean(axis=1).reshape(*pixels.shape[:-1], CHANNELS)


class SpectralConv(nnx.Module):
    """1-D convolution along the spectral axis, [p, s, i] -> [p, s', o], padding 1.

    Written as strided slices side by side and one matrix product: twice as fast as XLA's convolution on CPU, forward and backward.
    """

    def __init__(self, kernel: int, stride: int, channels_in: int, channels: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        bound = 1 / np.sqrt(kernel * channels_in)  # PyTorch's default for convolutions, weight and bias
        uniform = lambda shape: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)  # noqa: E731
        self.kernel = nnx.Param(uniform((kernel, channels_in, channels)))
        self.bias = nnx.Param(uniform((channels,)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Float[Array, "p s i"]) -> Float[Array, "p s2 o"]:
        kernel = self.kernel[...].astype(self.dtype)
        taps = len(kernel)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        span = x.shape[1] - taps + 1  # so many positions could start a window; every stride-th does
        windows = [x[:, tap : tap + span : self.stride] for tap in range(taps)]
        return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, kernel.shape[-1]) + self.bias[...].astype(self.dtype)


class BatchNorm(nnx.Module):
    """BatchNorm over pixels and spectral positions, [p, s, c], with weights that leave out invalid pixels.

    `statistics="batch"` normalises by the batch and moves the running statistics (PyTorch's rule: momentum 0.1, unbiased variance);
    `"running"` normalises by the running statistics. Under jit over a sharded batch the mean is the global mean.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "p s c"], weight: Bool[Array, " p"], statistics: str) -> Float[Array, "p s c"]:
        mean, var = self.mean[...], self.var[...]
        if statistics == "batch":
            mean, var = self._batch_moments(x.astype(jnp.float32), weight.astype(jnp.float32)[:, None, None])
        scale = self.scale[...] * jax.lax.rsqrt(var + _EPSILON)
        shift = self.bias[...] - mean * scale
        # In float32: where |mean| is many std, x scale and shift cancel, and bfloat16 would lose what is left.
        return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)

    def _batch_moments(self, x: Array, weight: Array) -> tuple[Array, Array]:
        pixels = weight.sum()
        count = jnp.maximum(pixels * x.shape[1], 2.0)  # 2, so that a batch without a valid pixel stays finite
        momentum = jnp.where(pixels > 0, _MOMENTUM, 0.0)  # and moves nothing
        mean = (x * weight).sum((0, 1)) / count
        var = (jnp.square(x - mean) * weight).sum((0, 1)) / count
        self._move(self.mean, mean, momentum)
        self._move(self.var, var * count / (count - 1), momentum)
        return mean, var

    def _move(self, running: nnx.BatchStat, new: Array, momentum: Array) -> None:
        running[...] = (1 - momentum) * running[...] + momentum * jax.lax.stop_gradient(new)
