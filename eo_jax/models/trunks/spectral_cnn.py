"""Convolutional encoders for single pixels and small windows of hyperspectral scenes, along the
spectrum alone or over spectrum, rows and columns.

dims=1 treats each pixel separately, as Hu et al. 2015 (doi 10.1155/2015/258619), and averages over
the window. dims=3 follows Hamida et al. 2018 (doi 10.1109/TGRS.2018.2818945): 3-D kernels without
spatial padding, strides along the spectrum instead of pooling, and a flat output, of which a dense
layer makes the features as in HybridSN (Roy et al. 2020, doi 10.1109/LGRS.2019.2918719). Widths,
BatchNorm after every layer, and strided convolutions in place of Hamida et al.'s second, pooling
ones are ours.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.encoder import patchify
from eo_jax.models.functional import Mode
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.dense import Dense
from eo_jax.models.layers.product import product
from eo_jax.models.layers.windows import check_divides, check_window

_STRIDE = 2  # along the spectrum, of every layer
_SIDE = 3  # rows and columns of a kernel with dims=3, while the window is wider than one pixel


@dataclasses.dataclass(frozen=True)
class Config:
    """A convolutional trunk for pixels, behind the stem "identity".

    Attributes:
        window: side in pixels of the window that makes one feature, odd, 1 to 15; a larger view is
            cut into windows.
        dims: 1 to convolve along the spectrum of each pixel, 3 over spectrum, rows and columns.
        width: length d of a feature, and channels of the last convolution; each earlier layer has
            half as many as the next.
        layers: number of convolutions.
        kernel: number of bands in a kernel, odd.
    """

    window: int = 1
    dims: int = 1
    width: int = 128
    layers: int = 4
    kernel: int = 7

    input_kind: ClassVar[str] = "image"

    def __post_init__(self):
        check_window(self.window)
        if self.dims not in (1, 3):
            raise ValueError(f"config.model.trunk.dims: {self.dims}; expected 1 or 3")
        if self.layers < 1:
            raise ValueError(f"config.model.trunk.layers: {self.layers}; expected at least 1")
        if self.width < 1 or self.width % 2 ** (self.layers - 1):
            raise ValueError(
                f"config.model.trunk.width: {self.width}; expected a multiple of "
                f"{2 ** (self.layers - 1)}, for {self.layers} layers that double it"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"config.model.trunk.kernel: {self.kernel}; expected an odd number of bands"
            )

    @property
    def stride(self) -> int:
        """Side of a feature in pixels."""
        return self.window

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(input channels, output channels, rows and columns of the kernel) of each convolution."""
        outs = [self.width >> (self.layers - 1 - layer) for layer in range(self.layers)]
        sides = [
            _SIDE if self.dims == 3 and self.window - layer * (_SIDE - 1) > 1 else 1
            for layer in range(self.layers)
        ]
        return tuple(zip([1, *outs[:-1]], outs, sides, strict=True))

    def sizes(self, channels: int) -> tuple[tuple[int, int], ...]:
        """(spectral positions, rows and columns) after each convolution: 103 bands of a 5 x 5
        window -> (52, 3), (26, 1), (13, 1), (7, 1).
        """
        side = self.window if self.dims == 3 else 1
        found = []
        for _, _, kernel_side in self.shapes:
            channels, side = math.ceil(channels / _STRIDE), side - kernel_side + 1
            found.append((channels, side))
        return tuple(found)

    def flat(self, channels: int) -> int:
        """Length of the flat output of the convolutions for one pixel or window."""
        positions, side = self.sizes(channels)[-1]
        return positions * side**2 * self.width

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> SpectralConvolutions:
        """The trunk for images of `channels` bands."""
        return SpectralConvolutions(self, channels, dtype, rngs=rngs)


