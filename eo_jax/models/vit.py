"""Vision transformer trunk: token embeddings in, tokens out.

Pre-norm blocks as in timm (exact GELU, LayerNorm epsilon 1e-6, qkv bias); on request registers
(Darcet et al. 2024, arXiv 2309.16588), layer scale (Touvron et al. 2021, arXiv 2103.17239),
stochastic depth (Huang et al. 2016, arXiv 1603.09382) and BEiT's shared relative positions.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import LOOPS, REMAT, Mode, Stack, gelu
from eo_jax.models.layer_norm import LayerNorm
from eo_jax.models.relative_positions import RelativePositions

# size: (width d, depth l, heads); the MLP is four times as wide. "giant" is SpectralEarth's: 1.138
# billion parameters, not 1.8. "nano" is ours, for laptops and for spectra of single pixels.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
    "nano": (96, 6, 3),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """A ViT trunk.

    Attributes:
        size: tiny, small, base, large, huge, giant or nano.
        depth: number of blocks; 0 means that of the size. Tests and laptops use fewer.
        remat: what the backward pass makes again: "none", "cheap" for all but the products with
            weights, or "block" for everything, to save memory.
        loop: how the blocks run: "scan", which compiles one for all, or "unrolled", which compiles
            each.
        pool: what `pooled` features are: "cls", or "mean" over patch tokens.
        registers: learned tokens that travel with the class token and are no part of the output.
        layer_scale: initial value of a learned scale of each residual branch, one a channel; 0 for
            none. BEiT and data2vec: 1e-4 for ViT-S.
        drop_path: share of samples that skip a residual branch of the last block in training; it
            grows linearly from 0 at the first block.
        positions: "sincos" for fixed positions added to the tokens, "relative" for learned offsets
            in attention, shared by all blocks.
        relative_grid: rows and columns of patch tokens of a view under positions="relative", such
            as 14 for 224 pixels in patches of 16; else 0.
    """

    size: str = "small"
    depth: int = 0
    remat: str = "cheap"
    loop: str = "scan"
    pool: str = "cls"
    registers: int = 0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    positions: str = "sincos"
    relative_grid: int = 0

    takes: ClassVar[str] = "tokens"

    def __post_init__(self):
        for field, allowed in (
            ("size", tuple(SIZES)),
            ("remat", tuple(REMAT)),
            ("loop", LOOPS),
            ("pool", ("cls", "mean")),
            ("positions", ("sincos", "relative")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
        for field, meaning in (
            ("depth", "that of the size"),
            ("registers", "none"),
            ("layer_scale", "none"),
            ("relative_grid", "none"),
        ):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)}; expected 0 ({meaning}) "
                    "or more"
                )
        if not 0 <= self.drop_path < 1:
            raise ValueError(
                f"config.model.trunk.drop_path: {self.drop_path}; expected a share from 0 up to, "
                "but not including, 1"
            )
        if (self.positions == "relative") != (self.relative_grid > 0):
            raise ValueError(
                f"config.model.trunk.relative_grid: {self.relative_grid} with "
                f"positions={self.positions!r}; expected the patch tokens on a"
                " view's side with 'relative', and 0 with 'sincos'"
            )

    @property
    def width(self) -> int:
        """Width d of the tokens."""
        return SIZES[self.size][0]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return SIZES[self.size][2]

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.depth or SIZES[self.size][1]

    def multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of a forward pass over `tokens` patch tokens of one sample."""
        return self.layers * block_multiply_adds(1 + self.registers + tokens, self.width)

    def class_token_multiply_adds(self, tokens: int) -> int:
        """Those of `VisionTransformer.class_token`: of the last block, keys and values alone are of
        all tokens.
        """
        every = 1 + self.registers + tokens
        last = 2 * every * self.width**2 + 10 * self.width**2 + 2 * every * self.width
        return (self.layers - 1) * block_multiply_adds(every, self.width) + last

    def build(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> VisionTransformer:
        """The trunk module."""
        return VisionTransformer(self, dtype, rngs=rngs)


def block_multiply_adds(tokens: int, width: int) -> int:
    """Multiply-adds of one block's forward pass for one sample: 12 n d^2 for the projections, 2 n^2
    d for attention.
    """
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def drop_path_rates(last: float, depth: int) -> tuple[float, ...]:
    """The share of samples that skip a branch of each block: linear from 0 to `last`; 0 for a
    single block.
    """
    return tuple(np.linspace(0, last, depth).tolist())


def draw_kept(key: jax.Array, rates: tuple[float, ...], samples: int) -> Float[Array, "l 2 b"]:
    """What each sample's two residual branches of each block are multiplied by: 0 with the block's
    rate, else 1 / (1 - rate).
    """

    def of_block(key: jax.Array, keep: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, keep, (2, samples)) / keep

    return jax.vmap(of_block)(jax.random.split(key, len(rates)), 1 - jnp.array(rates))


class VisionTransformer(nnx.Module):
    """[b, n, d] patch embeddings -> [b, 1 + n, d] normalised tokens, the class token first."""

    def __init__(self, config: Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        self.cls_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))

        def make_block(block_rngs):
            return Block(width, heads, dtype, config.layer_scale, rngs=block_rngs)

        self.blocks = Stack(make_block, config.layers, config.remat, config.loop, rngs=rngs)
        self.norm = LayerNorm(width, dtype)
        self.registers = (
            nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.registers, width)))
            if config.registers
            else None
        )
        self.relative = (
            RelativePositions(config.relative_grid, heads)
            if config.positions == "relative"
            else None
        )
        self.config = config

    def __call__(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b n1 d"]:
        """`tokens` hold their positions already, unless those are relative; `mode.key` turns drop
        path on.
        """
        return self.norm(
            self._without_registers(
                self.blocks(self._prefixed(tokens), *self._beside(tokens, grid, mode))
            )
        )

    def class_token(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b d"]:
        """The class token of the same, for 7 % less work in ViT-S or ViT-B: the last block makes no
        other token.
        """
        return self.norm(
            self.blocks.first_token(self._prefixed(tokens), *self._beside(tokens, grid, mode))
        )[:, 0]

    def last_layers(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode, count: int
    ) -> Float[Array, "l b n1 d"]:
        """Outputs of the last `count` blocks, in order, before the final norm; the others' are not
        kept.
        """
        return self._without_registers(
            self.blocks.last(self._prefixed(tokens), count, *self._beside(tokens, grid, mode))
        )

    def _prefixed(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
        """Class token, registers, patch tokens, in float32: in bfloat16 the sum over the blocks
        would lose small branches, such as scaled ones.
        """
        learned = [self.cls_token, self.registers] if self.config.registers else [self.cls_token]
        everywhere = [
            jnp.broadcast_to(token[...], (len(tokens), *token.shape[1:])) for token in learned
        ]
        return jnp.concatenate([*everywhere, tokens.astype(jnp.float32)], axis=1)

    def _without_registers(self, x: Float[Array, "*l b m d"]) -> Float[Array, "*l b n1 d"]:
        if not self.config.registers:
            return x
        return jnp.concatenate([x[..., :1, :], x[..., 1 + self.config.registers :, :]], axis=-2)

    def _beside(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What each block and what every block takes beside its tokens; empty where nothing is
        asked for.
        """
        each, every = {}, {}
        if self.config.drop_path and mode.key is not None:
            each["kept"] = draw_kept(
                mode.key, drop_path_rates(self.config.drop_path, self.config.layers), len(tokens)
            )
        if self.config.positions == "relative":
            every["bias"] = self.relative(tokens.shape[1], grid, 1 + self.config.registers)
        return each, every


class Block(nnx.Module):
    """Pre-norm transformer block.

    Args:
        layer_scale: initial value of the scales of the two residual branches; 0 for none.
    """

    def __init__(
        self, width: int, heads: int, dtype: jnp.dtype, layer_scale: float = 0.0, *, rngs: nnx.Rngs
    ):
        self.norm1 = LayerNorm(width, dtype)
        self.attention = Attention(width, heads, dtype, rngs=rngs)
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
        """`bias` is added to the attention logits; `kept` is what each sample's attention and MLP
        branch is multiplied by.
        """
        of_attention, of_mlp = (None, None) if kept is None else kept
        x = x + _scaled(self.attention(self.norm1(x), bias), self.attention_scale, of_attention)
        return x + _scaled(self.mlp(self.norm2(x)), self.mlp_scale, of_mlp)

    def first_token(
        self,
        x: Float[Array, "b n d"],
        bias: Float[Array, "1 heads n n"] | None = None,
        kept: Float[Array, "2 b"] | None = None,
    ) -> Float[Array, "b 1 d"]:
        """The first token of the same, without the work for the others, which are keys and values
        only.
        """
        of_attention, of_mlp = (None, None) if kept is None else kept
        first = x[:, :1] + _scaled(
            self.attention.of_first(self.norm1(x), bias), self.attention_scale, of_attention
        )
        return first + _scaled(self.mlp(self.norm2(first)), self.mlp_scale, of_mlp)


def _scaled(
    branch: Float[Array, "b n d"], learned: nnx.Param | None, kept: Float[Array, " b"] | None
) -> Float[Array, "b n d"]:
    """A residual branch times its learned scale, a number a channel, and times what says which
    samples keep it.
    """
    branch = branch.astype(jnp.float32)
    if learned is not None:
        branch = branch * learned[...]
    return branch if kept is None else branch * kept[:, None, None]


class Attention(nnx.Module):
    """Multi-head self-attention; q, k and v are one weight [d, 3, heads, head_dim], so that a split
    over heads never mixes them.
    """

    def __init__(self, width: int, heads: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        head = width // heads
        init = jax.nn.initializers.variance_scaling(
            1.0, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2, 3)
        )
        self.qkv = nnx.Param(init(rngs.params(), (width, 3, heads, head)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head)))
        self.out = Dense(width, width, dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b n d"]:
        """`bias` is added to the logits, in float32."""
        return self._attended(*self._projected(x, slice(0, 3)), bias)

    def of_first(
        self, x: Float[Array, "b n d"], bias: Float[Array, "1 heads n n"] | None = None
    ) -> Float[Array, "b 1 d"]:
        """The same of the first token alone, which attends to all."""
        (q,), (k, v) = self._projected(x[:, :1], slice(0, 1)), self._projected(x, slice(1, 3))
        return self._attended(q, k, v, None if bias is None else bias[:, :, :1])

    def _projected(self, x: Float[Array, "b n d"], parts: slice) -> Float[Array, "p b heads n c"]:
        """Those of q, k and v. Heads before tokens once, for all of them: each product of the
        attention would else turn its operands by itself.
        """
        weight, bias = (
            jnp.asarray(array, self.dtype) for array in (self.qkv[:, parts], self.qkv_bias[parts])
        )
        product = add_bias(
            x.reshape(-1, x.shape[-1]) @ weight.reshape(len(weight), -1), bias.reshape(-1)
        )
        return product.reshape(*x.shape[:2], *bias.shape).transpose(2, 0, 3, 1, 4)

    def _attended(
        self,
        q: Float[Array, "b heads m c"],
        k: Array,
        v: Array,
        bias: Float[Array, "1 heads m n"] | None,
    ) -> Float[Array, "b m d"]:
        logits = (
            jnp.einsum("bhqc,bhkc->bhqk", q, k, preferred_element_type=jnp.float32)
            * q.shape[-1] ** -0.5
        )
        weights = jax.nn.softmax(logits if bias is None else logits + bias)
        attended = jnp.einsum("bhqk,bhkc->bhqc", weights.astype(self.dtype), v)
        return self.out(attended.transpose(0, 2, 1, 3).reshape(len(q), q.shape[2], -1))


class MLP(nnx.Module):
    """Two dense layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.fc1 = Dense(width, hidden, dtype, rngs=rngs)
        self.fc2 = Dense(hidden, width, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(gelu(self.fc1(x)))


class Dense(nnx.Linear):
    """A linear layer as MAE initialises it: Xavier-uniform weight, zero bias; computes in `dtype`,
    holds float32.
    """

    def __init__(self, fan_in: int, fan_out: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        super().__init__(
            fan_in, fan_out, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs
        )

    def __call__(self, x: Float[Array, "*row i"]) -> Float[Array, "*row o"]:
        x, kernel, bias = (
            jnp.asarray(array, self.dtype) for array in (x, self.kernel[...], self.bias[...])
        )
        product = x.reshape(-1, x.shape[-1]) @ kernel
        return add_bias(product, bias).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def add_bias(rows: Float[Array, "r o"], bias: Float[Array, " o"]) -> Float[Array, "r o"]:
    """A bias to every row. Its gradient is a product with ones: ten times as fast as XLA's sum over
    rows on CPU.
    """
    return rows + bias


def _add_bias_forward(rows: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return rows + bias, None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jnp.ones(len(gradient), gradient.dtype) @ gradient


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
