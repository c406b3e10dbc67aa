"""Deformable attention: every cell of an image attends to points that move with what the image
shows (DAT; Xia et al. 2022, arXiv 2201.00520).

As the authors' code, with its fresh weights (PyTorch's own), except that
- offsets are always bounded, which their code does where it is given a range factor; DeCUR gives
  none and clips points to the image instead;
- points start at the centres of their cells; the code divides by one cell too few, which moves them
  towards the lower right and out of the image;
- there is no bias for relative positions, whose table would be one more weight to fit to the size
  of a view.
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
    """What a deformable attention is made of.

    Attributes:
        channels: of the image that it takes, and of what it gives.
        heads: of the attention.
        groups: of neighbouring heads; the points of each move by themselves.
        kernel: odd side in cells of what an offset is computed from.
        stride: side in cells of what has one point.
        offset_range: DAT's range factor s: of n points along a side of length 2, each moves by at
            most s / n; 2 is as far as the next point.
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
    """[b, h, w, c] -> [b, h, w, c]: queries of all cells, keys and values of the image at the
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
        moves = self.offsets(_by_group(q, self.shape.groups))
        points = displaced_points(moves, x.shape[1:3], self.shape.offset_range)
        sampled = _joined(
            sample_bilinear(_by_group(x, self.shape.groups), points), self.shape.groups
        )

        def by_head(a):
            return a.reshape(len(x), -1, self.shape.heads, self.shape.channels // self.shape.heads)

        attended = jax.nn.dot_product_attention(
            by_head(q), by_head(self.k(sampled)), by_head(self.v(sampled))
        )
        return self.out(attended.reshape(x.shape))


class OffsetNetwork(nnx.Module):
    """Queries of a group -> how far its points move, rows before columns, before it is bounded. All
    groups share it, as in DAT's code.
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
    """Points in float32 as (row, column) in cells of an image of `size`, cell centres at whole
    numbers.

    They lie at the centres of h2 x w2 equal parts of the image, moved by tanh(moves) x offset_range
    / (h2, w2) on sides of length 2.
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
    """The image at points (row, column) in cells, between the four cells around each; outside the
    image it is 0. Weights and sums are float32.

    As PyTorch's grid_sample with align_corners, whose -1 and 1 are the first and the last cell
    here. Written as a product with a weight for every
    cell: the gradient of a gather would be a scatter, whose sums a GPU takes in any order.
    """
    rows, columns = (_weights(points[..., i], image.shape[i + 1]) for i in (0, 1))
    weights = rows[..., :, None] * columns[..., None, :]
    # HIGHEST, so that matrix units keep float32.
    sampled = jnp.einsum(
        "bphw,bhwc->bpc", weights, image.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return sampled.astype(image.dtype)


def _weights(place: Float[Array, "b p"], cells: int) -> Float[Array, "b p n"]:
    """Share of each cell of a row or column in what lies at `place`."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(place[..., None] - jnp.arange(cells, dtype=jnp.float32)))


def _by_group(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "bg h w cg"]:
    """Groups of channels as images of their own."""
    b, height, width, _ = x.shape
    return (
        x.reshape(b, height, width, groups, -1)
        .transpose(0, 3, 1, 2, 4)
        .reshape(b * groups, height, width, -1)
    )


def _joined(x: Float[Array, "bg p cg"], groups: int) -> Float[Array, "b p c"]:
    """Points of all groups, their channels beside each other again."""
    count, points, _ = x.shape
    return (
        x.reshape(count // groups, groups, points, -1)
        .transpose(0, 2, 1, 3)
        .reshape(count // groups, points, -1)
    )
