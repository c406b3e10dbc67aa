"""ResNet trunk: an image of features in, a smaller and deeper one out (He et al. 2016, arXiv
1512.03385; strides and names as in torchvision).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.models.layers.attention_points import AsInDAT, Centred
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.conv import Conv, valid_cells
from eo_jax.models.layers.deformable_attention import AttentionShape, DeformableAttention
from eo_jax.schema import Carry, Params

# depth: (blocks per stage, kind of block)
_DEPTHS = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
}
_WIDTHS = (64, 128, 256, 512)
# stage: (kernel, stride) of the offset network of its attention
_ATTENTION = {3: (5, 2), 4: (3, 1)}
# stage: side in cells of a view of 224 pixels, which DeCUR's tables of position bias are for
_CELLS = {3: 14, 4: 7}
_HEAD = 128  # channels
_NONE: Mapping[int, AttentionShape] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Config:
    """A ResNet trunk.

    Attributes:
        depth: 18, 34, 50 or 101.
        first_block: "plain" as in torchvision, behind a stem that has reduced the image already; or
            "strided", which takes an image at full resolution and halves it between convolutions of
            256 channels, as SpectralEarth's SpecResNet-50 does.
        attention: "none", or deformable attention that is added to the image after each of the
            last two stages, as in DeCUR (RDA; arXiv 2309.05300), with heads of 128 channels; two
            heads share their points. "deformable" is ours, for views of any size; "dat" is as
            released, which published weights are for (`deformable_attention` has the differences).
            Cells without data are treated like any others.
        remat: "none", or "block" to recompute blocks in the backward pass, which saves memory.
        blocks: number of blocks per stage; () for those of the depth. Tests and laptops use fewer,
            and fewer stages.
    """

    depth: int = 50
    first_block: str = "plain"
    attention: str = "none"
    remat: str = "none"
    blocks: tuple[int, ...] = ()

    input_kind: ClassVar[str] = "image"

    def __post_init__(self):
        options = {
            "depth": tuple(_DEPTHS),
            "first_block": ("plain", "strided"),
            "attention": ("none", "deformable", "dat"),
            "remat": ("none", "block"),
        }
        for field, allowed in options.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(map(str, allowed))}"
                )
        if self.first_block == "strided" and self._block == "basic":
            raise ValueError(
                "config.model.trunk.first_block: 'strided' is for bottlenecks, depth 50 or 101, "
                f"and not for depth {self.depth}; use 'plain'"
            )
        if len(self.blocks) > len(_WIDTHS) or min(self.blocks, default=1) < 1:
            raise ValueError(
                f"config.model.trunk.blocks: {self.blocks}; expected one number of blocks, 1 or "
                "more, for each of up to 4 stages; or ()"
            )
        if self.attention != "none" and self._stages < len(_WIDTHS):
            raise ValueError(
                f"config.model.trunk.blocks: {self.blocks} has too few stages; "
                f"attention={self.attention!r} comes after the third and fourth"
            )

    @property
    def width(self) -> int:
        """Width d of the features."""
        return self._channels(self._stages)

    @property
    def stride(self) -> int:
        """Side of a feature in cells of the input image."""
        return 2**self._stages if self.first_block == "strided" else 2 ** (self._stages - 1)

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
        """The trunk for images of `channels`."""
        return ResNet(self.stages(channels), self.remat, dtype, self.attentions(), rngs=rngs)

    def stages(self, channels: int) -> list[list[BlockShape]]:
        """The blocks of each stage, for images of `channels`."""
        stages = []
        for i, number in enumerate(self._blocks):
            width = _WIDTHS[i]
            stages.append([])
            for j in range(number):
                convolutions = _convolutions(self._block, width, 2 if i and not j else 1)
                if self.first_block == "strided" and i == j == 0:
                    convolutions = (
                        Convolution(1, 1, 256),
                        Convolution(3, 2, 256),
                        Convolution(1, 1, 256),
                    )
                stages[-1].append(BlockShape(channels, convolutions))
                channels = convolutions[-1].channels
        return stages

    def attentions(self) -> dict[int, AttentionShape]:
        """{stage, counted from 1: the attention after it}."""
        if self.attention == "none":
            return {}
        shapes = {}
        for i, (kernel, stride) in _ATTENTION.items():
            heads = self._channels(i) // _HEAD
            points = AsInDAT(_CELLS[i]) if self.attention == "dat" else Centred()
            shapes[i] = AttentionShape(
                self._channels(i), heads, max(1, heads // 2), kernel, stride, points
            )
        return shapes

    def _channels(self, stage: int) -> int:
        """Output channels of a stage, counted from 1."""
        return _convolutions(self._block, _WIDTHS[stage - 1], 1)[-1].channels

    @property
    def _blocks(self) -> tuple[int, ...]:
        return self.blocks or _DEPTHS[self.depth][0]

    @property
    def _stages(self) -> int:
        return len(self._blocks)

    @property
    def _block(self) -> str:
        return _DEPTHS[self.depth][1]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Kernel, stride and output channels of a convolution."""

    kernel: int
    stride: int
    channels: int


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """A residual block: its input channels and its convolutions in order."""

    channels_in: int
    convolutions: tuple[Convolution, ...]

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.convolutions[-1].channels

    @property
    def stride(self) -> int:
        """Stride of the whole block; at most one convolution is strided."""
        return max(convolution.stride for convolution in self.convolutions)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution, since input and output differ in shape."""
        return self.stride > 1 or self.channels_in != self.channels


def _convolutions(block: str, width: int, stride: int) -> tuple[Convolution, ...]:
    if block == "basic":
        return Convolution(3, stride, width), Convolution(3, 1, width)
    return Convolution(1, 1, width), Convolution(3, stride, width), Convolution(1, 1, 4 * width)


class ResNet(nnx.Module):
    """[b, h, w, c] -> [b, h', w', d], without pooling and classifier.

    Args:
        attentions: see `Config.attentions`. They are initialised last, so that the other weights
            are those of a ResNet without attention.
    """

    def __init__(
        self,
        stages: list[list[BlockShape]],
        remat: str,
        dtype: jnp.dtype,
        attentions: Mapping[int, AttentionShape] = _NONE,
        *,
        rngs: nnx.Rngs,
    ):
        for i, shapes in enumerate(stages, start=1):
            setattr(self, f"layer{i}", Stage(shapes, remat, dtype, rngs=rngs))
        for i, shape in attentions.items():
            setattr(self, f"attention{i}", DeformableAttention(shape, dtype, rngs=rngs))
        self.stages, self.attention_stages, self.remat = len(stages), tuple(attentions), remat

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """Only `valid` cells count in BatchNorm statistics."""
        attend = _recompute if self.remat == "block" else DeformableAttention.__call__
        for i in range(1, self.stages + 1):
            image, valid = getattr(self, f"layer{i}")(image, valid, mode)
            if i in self.attention_stages:
                image = image + attend(getattr(self, f"attention{i}"), image)
        return image


class Stage(nnx.Module):
    """Residual blocks of one width, in a plain loop: a scan could not update running statistics."""

    def __init__(self, shapes: list[BlockShape], remat: str, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        for j, shape in enumerate(shapes):
            setattr(self, f"block{j}", ResidualBlock(shape, dtype, rngs=rngs))
        self.shapes, self.remat = tuple(shapes), remat

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> tuple[Float[Array, "b h2 w2 d"], Bool[Array, "b h2 w2"]]:
        """(features, their valid mask)."""
        run = _recompute if self.remat == "block" else ResidualBlock.__call__
        for j, shape in enumerate(self.shapes):
            x = run(getattr(self, f"block{j}"), x, valid, mode)
            valid = valid_cells(valid, shape.stride)
        return x, valid


class ResidualBlock(nnx.Module):
    """Convolutions with BatchNorm and ReLU, plus a shortcut, and a ReLU of the sum."""

    def __init__(self, shape: BlockShape, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        channels = shape.channels_in
        for i, (kernel, stride, width) in enumerate(
            map(dataclasses.astuple, shape.convolutions), start=1
        ):
            setattr(self, f"conv{i}", Conv(channels, width, kernel, stride, dtype, rngs=rngs))
            setattr(self, f"norm{i}", BatchNorm(width))
            channels = width
        if shape.projects:
            self.shortcut_conv = Conv(
                shape.channels_in, shape.channels, 1, shape.stride, dtype, rngs=rngs
            )
            self.shortcut_norm = BatchNorm(shape.channels)
        self.shape = shape

    def __call__(
        self, x: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        inside, last = x, len(self.shape.convolutions)
        for i, convolution in enumerate(self.shape.convolutions, start=1):
            valid = valid_cells(valid, convolution.stride)
            inside = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(inside), valid, mode)
            inside = inside if i == last else jax.nn.relu(inside)
        if self.shape.projects:
            x = self.shortcut_norm(self.shortcut_conv(x), valid, mode)
        return jax.nn.relu(x + inside)


def _recompute(block: nnx.Module, x: Array, *args: Any) -> Array:
    """block(x, *args), recomputed in the backward pass; its running statistics are updated once."""
    graphdef, params, statistics = nnx.split(block, nnx.Param, nnx.BatchStat)

    @jax.checkpoint
    def run(params: Params, statistics: Carry, x: Array) -> tuple[Array, Carry]:
        module = nnx.merge(graphdef, nnx.State(params), nnx.State(statistics))
        return module(x, *args), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    x, updated = run(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), x)
    nnx.update(block, nnx.State(updated))
    return x
