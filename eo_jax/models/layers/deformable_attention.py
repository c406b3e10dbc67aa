"""Deformable attention: every cell of an image attends to points whose positions depend on the
image (DAT; Xia et al. 2022, arXiv 2201.00520).

It follows the authors' code and its (PyTorch's) initialisation, with three differences:
- Offsets are always bounded. Their code bounds them if it is given a range factor; DeCUR gives none
  and clips points to the image instead.
- Points start at the centres of their cells. Their code divides by one cell too few, which moves
  them towards the lower right and out of the image.
- There is no relative position bias, whose table would depend on the size of a view.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import gelu
from eo_jax.models.heads import TorchDense
from eo_jax.models.layers.conv import DepthwiseConv
from eo_jax.models.layers.layer_norm import TORCH_EPSILON, LayerNorm


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """The sizes of a deformable attention.

    Attributes:
        channels: number of channels of input and output.
        heads: number of attention heads.
        groups: number of groups of neighbouring heads; each group has its own points.
        kernel: odd side in cells of the window from which an offset is computed.
        stride: distance between points, in cells.
        offset_range: DAT's range factor s: with n points along a side of length 2, each moves by at
            most s / n; with s = 2 as far as the next point.
    """

    channels: int
    heads: int
    groups: int
    kernel: int
    stride: int
    offset_range: float = 2.0

    def __post_init__(self):
        for field, whole, of in (
            ("heads", self.channels, "channels"),
            ("groups", self.heads, "heads"),
        ):
            if getattr(self, field) < 1 or whole % getattr(self, field):
                raise ValueError(
                    f"deformable attention: {field}: {getattr(self, field)}; expected a divisor of "
                    f"{whole}, the number of {of}"
                )
        if self.kernel % 2 == 0:
            raise ValueError(
                f"deformable attention: kernel: {self.kernel}; expected an odd number, so that it "
                "has a centre"
            )


class DeformableAttention(nnx.Module):
    """[b, h, w, c] -> [b, h, w, c]: queries from all cells, keys and values from the image at the
    points; without the residual sum.
    """

    def __init__(self, shape: AttentionShape, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        for name in ("q", "k", "v", "out"):
            setattr(self, name, TorchDense(shape.channels, shape.channels, dtype, rngs=rngs))
        self.offsets = OffsetNetwork(
            shape.channels // shape.groups, shape.kernel, shape.stride, dtype, rngs=rngs
        )
        self.shape = shape

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        q = self.q(x)
        moves = self.offsets(_split_groups(q, self.shape.groups))
        points = displaced_points(moves, x.shape[1:3], self.shape.offset_range)
        sampled = _join_groups(
            sample_bilinear(_split_groups(x, self.shape.groups), points), self.shape.groups
        )

        def by_head(a):
            return a.reshape(len(x), -1, self.shape.heads, self.shape.channels // self.shape.heads)

        attended = jax.nn.dot_product_attention(
            by_head(q), by_head(self.k(sampled)), by_head(self.v(sampled))
        )
        return self.out(attended.reshape(x.shape))


class OffsetNetwork(nnx.Module):
    """Queries of a group -> unbounded offsets of its points, rows before columns. All groups share
    the network, as in DAT's code.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ):
        self.depthwise = DepthwiseConv(channels, dtype, kernel, stride, rngs=rngs)
        self.norm = LayerNorm(channels, dtype, TORCH_EPSILON)
        self.move = TorchDense(channels, 2, dtype, use_bias=False, rngs=rngs)

    def __call__(self, q: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 2"]:
        return self.move(gelu(self.norm(self.depthwise(q))))


def displaced_points(
    moves: Float[Array, "b h2 w2 2"], size: tuple[int, int], offset_range: float
) -> Float[Array, "b p 2"]:
    """Points in float32 as (row, column) in cells of an image of `size`; cell centres are whole
    numbers.

    They are the centres of h2 x w2 equal parts of the image, moved by tanh(moves) x offset_range /
    (h2, w2) on sides of length 2.
    """
    grid = np.stack(np.meshgrid(*map(np.arange, moves.shape[1:3]), indexing="ij"), -1)
    part = np.divide(size, moves.shape[1:3])
    centres = ((grid + 0.5) * part - 0.5).astype(np.float32)
    reach = (part * offset_range / 2).astype(np.float32)
    points = centres + reach * jnp.tanh(moves.astype(jnp.float32))
    return points.reshape(len(moves), -1, 2)


def sample_bilinear(
    image: Float[Array, "b h w c"], points: Float[Array, "b p 2"]
) -> Float[Array, "b p c"]:
    """Bilinear samples of the image at points (row, column) in cells; the image is 0 outside.
    Weights and sums are float32.

    This is PyTorch's grid_sample with align_corners, whose -1 and 1 are the first and the last cell
    here. It is written as a product with a weight for every cell: the gradient of a gather would be
    a scatter, which a GPU sums in no fixed order.
    """
    rows, columns = (_weights(points[..., i], image.shape[i + 1]) for i in (0, 1))
    weights = rows[..., :, None] * columns[..., None, :]
    # HIGHEST, so that matrix units keep float32.
    sampled = jnp.einsum(
        "bphw,bhwc->bpc", weights, image.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return sampled.astype(image.dtype)


def _weights(position: Float[Array, "b p"], cells: int) -> Float[Array, "b p n"]:
    """Weight of each cell of a row or column in a sample at `position`."""
    distance = jnp.abs(position[..., None] - jnp.arange(cells, dtype=jnp.float32))
    return jnp.maximum(0.0, 1.0 - distance)


def _split_groups(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "bg h w cg"]:
    """Groups of channels as separate images."""
    b, height, width, _ = x.shape
    return (
        x.reshape(b, height, width, groups, -1)
        .transpose(0, 3, 1, 2, 4)
        .reshape(b * groups, height, width, -1)
    )


def _join_groups(x: Float[Array, "bg p cg"], groups: int) -> Float[Array, "b p c"]:
    """The inverse for points: the channels of all groups side by side."""
    count, points, _ = x.shape
    return (
        x.reshape(count // groups, groups, points, -1)
        .transpose(0, 2, 1, 3)
        .reshape(count // groups, points, -1)
    )
