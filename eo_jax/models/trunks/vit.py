"""Vision transformer trunk: token embeddings in, tokens out.

Pre-norm blocks as in timm (exact GELU, LayerNorm epsilon 1e-6, qkv bias); optionally registers
(Darcet et al. 2024, arXiv 2309.16588), layer scale (Touvron et al. 2021, arXiv 2103.17239),
stochastic depth (Huang et al. 2016, arXiv 1603.09382), and positions that are learned or BEiT's
shared relative ones.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.functional import LOOPS, REMAT, Mode, Stack
from eo_jax.models.layers.attention_kernel import ATTENTIONS
from eo_jax.models.layers.layer_norm import LayerNorm
from eo_jax.models.layers.position_embedding import FIXED, LearnedPositions
from eo_jax.models.layers.relative_position_bias import RelativePositions
from eo_jax.models.layers.transformer_block import (
    RESIDUALS,
    Block,
    draw_drop_path,
    drop_path_rates,
    residual_dtype,
)

# size: (width d, depth l, heads); the MLP is four times as wide. "giant" is SpectralEarth's, with
# 1.138 billion parameters, not 1.8. "nano" is ours, for laptops and for spectra of single pixels.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
    "nano": (96, 6, 3),
}
# Positions that are for views with one number of tokens.
_OF_ONE_GRID = ("learned", "relative")


@dataclasses.dataclass(frozen=True)
class Config:
    """A ViT trunk.

    Attributes:
        size: tiny, small, base, large, huge, giant or nano.
        depth: number of blocks; 0 for that of the size. Tests and laptops use fewer.
        remat: what the backward pass recomputes: "none", "cheap" for all but the products with
            weights, or "block" for everything, which saves the most memory.
        residual: type of the residual stream, which every block adds to: "float32", or "compute"
            for `config.model.dtype`. A bfloat16 has 8 bits, so "compute" is refused with a layer
            scale below 1/256, whose branches it would lose.
        attention: "xla", or "cudnn" for cuDNN's fused kernel, in bfloat16 on NVIDIA GPUs without
            relative positions; elsewhere that is "xla", too. "auto" is "cudnn" from 128 tokens on.
        loop: how the blocks run: "scan" compiles one block for all, "unrolled" compiles each.
        pool: pooled features: "cls", or "mean" over patch tokens.
        registers: number of learned tokens that are added to the class token and not returned.
        layer_scale: initial value of a learned scale per channel of each residual branch; 0 for
            none. BEiT and data2vec have 1e-4 for ViT-S.
        drop_path: probability that a sample skips a residual branch of the last block in training;
            it grows linearly from 0 at the first block.
        positions: added to the tokens: "sincos", fixed and in MAE's order, the column first;
            "sincos_moco_v3", the same with the row first, as in MoCo-v3's released code; or
            "learned". Or "relative": a learned bias per offset in attention, shared by all blocks.
        grid: rows and columns of patch tokens of a view, for "learned" and "relative" positions,
            e.g. 14 for 224 pixels in patches of 16; 0 for fixed ones, which take any.
    """

    size: str = "small"
    depth: int = 0
    remat: str = "cheap"
    residual: str = "float32"
    attention: str = "auto"
    loop: str = "scan"
    pool: str = "cls"
    registers: int = 0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    positions: str = "sincos"
    grid: int = 0

    input_kind: ClassVar[str] = "tokens"

    def __post_init__(self):
        for field, allowed in (
            ("size", tuple(SIZES)),
            ("remat", tuple(REMAT)),
            ("residual", RESIDUALS),
            ("attention", ATTENTIONS),
            ("loop", LOOPS),
            ("pool", ("cls", "mean")),
            ("positions", (*FIXED, *_OF_ONE_GRID)),
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
            ("grid", "any"),
        ):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)}; expected 0 ({meaning}) "
                    "or more"
                )
        if self.residual == "compute" and 0 < self.layer_scale < 2**-8:
            raise ValueError(
                f"config.model.trunk.residual: 'compute' with layer_scale={self.layer_scale}; "
                "bfloat16 would lose branches that small, use residual='float32'"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(
                f"config.model.trunk.drop_path: {self.drop_path}; expected a probability from 0 to "
                "below 1"
            )
        if (self.positions in _OF_ONE_GRID) != (self.grid > 0):
            raise ValueError(
                f"config.model.trunk.grid: {self.grid} with positions={self.positions!r}; expected "
                "the number of patch tokens per side of a view with 'learned' and 'relative', and "
                "0 with fixed positions"
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

    def build(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> VisionTransformer:
        """The trunk."""
        return VisionTransformer(self, dtype, rngs=rngs)


class VisionTransformer(nnx.Module):
    """[b, n, d] patch embeddings -> [b, 1 + n, d] normalised tokens, the class token first."""

    def __init__(self, config: Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        self.cls_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))

        def make_block(block_rngs):
            return Block(width, heads, dtype, config.layer_scale, config.attention, rngs=block_rngs)

        self.blocks = Stack(make_block, config.layers, config.remat, config.loop, rngs=rngs)
        self.norm = LayerNorm(width, dtype)
        self.registers = (
            nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, config.registers, width)))
            if config.registers
            else None
        )
        self.position_embedding = (
            LearnedPositions(config.grid, width, rngs=rngs)
            if config.positions == "learned"
            else None
        )
        self.relative = (
            RelativePositions(config.grid, heads) if config.positions == "relative" else None
        )
        self.config, self.residual = config, residual_dtype(config.residual, dtype)

    def __call__(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b n1 d"]:
        """`tokens` include their positions, unless those are relative; `mode.key` turns drop path
        on.
        """
        x = self.blocks(self._add_prefix(tokens, grid), *self._block_inputs(tokens, grid, mode))
        return self.norm(self._drop_registers(x))

    def class_token(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b d"]:
        """The class token only, for 7 % less work in ViT-S or ViT-B: the last block computes no
        other token.
        """
        inputs = self._block_inputs(tokens, grid, mode)
        return self.norm(self.blocks.first_token(self._add_prefix(tokens, grid), *inputs))[:, 0]

    def last_layers(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode, count: int
    ) -> Float[Array, "l b n1 d"]:
        """Outputs of the last `count` blocks, in order, before the final norm."""
        inputs = self._block_inputs(tokens, grid, mode)
        x = self._add_prefix(tokens, grid)
        return self._drop_registers(self.blocks.last(x, count, *inputs))

    def _add_prefix(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int]
    ) -> Float[Array, "b m d"]:
        """Class token, registers, patch tokens, with learned positions."""
        cls_token, tokens = self.cls_token[...], tokens.astype(jnp.float32)
        if self.config.positions == "learned":
            positions = self.position_embedding(tokens.shape[1], grid)
            cls_token, tokens = cls_token + positions[:, :1], tokens + positions[:, 1:]
        prefix = [cls_token, self.registers[...]] if self.config.registers else [cls_token]
        prefix = [jnp.broadcast_to(token, (len(tokens), *token.shape[1:])) for token in prefix]
        return jnp.concatenate([*prefix, tokens], axis=1).astype(self.residual)

    def _drop_registers(self, x: Float[Array, "*l b m d"]) -> Float[Array, "*l b n1 d"]:
        if not self.config.registers:
            return x
        return jnp.concatenate([x[..., :1, :], x[..., 1 + self.config.registers :, :]], axis=-2)

    def _block_inputs(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Further inputs, per block and shared by all; see `Stack`."""
        each, every = {}, {}
        if self.config.drop_path and mode.key is not None:
            each["kept"] = draw_drop_path(
                mode.key, drop_path_rates(self.config.drop_path, self.config.layers), len(tokens)
            )
        if self.config.positions == "relative":
            every["bias"] = self.relative(tokens.shape[1], grid, 1 + self.config.registers)
        return each, every