class SpectralConvolutions(nnx.Module):
    """[b, h, w, c] -> one feature per window, [b, h / window, w / window, d]. BatchNorm and ReLU
    follow every layer.
    """

    def __init__(self, config: Config, channels: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        for i, (channels_in, channels_out, side) in enumerate(config.shapes):
            setattr(
                self,
                f"conv{i}",
                WindowConv(config.kernel, side, channels_in, channels_out, dtype, rngs=rngs),
            )
            setattr(self, f"norm{i}", BatchNorm(channels_out))
        self.embed = Dense(config.flat(channels), config.width, dtype, rngs=rngs)
        self.embed_norm = BatchNorm(config.width)
        self.config = config

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """Only `valid` pixels count in the statistics and, with dims=1, the mean of a window."""
        window = self.config.window
        check_divides(window, image.shape)
        pixels, valid_pixels = (
            patchify(image, window),
            patchify(valid[..., None], window)[..., 0],
        )
        embed = self._embed_pixels if self.config.dims == 1 else self._embed_windows
        features = embed(pixels, valid_pixels, mode)
        return features.reshape(len(image), image.shape[1] // window, image.shape[2] // window, -1)

    def _embed_pixels(
        self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], mode: Mode
    ) -> Float[Array, "b n d"]:
        features = self._features(
            pixels.reshape(-1, pixels.shape[-1], 1, 1, 1), valid.reshape(-1), mode
        ).reshape(*pixels.shape[:3], -1)
        weight = valid[..., None].astype(features.dtype)
        return (features * weight).sum(2) / jnp.maximum(weight.sum(2), 1)

    def _embed_windows(
        self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], mode: Mode
    ) -> Float[Array, "b n d"]:
        side, bands = self.config.window, pixels.shape[-1]
        cubes = pixels.reshape(-1, side, side, bands).transpose(0, 3, 1, 2)[..., None]
        return self._features(cubes, valid.any(-1).reshape(-1), mode).reshape(*pixels.shape[:2], -1)

    def _features(
        self, x: Float[Array, "r s y x 1"], valid: Bool[Array, " r"], mode: Mode
    ) -> Float[Array, "r d"]:
        everywhere = valid[:, None, None, None]
        for i in range(self.config.layers):
            x = jax.nn.relu(
                getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), everywhere, mode)
            )
        return jax.nn.relu(self.embed_norm(self.embed(x.reshape(len(x), -1)), valid, mode))


class WindowConv(nnx.Module):
    """Convolution over spectrum, rows and columns, [r, s, y, x, i] -> [r, ceil(s / 2), y - side +
    1, x - side + 1, o]; BatchNorm adds the bias.

    The spectrum is padded by half a kernel and strided, space is neither. Written as slices side by
    side, one axis at a time, and one matrix product: XLA's own convolutions take five times as long
    for one axis on CPU, and far longer for three.
    """

    def __init__(
        self,
        kernel: int,
        side: int,
        channels_in: int,
        channels: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        bound = 1 / np.sqrt(kernel * side**2 * channels_in)  # PyTorch's default for convolutions
        self.kernel = nnx.Param(
            jax.random.uniform(
                rngs.params(),
                (kernel, side, side, channels_in, channels),
                minval=-bound,
                maxval=bound,
            )
        )
        self.dtype = dtype

    def __call__(self, x: Float[Array, "r s y x i"]) -> Float[Array, "r s2 y2 x2 o"]:
        kernel = jnp.asarray(self.kernel[...])
        taps, side, _, _, channels = kernel.shape
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (taps // 2, taps // 2), (0, 0), (0, 0), (0, 0)))
        for axis, length, stride in ((1, taps, _STRIDE), (2, side, 1), (3, side, 1)):
            x = _neighbours(x, axis, length, stride)
        # Order of neighbours: by column, then row, then band.
        return product(x, kernel.transpose(2, 1, 0, 3, 4).reshape(-1, channels))


def _neighbours(
    x: Float[Array, "*shape i"], axis: int, length: int, stride: int
) -> Float[Array, "*shape2 j"]:
    """Every `stride`-th position of an axis, with `length` neighbours side by side in the last
    axis, by offset first.
    """
    starts = x.shape[axis] - length + 1
    slices = [
        jax.lax.slice_in_dim(x, offset, offset + starts, stride, axis) for offset in range(length)
    ]
    return jnp.concatenate(slices, axis=-1)
