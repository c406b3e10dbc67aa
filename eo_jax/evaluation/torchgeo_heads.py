"""torchgeo-bench's heads for maps, on four depths of a transformer. Its DPT is not here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.evaluation.dense_heads import DenseHead
from eo_jax.evaluation.depths import LEVELS, levels_of

_HIDDEN = 256


def _norm(width: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(width, momentum=0.9, rngs=rngs)


class LinearOfDepths(DenseHead):
    """BatchNorm and a linear layer per token for each depth; logits are added with learned weights,
    which are 1 at first.
    """

    title = "BatchNorm and linear layer per token"
    several_depths = True

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([_norm(width, rngs) for _ in range(LEVELS)])
        self.layers = nnx.List([nnx.Linear(width, classes, rngs=rngs) for _ in range(LEVELS)])
        self.weights = nnx.Param(jnp.ones(LEVELS))

    def __call__(self, x: Float[Array, "b h w l d"], train: bool) -> Float[Array, "b h w k"]:
        logits = [
            layer(norm(level, use_running_average=not train))
            for layer, norm, level in zip(self.layers, self.norms, levels_of(x), strict=True)
        ]
        return jnp.tensordot(jnp.stack(logits, axis=-1), self.weights[...], 1)


class ConvBlockHead(DenseHead):
    """For each depth a linear layer to 256 channels without bias, BatchNorm and SiLU; all of them
    side by side, and a linear layer.
    """

    title = "conv block of 256 channels"
    several_depths = True

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(width, _HIDDEN, use_bias=False, rngs=rngs) for _ in range(LEVELS)]
        )
        self.norms = nnx.List([_norm(_HIDDEN, rngs) for _ in range(LEVELS)])
        self.last = nnx.Linear(LEVELS * _HIDDEN, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w l d"], train: bool) -> Float[Array, "b h w k"]:
        found = [
            jax.nn.silu(norm(layer(level), use_running_average=not train))
            for layer, norm, level in zip(self.layers, self.norms, levels_of(x), strict=True)
        ]
        return self.last(jnp.concatenate(found, axis=-1))


class FpnHead(DenseHead):
    """A feature pyramid network: each depth normalised and brought to 256 channels, deeper ones
    added to those before, a 3 x 3 convolution without bias, BatchNorm and ReLU for each; all of
    them side by side, and a linear layer.
    """

    title = "FPN of 256 channels"
    several_depths = True

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        self.inputs = nnx.List([_norm(width, rngs) for _ in range(LEVELS)])
        self.laterals = nnx.List(
            [nnx.Linear(width, _HIDDEN, use_bias=False, rngs=rngs) for _ in range(LEVELS)]
        )
        self.convs = nnx.List(
            [nnx.Conv(_HIDDEN, _HIDDEN, (3, 3), use_bias=False, rngs=rngs) for _ in range(LEVELS)]
        )
        self.norms = nnx.List([_norm(_HIDDEN, rngs) for _ in range(LEVELS)])
        self.last = nnx.Linear(LEVELS * _HIDDEN, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w l d"], train: bool) -> Float[Array, "b h w k"]:
        maps = [
            lateral(norm(level, use_running_average=not train))
            for lateral, norm, level in zip(self.laterals, self.inputs, levels_of(x), strict=True)
        ]
        for i in range(LEVELS - 2, -1, -1):
            maps[i] += maps[i + 1]
        found = [
            jax.nn.relu(norm(conv(level), use_running_average=not train))
            for norm, conv, level in zip(self.norms, self.convs, maps, strict=True)
        ]
        return self.last(jnp.concatenate(found, axis=-1))
