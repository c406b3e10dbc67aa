"""Vision transformer trunk: token embeddings in, tokens out. Pre-norm blocks as in timm (exact GELU, LayerNorm epsilon 1e-6, qkv bias)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import Mode, Stack

# size: (width d, depth l, heads); the MLP is four times as wide. "giant" is SpectralEarth's: 1.138 billion parameters, not 1.8.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """A ViT trunk.

    Attributes:
        size: tiny, small, base, large, huge or giant.
        depth: number of blocks; 0 means that of the size. Tests and laptops use fewer.
        remat: "none", or "block" to trade compute for memory.
        pool: what `pooled` features are: "cls", or "mean" over patch tokens.
    """

    size: str = "small"
    depth: int = 0
    remat: str = "none"
    pool: str = "cls"

    takes: ClassVar[str] = "tokens"
    positions: ClassVar[str] = "sincos"

    def __post_init__(self):
        for field, allowed in (("size", tuple(SIZES)), ("remat", ("none", "block")), ("pool", ("cls", "mean"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"config.model.trunk.{field}: {getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        if self.depth < 0:
            raise ValueError(f"config.model.trunk.depth: {self.depth}; expected 0 (that of the size) or more")

    @property
    def width(self) -> int:
        """Width d of the tokens."""
        return SIZES[self.size][0]

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.depth or SIZES[self.size][1]

    def multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of a forward pass over `tokens` patch tokens of one sample."""
        return self.layers * block_multiply_adds(1 + tokens, self.width)

    def build(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> VisionTransformer:
        """The trunk module."""
        width, _, heads = SIZES[self.size]
        return VisionTransformer(width, self.layers, heads, self.remat, dtype, rngs=rngs)


def block_multiply_adds(tokens: int, width: int) -> int:
    """Multiply-adds of one block's forward pass for one sample: 12 n d^2 for the projections, 2 n^2 d for attention."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


class VisionTransformer(nnx.Module):
    """[b, n, d] patch embeddings with positions -> [b, 1 + n, d] normalised tokens, the class token first."""

    def __init__(self, width: int, depth: int, heads: int, remat: str, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.cls_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))
        self.blocks = Stack(lambda block_rngs: Block(width, heads, dtype, rngs=block_rngs), depth, remat, rngs=rngs)
        self.norm = LayerNorm(width, dtype)

    def __call__(self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode) -> Float[Array, "b n1 d"]:
        cls_token = jnp.broadcast_to(self.cls_token[...].astype(tokens.dtype), (len(tokens), 1, tokens.shape[-1]))
        return self.norm(self.blocks(jnp.concatenate([cls_token, tokens], axis=1)))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(width, dtype)
        self.attention = Attention(width, heads, dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, dtype)
        self.mlp = MLP(width, 4 * width, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Multi-head self-attention; q, k and v are one weight [d, 3, heads, head_dim], so that a split over heads never mixes them."""

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        head = width // heads
        init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2, 3))
        self.qkv = nnx.Param(init(rngs.params(), (width, 3, heads, head)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head)))
        self.out = Dense(width, width, dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        qkv = jnp.einsum("bnd,dshk->sbnhk", x, self.qkv[...].astype(self.dtype)) + self.qkv_bias[...].astype(self.dtype)[:, None, None]
        attended = jax.nn.dot_product_attention(*qkv)
        return self.out(attended.reshape(x.shape))


class MLP(nnx.Module):
    """Two dense layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = Dense(width, hidden, dtype, rngs=rngs)
        self.fc2 = Dense(hidden, width, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Dense(nnx.Linear):
    """A linear layer as MAE initialises it: Xavier-uniform weight, zero bias; computes in `dtype`, holds float32."""

    def __init__(self, fan_in: int, fan_out: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        super().__init__(fan_in, fan_out, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with epsilon 1e-6; moments in float32, in two passes, because the fast formula loses digits that the exported weights keep."""

    def __init__(self, width: int, dtype: jnp.dtype):
        super().__init__(width, epsilon=1e-6, dtype=dtype, use_fast_variance=False, rngs=nnx.Rngs(0))
