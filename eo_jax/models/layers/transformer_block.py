"""The pre-norm transformer block of a ViT, with stochastic depth (drop path)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.layers.attention import Attention
from eo_jax.models.layers.dense import MLP
from eo_jax.models.layers.layer_norm import LayerNorm

RESIDUALS = ("float32", "compute")


def residual_dtype(residual: str, compute: jnp.dtype) -> jnp.dtype:
    """Type of the residual stream of a network that computes in `compute`."""
    return jnp.dtype(jnp.float32) if residual == "float32" else compute


def drop_path_rates(last: float, depth: int) -> tuple[float, ...]:
    """Probability per block that a sample skips a branch: linear from 0 to `last`; 0 for a single
    block.
    """
    return tuple(np.linspace(0, last, depth).tolist())


def draw_drop_path(key: jax.Array, rates: tuple[float, ...], samples: int) -> Float[Array, "l 2 b"]:
    """Factors of the two residual branches, per block and sample: 0 with the block's probability,
    otherwise 1 / (1 - probability).
    """

    def of_block(key: jax.Array, keep: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, keep, (2, samples)) / keep

    return jax.vmap(of_block)(jax.random.split(key, len(rates)), 1 - jnp.array(rates))


class Block(nnx.Module):
    """Pre-norm transformer block; the residual stream keeps the type that it comes in.

    Args:
        layer_scale: initial value of the scales of the two residual branches; 0 for none.
        attention: one of `attention_kernel.ATTENTIONS`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dtype: jnp.dtype,
        layer_scale: float = 0.0,
        attention: str = "auto",
        *,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, dtype)
        self.attention = Attention(width, heads, dtype, attention, rngs=rngs)
        self.norm2 = LayerNorm(width, dtype)
        self.mlp = MLP(width, 4 * width, dtype, rngs=rngs)

        def learned_scale():
            return nnx.Param(jnp.full(width, layer_scale)) if layer_scale else None

        self.attention_scale, self.mlp_scale = learned_scale(), learned_scale()

    def __call__(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "1 heads n n"] | None = None,
        kept: Float[Array, "2 b"] | None = None,
    ) -> Float[Array, "b n d"]:
        """`bias` is added to the attention logits; `kept` has each sample's factors of the
        attention and the MLP branch.
        """
        of_attention, of_mlp = (None, None) if kept is None else kept
        x = _add_branch(x, self.attention(self.norm1(x), bias), self.attention_scale, of_attention)
        return _add_branch(x, self.mlp(self.norm2(x)), self.mlp_scale, of_mlp)

    def first_token(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "1 heads n n"] | None = None,
        kept: Float[Array, "2 b"] | None = None,
    ) -> Float[Array, "b 1 d"]:
        """First token of the output only; the others serve as keys and values."""
        of_attention, of_mlp = (None, None) if kept is None else kept
        attended = self.attention.first_token(self.norm1(x), bias)
        first = _add_branch(x[:, :1], attended, self.attention_scale, of_attention)
        return _add_branch(first, self.mlp(self.norm2(first)), self.mlp_scale, of_mlp)


def _add_branch(
    x: Float[Array, "b n d"],
    branch: Float[Array, "b n d"],
    learned: nnx.Param | None,
    kept: Float[Array, " b"] | None,
) -> Float[Array, "b n d"]:
    """x plus a residual branch times its learned scale per channel and its factor per sample. The
    sum is computed in float32 and has the type of x.
    """
    branch = branch.astype(jnp.float32)
    if learned is not None:
        branch = branch * learned[...]
    if kept is not None:
        branch = branch * kept[:, None, None]
    return (x + branch).astype(x.dtype)
