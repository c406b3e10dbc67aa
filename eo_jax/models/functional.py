"""An nnx module as pure functions over nested dicts: NNX defines networks, plain pytrees train them.

Crossing the jit border with dicts instead of modules makes a step of a 12-block ViT dispatch in 0.9 ms instead of 22 ms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from eo_jax.schema import Carry, Params

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a forward pass runs.

    Attributes:
        statistics: "running": BatchNorm normalises by its running statistics; "batch": by the batch, and moves them.
        groups: equal blocks of rows that have BatchNorm statistics of their own ("ghost" batches); 1 for the whole batch.
        key: drop path drops blocks by it; None drops nothing.
    """

    statistics: str = "running"
    groups: int = 1
    key: jax.Array | None = None


EVALUATE = Mode()
TRAIN = Mode("batch")


class Network:
    """The structure of a module, without weights.

    Args:
        make: rngs -> module. Called abstractly here, for real in `init`.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self._graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        """Fresh (weights, running statistics) as nested dicts of arrays."""
        _, params, statistics = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)

    def apply(self, params: Params, statistics: Carry, call: Callable[[nnx.Module], T]) -> tuple[T, Carry]:
        """(`call(module)`, the running statistics after it)."""
        module = nnx.merge(self._graphdef, nnx.State(params), nnx.State(statistics))
        result = call(module)
        return result, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


class Stack(nnx.Module):
    """`depth` equal blocks [b, n, d] -> [b, n, d], their weights stacked along a leading layer axis and run by `lax.scan`.

    One block is traced and compiled instead of `depth`: four times less tracing for 12 blocks. Stacked blocks hold parameters only.

    Args:
        make: rngs -> block.
        remat: "none", or "block" to recompute each block's inside in the backward pass.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, remat: str, *, rngs: nnx.Rngs):
        block = Network(make)
        stacked = jax.vmap(lambda key: block.init(key)[0])(jax.random.split(rngs.params(), depth))
        self.layers = nnx.merge(block._graphdef, nnx.State(stacked))
        self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        graphdef, weights = nnx.split(self.layers)

        def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, nnx.State(weights))(x), None

        if self.remat == "block":
            layer = jax.checkpoint(layer, prevent_cse=False)  # a scan prevents it already
        return jax.lax.scan(layer, x, nnx.to_pure_dict(weights))[0]
