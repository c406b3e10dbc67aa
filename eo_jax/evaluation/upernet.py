"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) as PANGAEA has it on frozen transformers."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.evaluation.dense_heads import DenseHead, enlarged
from eo_jax.evaluation.depths import LEVELS, levels_of

_POOLS = (1, 2, 3, 6)  # cells per side


class Convolution(nnx.Module):
    """A convolution with bias, BatchNorm and ReLU."""

    def __init__(self, width: int, channels: int, side: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(width, channels, (side, side), rngs=rngs)
        self.norm = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        return jax.nn.relu(self.norm(self.conv(x), use_running_average=not train))


class Pyramid(nnx.Module):
    """Four maps of the same side h become maps of 4 h, 2 h, h and h / 2."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        def doubled():
            return nnx.ConvTranspose(width, width, (2, 2), strides=(2, 2), rngs=rngs)

        self.first, self.second, self.only = doubled(), doubled(), doubled()
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(
        self, maps: list[Float[Array, "b h w d"]], train: bool
    ) -> list[Float[Array, "b _ _ d"]]:
        finest = self.norm(self.first(maps[0]), use_running_average=not train)
        finest = self.second(jax.nn.gelu(finest, approximate=False))
        side = 2 if min(maps[3].shape[1:3]) > 1 else 1  # a single cell stays
        coarsest = nnx.max_pool(maps[3], (side, side), (side, side))
        return [finest, self.only(maps[1]), maps[2], coarsest]


class UperNetHead(DenseHead):
    """Pyramid pooling of the coarsest map, and a feature pyramid network over all four.

    A plain transformer has one scale, so its pyramid is made of four of its depths; of features of
    one depth it is made as in ViTDet (arXiv 2203.16527).
    """

    title = "UPerNet of 512 channels"
    several_depths = True
    channels: ClassVar[int] = 512

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        n = self.channels
        self.pyramid = Pyramid(width, rngs=rngs)
        self.pools = nnx.List([Convolution(width, n, 1, rngs=rngs) for _ in _POOLS])
        self.pooled = Convolution(width + len(_POOLS) * n, n, 3, rngs=rngs)
        self.laterals = nnx.List([Convolution(width, n, 1, rngs=rngs) for _ in range(LEVELS - 1)])
        self.smooth = nnx.List([Convolution(n, n, 3, rngs=rngs) for _ in range(LEVELS - 1)])
        self.fused = Convolution(LEVELS * n, n, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, broadcast_dims=(1, 2), rngs=rngs)  # whole channels
        self.last = nnx.Linear(n, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w l d"], train: bool) -> Float[Array, "b H W k"]:
        *fine, coarse = self.pyramid(levels_of(x), train)
        maps = [lateral(level, train) for lateral, level in zip(self.laterals, fine, strict=True)]
        maps.append(self._pyramid_pooled(coarse, train))
        for i in range(LEVELS - 2, -1, -1):
            maps[i] += enlarged(maps[i + 1], maps[i].shape[1:3])
        outputs = [smooth(level, train) for smooth, level in zip(self.smooth, maps, strict=False)]
        outputs.append(maps[-1])
        size = outputs[0].shape[1:3]
        found = self.fused(jnp.concatenate([enlarged(out, size) for out in outputs], -1), train)
        return self.last(self.dropout(found, deterministic=not train))

    def _pyramid_pooled(self, x: Array, train: bool) -> Array:
        size = x.shape[1:3]
        pooled = [
            enlarged(pool(adaptive_mean(x, cells), train), size)
            for pool, cells in zip(self.pools, _POOLS, strict=True)
        ]
        return self.pooled(jnp.concatenate([x, *pooled], -1), train)


def adaptive_mean(x: Float[Array, "b h w d"], cells: int) -> Float[Array, "b c c d"]:
    """Means over `cells` x `cells` parts of a map, which overlap where they do not fit."""
    rows, columns = (_parts(side, cells) for side in x.shape[1:3])
    return jnp.einsum("rh,bhwd,cw->brcd", rows, x, columns)


def _parts(side: int, cells: int) -> np.ndarray:
    """float32 [cells, side]: the weights of a mean from floor(i side / cells) to
    ceil((i + 1) side / cells).
    """
    i, at = np.arange(cells)[:, None], np.arange(side)
    inside = (at >= i * side // cells) & (at < -(-(i + 1) * side // cells))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
