"""The decoder of MAE: from visible tokens to masked pixels (He et al. 2022, arXiv 2111.06377,
section 3).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from eo_jax.models.functional import Stack
from eo_jax.models.layers.dense import Dense
from eo_jax.models.layers.layer_norm import LayerNorm
from eo_jax.models.layers.position_embedding import sincos_2d
from eo_jax.models.layers.transformer_block import Block, residual_dtype


class PixelDecoder(nnx.Module):
    """Visible tokens and mask tokens with positions -> pixels of the masked tokens, the only ones
    that the loss reads.

    Args:
        encoder_width: width of the input tokens.
        width, depth, heads: size of its own blocks.
        remat: what their backward pass recomputes; one of `functional.REMAT`.
        residual: type of their residual stream; one of `transformer_block.RESIDUALS`.
        attention: one of `attention_kernel.ATTENTIONS`.
        pixels: values per token, rows x columns x bands.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        remat: str,
        residual: str,
        attention: str,
        pixels: int,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        self.embed = Dense(encoder_width, width, dtype, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))

        def make_block(block_rngs):
            return Block(width, heads, dtype, attention=attention, rngs=block_rngs)

        self.blocks = Stack(make_block, depth, remat, rngs=rngs)
        self.norm = LayerNorm(width, dtype)
        self.predict = Dense(width, pixels, dtype, rngs=rngs)
        self.residual = residual_dtype(residual, dtype)

    def __call__(
        self,
        tokens: Float[Array, "b k1 d"],
        visible: Int[Array, "b k"],
        masked: Int[Array, "b h"],
        rows: int,
        columns: int,
    ) -> Float[Array, "b h p"]:
        """float32 pixels of the masked tokens, in each by row, column and band.

        Args:
            tokens: the class token first, then the visible ones.
            visible, masked: numbers of these tokens in the grid of `rows` x `columns`, row by row.
        """
        tokens = self.embed(tokens).astype(jnp.float32)
        position = jnp.asarray(sincos_2d(tokens.shape[-1], rows, columns))
        # The order of tokens does not matter to blocks once positions are added, so the masked ones
        # come last.
        seen = tokens[:, 1:] + position[visible]
        unseen = self.mask_token[...] + position[masked]
        x = jnp.concatenate([tokens[:, :1], seen, unseen], axis=1).astype(self.residual)
        decoded = self.blocks(x)
        return self.predict(self.norm(decoded[:, -unseen.shape[1] :])).astype(jnp.float32)
