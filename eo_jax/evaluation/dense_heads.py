"""Heads that are trained on frozen dense features to predict maps of classes."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

IGNORED = -1


class DenseHead(nnx.Module):
    """A head (width, classes, patch, rngs=...) whose call takes dense features, and whether it
    trains, and gives logits of any resolution.

    Attributes:
        title: for tables.
        several_depths: whether it takes [b, h, w, l, d] of `depths.Depths`.
    """

    title: ClassVar[str]
    several_depths: ClassVar[bool] = False


class LinearHead(DenseHead):
    """A linear layer per token, then bilinear interpolation to the labels."""

    title = "linear layer per token"

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        self.last = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        return self.last(x)


class ConvHead(DenseHead):
    """SpectralEarth's head for transformers: for every factor of two of the patch, bilinear
    enlargement, a 3 x 3 convolution, BatchNorm and ReLU; the last convolution gives the classes.
    """

    title = "enlarging convolutions"

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        steps = max(1, round(math.log2(patch)))
        widths = [width, *(max(128 >> i, 16) for i in range(steps - 1)), classes]
        self.convs = nnx.List(
            [nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nnx.List([nnx.BatchNorm(b, momentum=0.9, rngs=rngs) for b in widths[1:-1]])
        self.factor = 2 if patch > 1 else 1

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        for i, conv in enumerate(self.convs):
            x = conv(enlarged(x, (x.shape[1] * self.factor, x.shape[2] * self.factor)))
            if i < len(self.norms):
                x = jax.nn.relu(self.norms[i](x, use_running_average=not train))
        return x


class FcnHead(DenseHead):
    """SpectralEarth's head for ResNets: a 3 x 3 convolution to an eighth of the channels without
    bias, BatchNorm, ReLU, a 1 x 1 convolution.
    """

    title = "FCN"

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        inner = max(width // 8, 1)
        self.conv = nnx.Conv(width, inner, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(inner, momentum=0.9, rngs=rngs)
        self.last = nnx.Conv(inner, classes, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        return self.last(jax.nn.relu(self.norm(self.conv(x), use_running_average=not train)))


def enlarged(x: Float[Array, "b h w k"], size: tuple[int, int]) -> Float[Array, "b H W k"]:
    """Bilinear interpolation, without smoothing where the size is smaller, as in PyTorch."""
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), "linear", antialias=False)


def cross_entropy(logits: Float[Array, "b h w k"], y: Int[Array, "b h w"]) -> Float[Array, ""]:
    """Mean over the pixels with a class."""
    counts = y != IGNORED
    found = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, y, 0))
    return jnp.where(counts, found, 0.0).sum() / jnp.maximum(counts.sum(), 1)
