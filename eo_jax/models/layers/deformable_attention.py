"""Deformable attention: every cell of an image attends to points whose positions depend on the
image (DAT; Xia et al. 2022, arXiv 2201.00520).

It has two forms, which are two networks. With points `AsInDAT` it is the authors' code, as DeCUR
uses it: published weights are for this form. With points `Centred` it has three differences:
- Offsets are always bounded. Their code bounds them if it is given a range factor; DeCUR gives none
  and clips points to the image instead.
- Points start at the centres of their cells. Their code divides by one cell too few, which moves
  them towards the lower right and out of the image.
- There is no relative position bias, whose table is for one size of views.

Both are initialised as PyTorch does it.
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
from eo_jax.models.layers.attention_points import AsInDAT, Centred
from eo_jax.models.layers.bilinear import EXACT, cell_weights, sample_bilinear
from eo_jax.models.layers.conv import DepthwiseConv
from eo_jax.models.layers.layer_norm import TORCH_EPSILON, LayerNorm

_CENTRED = Centred()


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """The sizes of a deformable attention.

    Attributes:
        channels: number of channels of input and output.
        heads: number of attention heads.
        groups: number of groups of neighbouring heads; each group has its own points.
        kernel: odd side in cells of the window from which an offset is computed.
        stride: distance between points, in cells.
        points: where its points are, and whether it has a relative position bias.
    """

    channels: int
    heads: int
    groups: int
    kernel: int
    stride: int
    points: Centred | AsInDAT = _CENTRED

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
        if isinstance(shape.points, AsInDAT):
            self.position_bias = PositionBias(shape.heads, shape.points.cells, rngs=rngs)
        self.shape = shape

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        q = self.q(x)
        moves = self.offsets(_split_groups(q, self.shape.groups))
        points = self.shape.points.place(moves, x.shape[1:3])
        sampled = _join_groups(
            sample_bilinear(_split_groups(x, self.shape.groups), points), self.shape.groups
        )

        def by_head(a):
            return a.reshape(len(x), -1, self.shape.heads, self.shape.channels // self.shape.heads)

        attended = jax.nn.dot_product_attention(
            by_head(q),
            by_head(self.k(sampled)),
            by_head(self.v(sampled)),
            bias=self._bias(points, x.shape[1:3]),
        )
        return self.out(attended.reshape(x.shape))

    def _bias(
        self, points: Float[Array, "bg p 2"], size: tuple[int, int]
    ) -> Float[Array, "b heads n p"] | None:
        """What is added to the logits of cells and points."""
        if not isinstance(self.shape.points, AsInDAT):
            return None
        return self.position_bias(points.reshape(-1, self.shape.groups, *points.shape[1:]), size)


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


class PositionBias(nnx.Module):
    """Relative position bias of points between cells: a table [heads, 2 cells - 1, 2 cells - 1] of
    the displacements between any two cells of an image of cells x cells, sampled bilinearly.
    """

    def __init__(self, heads: int, cells: int, *, rngs: nnx.Rngs):
        shape = (heads, 2 * cells - 1, 2 * cells - 1)
        self.table = nnx.Param(nnx.initializers.normal(0.01)(rngs.params(), shape))
        self.cells = cells

    def __call__(
        self, points: Float[Array, "b g p 2"], size: tuple[int, int]
    ) -> Float[Array, "b heads n p"]:
        """The bias of attention logits for all n cells of an image of `size`, in float32.

        A displacement along a side depends on the row or the column alone, and so do its weights:
        [n, p, entries of the whole table] is never made.
        """

        def weights(axis: int) -> Float[Array, "b g h p t"]:
            displacement = np.arange(size[axis])[:, None] - points[..., None, :, axis]
            per_cell = (self.cells - 1) / (size[axis] - 1)  # 1 for the size of the table
            return cell_weights(self.cells - 1 + displacement * per_cell, 2 * self.cells - 1)

        of_groups = jnp.reshape(self.table[...], (points.shape[1], -1, *self.table.shape[1:]))
        bias = jnp.einsum(
            "bgips,gkst,bgjpt->bgkijp", weights(0), of_groups, weights(1), precision=EXACT
        )
        return bias.reshape(len(points), -1, size[0] * size[1], points.shape[2])


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
