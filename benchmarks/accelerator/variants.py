"""What only a device can judge, tried by a subclass or beside the step: other attention, padded
tokens, one update of all weights at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from benchmarks.accelerator.cases import config_of, experiment_of
from benchmarks.accelerator.scale import Scale
from benchmarks.accelerator.steps import step_figures, updates_s
from eo_jax.experiment import compute_dtype, make_experiment
from eo_jax.models.functional import Network, Stack
from eo_jax.models.layers import transformer_block
from eo_jax.models.layers.attention import Attention
from eo_jax.models.layers.transformer_block import Block
from eo_jax.optim.optimizers import make_optimizer

Figures = Iterator[dict[str, Any]]
# (samples, tokens, width, heads): ViT-L on visible tokens and on whole views, the decoders of MAE
# for 224 px in tokens of 16 and for 128 px in tokens of 4.
_ATTENTION = ((512, 50, 1024, 16), (128, 197, 1024, 16), (512, 197, 512, 16), (128, 1025, 512, 16))
_TOKENS = (37, 40, 48, 50, 56, 64)


class FusedAttention(Attention):
    """Attention by `jax.nn.dot_product_attention`; without a bias of the logits."""

    implementation = "xla"

    def __call__(self, x: jax.Array, bias: None = None) -> jax.Array:
        weight, offset = (jnp.asarray(w[...], self.dtype) for w in (self.qkv, self.qkv_bias))
        q, k, v = jnp.moveaxis(jnp.einsum("bnd,dphc->bnphc", x, weight) + offset, 2, 0)
        attended = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
        return self.out(attended.reshape(x.shape))


class CudnnAttention(FusedAttention):
    """The same by cuDNN."""

    implementation = "cudnn"


ATTENTION = {"present": Attention, "xla": FusedAttention, "cudnn": CudnnAttention}


def attention_layers(scale: Scale) -> Figures:
    """Seconds of an attention layer and its gradient, by shape and implementation; a text where one
    cannot run.
    """
    found: dict[str, dict[str, Any]] = {}
    for shape in scale.pick(_ATTENTION, ((4, 50, 32, 4),)):
        samples, tokens, width, heads = shape
        of_shape = found.setdefault("b{} n{} d{} heads{}".format(*shape), {})
        for name, layer in ATTENTION.items():
            make = functools.partial(_attention, layer, width, heads)
            of_shape[name] = _tried(_layer_s, scale, make, samples, tokens, width)
            yield {"layer_s": found}


def _attention(layer: type[Attention], width: int, heads: int, rngs: nnx.Rngs) -> Attention:
    return layer(width, heads, compute_dtype("auto"), rngs=rngs)


def _tried(measure: Callable[..., float], *arguments: Any) -> float | str:
    """The result, or why there is none: an implementation that this device lacks."""
    try:
        return measure(*arguments)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).strip()[:200]}"


def step_with_attention(scale: Scale, case: str, attention: str, remat: str) -> Figures:
    """The whole step of MAE with another attention in every block, which recomputes `remat`. This
    process measures nothing else.
    """
    transformer_block.Attention = ATTENTION[attention]
    config = config_of(case, scale, {"remat": remat}, {"decoder_remat": remat})
    yield from step_figures(scale, make_experiment(config))


def padded_tokens(scale: Scale) -> Figures:
    """Seconds per sample of blocks of ViT-L and their gradient by number of tokens: padding can pay
    where more tokens take less time. Nothing is masked, so this is what padding gains at most.
    """
    samples, width, heads, depth = scale.pick((512, 1024, 16, 4), (4, 32, 4, 2))

    def make(rngs: nnx.Rngs) -> Stack:
        def block(block_rngs: nnx.Rngs) -> Block:
            return Block(width, heads, compute_dtype("auto"), rngs=block_rngs)

        return Stack(block, depth, "cheap", rngs=rngs)

    found = {}
    for tokens in scale.pick(_TOKENS, _TOKENS[:2]):
        found[tokens] = _layer_s(scale, make, samples, tokens, width) / samples
        yield {"blocks": depth, "sample_s_by_tokens": dict(found)}


def _layer_s(
    scale: Scale, make: Callable[[nnx.Rngs], nnx.Module], samples: int, tokens: int, width: int
) -> float:
    """Seconds of a layer [b, n, d] -> [b, n, d] and its gradient."""
    network, key = Network(make), jax.random.key(0)
    params, _ = network.init(key)
    x = jax.random.normal(key, (samples, tokens, width), compute_dtype("auto"))

    def loss(params, x):
        result, _ = network.apply(params, {}, lambda layer: layer(x))
        return jnp.square(result.astype(jnp.float32)).mean()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile()

    def run(times: int) -> None:
        for _ in range(times):
            result = compiled(params, x)
        jax.block_until_ready(result)

    return scale.step_s(run)["step_s"]


def flat_adamw(scale: Scale, case: str) -> Figures:
    """Seconds of AdamW weight by weight, and on all weights as one vector. At best an update reads
    four float32 numbers per weight and writes three.
    """
    experiment = experiment_of(case, scale)
    weights, _ = jax.jit(experiment.objective.init)(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    yield {"weights": count}
    flat = {"weights": ravel_pytree(weights)[0]}
    for name, params in (("tree", weights), ("flat", flat)):
        optimizer = make_optimizer(experiment.optim, params, experiment.run.steps)
        seconds = updates_s(scale, optimizer, params)
        yield {f"{name}_s": seconds, f"{name}_gb_per_s": 7 * 4 * count / seconds / 1e9}
