"""An nnx module as pure functions over nested dicts: NNX defines networks, pytrees train them.

With dicts instead of modules at the jit border, a step of a 12-block ViT dispatches in 0.9 ms
instead of 22 ms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from eo_jax.schema import Carry, Params

T = TypeVar("T")
Named = Mapping[str, jax.Array]
Inputs = tuple[Params, Named]  # weights and inputs per layer, all [l, ...]
_NOTHING: Named = MappingProxyType({})
LOOPS = ("scan", "unrolled")


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a forward pass runs.

    Attributes:
        statistics: "running": BatchNorm normalises by its running statistics; "batch": by those of
            the batch, and updates the running ones.
        members: float32 [g, n], 1 where sample n is in group g: each group has its own BatchNorm
            statistics ("ghost" batches). None for the whole batch as one group.
        key: random key of drop path; None drops nothing.
    """

    statistics: str = "running"
    members: jax.Array | None = None
    key: jax.Array | None = None

    def of_part(self, index: int) -> Mode:
        """The mode of one of several parts of a batch: each draws its own drop path."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, index))


EVALUATE = Mode()
TRAIN = Mode("batch")


class Network:
    """The structure of a module, without weights.

    Args:
        make: rngs -> module. Only `init` allocates its weights.
        redraw: (key, weights) -> initial weights in place of those; None to keep them.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        redraw: Callable[[jax.Array, Params], Params] | None = None,
    ):
        self._make, self._redraw = make, redraw
        self._graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        """Fresh (weights, running statistics) as nested dicts."""
        _, params, statistics = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        params = nnx.to_pure_dict(params)
        if self._redraw:
            params = self._redraw(key, params)
        return params, nnx.to_pure_dict(statistics)

    def apply(
        self, params: Params, statistics: Carry, call: Callable[[nnx.Module], T]
    ) -> tuple[T, Carry]:
        """(`call(module)`, new running statistics)."""
        module = nnx.merge(self._graphdef, nnx.State(params), nnx.State(statistics))
        result = call(module)
        return result, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


# What a block of a Stack keeps for the backward pass. "cheap" is the default of the trunks:
# normalisation, activation and attention weights are memory-bound, so recomputing them costs less
# than writing and reading them. Scanned on CPU it saves 5 to 10 % of a step and a quarter of its
# memory; unrolled on CPU, XLA compiles it to the same as "none".
REMAT: dict[str, Callable | None] = {
    "none": jax.checkpoint_policies.everything_saveable,
    # keeps products with weights only
    "cheap": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "block": None,  # keeps the block's input only
}


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, computed in float32.

    It uses erf: `jax.nn.gelu` uses erfc, which takes twice as long on CPU. The gradient is computed
    from x only: JAX would keep erf(x) too, which costs more to write and read than to recompute.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_distribution(wide)).astype(x.dtype)


def _normal_distribution(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (0.5 / jnp.pi) ** 0.5
    return (
        (gradient.astype(jnp.float32) * (_normal_distribution(wide) + wide * density)).astype(
            x.dtype
        ),
    )


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Stack(nnx.Module):
    """`depth` equal blocks [b, n, d] -> [b, n, d]; their weights are stacked along a layer axis.

    Blocks hold parameters only. They take further inputs by name: `each` has arrays [l, ...], of
    which every block gets its own slice, `every` has arrays that all blocks share.

    Args:
        make: rngs -> block.
        remat: what the backward pass recomputes; one of `REMAT`.
        loop: "scan": one block is traced and compiled, and `lax.scan` runs it; "unrolled": each is
            compiled, which takes longer the more there are, but avoids the copies of weights and
            gradients in a scan.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        remat: str,
        loop: str = "scan",
        *,
        rngs: nnx.Rngs,
    ):
        block = Network(make)
        stacked = jax.vmap(lambda key: block.init(key)[0])(jax.random.split(rngs.params(), depth))
        self.layers = nnx.merge(block._graphdef, nnx.State(stacked))
        self.depth, self.remat, self.loop = depth, remat, loop

    def __call__(self, x: jax.Array, each: Named = _NOTHING, every: Named = _NOTHING) -> jax.Array:
        """Output of the last block."""
        return self._run(x, self._inputs(each), every)

    def first_token(
        self, x: jax.Array, each: Named = _NOTHING, every: Named = _NOTHING
    ) -> jax.Array:
        """First token [b, 1, d] of the last block's output, by the block's method `first_token`,
        which computes no other.
        """
        before, last = _cut(self._inputs(each), [self.depth - 1, 1])
        return self._layer(every, "first_token")(self._run(x, before, every), _only(last))

    def last(
        self, x: jax.Array, count: int, each: Named = _NOTHING, every: Named = _NOTHING
    ) -> jax.Array:
        """Outputs [count, b, n, d] of the last `count` blocks, in order."""
        if not 1 <= count <= self.depth:
            raise ValueError(
                f"outputs of the last {count} blocks: expected 1 to {self.depth}, the number of "
                "blocks (config.model.trunk.depth)"
            )
        before, last = _cut(self._inputs(each), [self.depth - count, count])
        x = self._run(x, before, every)
        if self.loop == "scan":
            layer = self._layer(every)
            return jax.lax.scan(lambda x, of_layer: (x := layer(x, of_layer), x), x, last)[1]
        return jnp.stack(
            [x := self._run(x, of_layer, every) for of_layer in _cut(last, [1] * count)]
        )

    def _run(self, x: jax.Array, inputs: Inputs, every: Named) -> jax.Array:
        """x after the layers with these inputs."""
        layer = self._layer(every)
        if self.loop == "scan":
            return jax.lax.scan(lambda x, of_layer: (layer(x, of_layer), None), x, inputs)[0]
        for of_layer in _cut(inputs, [1] * len(jax.tree.leaves(inputs)[0])):
            x = layer(x, _only(of_layer))
        return x

    def _inputs(self, each: Named) -> Inputs:
        """The inputs of all layers."""
        return nnx.to_pure_dict(nnx.state(self.layers)), dict(each)

    def _layer(
        self, every: Named, method: str = "__call__"
    ) -> Callable[[jax.Array, Inputs], jax.Array]:
        """(x, inputs of a layer) -> result of the block's method."""
        graphdef = nnx.graphdef(self.layers)

        def layer(x: jax.Array, of_layer: Inputs) -> jax.Array:
            weights, own = of_layer
            return getattr(nnx.merge(graphdef, nnx.State(weights)), method)(x, **own, **every)

        if self.remat == "none":
            return layer
        # In a scan, XLA cannot merge a recomputation with the original anyway.
        in_scan = self.loop == "scan" and method == "__call__"
        return jax.checkpoint(layer, prevent_cse=not in_scan, policy=REMAT[self.remat])


def _cut(inputs: Inputs, layers: Sequence[int]) -> list[Inputs]:
    """The inputs of consecutive groups of layers, `layers[i]` in each.

    The gradient of `split` is one concatenation, the gradient of slices a padded sum.
    """
    leaves, tree = jax.tree.flatten(inputs)
    return [
        tree.unflatten(part)
        for part in zip(*(jax.lax.split(leaf, layers) for leaf in leaves), strict=True)
    ]


def _only(inputs: Inputs) -> Inputs:
    """The inputs of a single layer, without the layer axis."""
    return jax.tree.map(lambda leaf: leaf[0], inputs)
