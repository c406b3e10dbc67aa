"""Orders of axes: how an array of ours lies in a PyTorch network, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
    """A permutation of the values of an array, in both directions.

    Attributes:
        to_torch: ours -> PyTorch's.
        to_ours: (PyTorch's, shape of ours) -> ours.
    """

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def patch_conv2d(patch: int) -> Order:
    """Patch embedding: [row column in, out] and [out, in, row, column]."""
    return Order(
        lambda x: x.reshape(patch, patch, -1, x.shape[-1]).transpose(3, 2, 0, 1),
        lambda x, shape: x.transpose(2, 3, 1, 0).reshape(shape),
    )


# Vectors and tokens: unchanged.
AS_IS = Order(lambda x: x, lambda x, shape: x)
# Linear: [in, out] and [out, in].
TRANSPOSED = Order(lambda x: x.T, lambda x, shape: x.T)
# Linear at every pixel: [in, out] and [out, in, 1, 1].
POINTWISE = Order(lambda x: x.T[..., None, None], lambda x, shape: x[..., 0, 0].T)
# Biases of heads: [p, heads, head_dim] and [p d].
FLAT = Order(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape))
# Projections to heads: [d, p, heads, head_dim] and [p d, d], in timm's order q, k, v.
HEADS = Order(lambda x: x.reshape(len(x), -1).T, lambda x, shape: x.T.reshape(shape))
# [row, column, in, out] and [out, in, row, column].
CONV2D = Order(lambda x: x.transpose(3, 2, 0, 1), lambda x, shape: x.transpose(2, 3, 1, 0))
# [row, column, channel] and [channel, 1, row, column].
DEPTHWISE = Order(
    lambda x: x.transpose(2, 0, 1)[:, None], lambda x, shape: x[:, 0].transpose(1, 2, 0)
)
# Convolution along the bands: [tap, in, out] and [out, in, tap, 1, 1].
SPECTRAL_CONV3D = Order(
    lambda x: x.transpose(2, 1, 0)[..., None, None],
    lambda x, shape: x[..., 0, 0].transpose(2, 1, 0),
)
# [band, row, column, in, out] and [out, in, band, row, column].
CONV3D = Order(lambda x: x.transpose(4, 3, 0, 1, 2), lambda x, shape: x.transpose(2, 3, 4, 1, 0))
# Learned tokens: [1, n, d] and [n, d] or [1, d].
WITHOUT_FIRST_AXIS = Order(lambda x: x[0], lambda x, shape: x[None])
