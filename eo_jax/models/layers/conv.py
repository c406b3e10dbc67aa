"""Convolutions of images [b, h, w, c] aligned as PyTorch's, and the valid mask of their output."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

_KAIMING = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nnx.Conv):
    """A square convolution of a ResNet, padded by kernel // 2 on every side: no bias, Kaiming
    normal (fan out), computes in `dtype`.

    XLA's "SAME" would pad a strided one on the right only, which shifts every feature by a pixel
    relative to PyTorch's.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int,
        stride: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        size, around = (kernel, kernel), ((kernel // 2, kernel // 2),) * 2
        super().__init__(
            channels_in,
            channels,
            size,
            stride,
            padding=around,
            use_bias=False,
            dtype=dtype,
            kernel_init=_KAIMING,
            rngs=rngs,
        )


class BiasedConv(nnx.Conv):
    """A square convolution with SegFormer's initialisation: Kaiming-normal (fan out), zero bias;
    computes in `dtype`.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int,
        stride: int,
        padding: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        size, around = (kernel, kernel), ((padding, padding),) * 2
        super().__init__(
            channels_in,
            channels,
            size,
            stride,
            padding=around,
            dtype=dtype,
            kernel_init=_KAIMING,
            rngs=rngs,
        )


class DepthwiseConv(nnx.Module):
    """A square depthwise convolution with bias; the kernel is odd, the padding kernel // 2.

    Initialised normal with variance 2 / kernel^2. Sums in float32, returns `dtype`. Written as
    shifted products, nine for 3 x 3, which XLA fuses: its grouped convolution is many times slower
    on CPU, especially backward.
    """

    def __init__(
        self, channels: int, dtype: jnp.dtype, kernel: int = 3, stride: int = 1, *, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(
            nnx.initializers.normal((2 / kernel**2) ** 0.5)(
                rngs.params(), (kernel, kernel, channels)
            )
        )
        self.bias = nnx.Param(jnp.zeros(channels))
        self.dtype, self.stride = dtype, stride

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        kernel, (_, height, width, _) = self.kernel[...], x.shape
        side, around = len(kernel), (len(kernel) // 2,) * 2
        padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        shifted = [
            padded[:, i : i + height : self.stride, j : j + width : self.stride] * kernel[i, j]
            for i in range(side)
            for j in range(side)
        ]
        return (sum(shifted) + self.bias[...]).astype(self.dtype)


def strided_size(size: int, stride: int) -> int:
    """Rows or columns of the output of a padded convolution for `size` of its input."""
    return -(-size // stride)


def valid_cells(valid: Bool[Array, "b h w"], stride: int) -> Bool[Array, "b h2 w2"]:
    """Valid mask of cells of stride x stride pixels: a cell is valid if any of its pixels is. Cells
    at the far edges may be smaller.
    """
    b, height, width = valid.shape
    padded = jnp.pad(valid, ((0, 0), (0, -height % stride), (0, -width % stride)))
    return padded.reshape(
        b, strided_size(height, stride), stride, strided_size(width, stride), stride
    ).any((2, 4))
