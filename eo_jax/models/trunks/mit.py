"""Mix transformer (MiT) trunk, the encoder of SegFormer (Xie et al. 2021, arXiv 2105.15203): four
stages of attention with spatially reduced keys.

The first patch embedding is the stem `overlap_patch_embed`. Depthwise 3 x 3 convolutions replace
positions.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import REMAT, Mode, Stack, gelu
from eo_jax.models.layers.conv import BiasedConv, DepthwiseConv
from eo_jax.models.layers.dense import Linear, add_bias
from eo_jax.models.layers.layer_norm import TORCH_EPSILON, LayerNorm
from eo_jax.models.layers.product import product
from eo_jax.models.layers.transformer_block import draw_drop_path, drop_path_rates
from eo_jax.models.stems.overlap_patch_embed import OverlapEmbedding

_WIDE = (64, 128, 320, 512)
# size: (width of each stage, blocks of each stage)
SIZES = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": (_WIDE, (2, 2, 2, 2)),
    "b2": (_WIDE, (3, 4, 6, 3)),
    "b3": (_WIDE, (3, 4, 18, 3)),
    "b4": (_WIDE, (3, 8, 27, 3)),
    "b5": (_WIDE, (3, 6, 40, 3)),
}
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
_INIT = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Config:
    """A MiT trunk.

    Attributes:
        size: b0 to b5.
        drop_path: probability that a sample skips a residual branch of the last block in training;
            it grows linearly from 0 at the first block, over all stages. The paper has 0.1.
        remat: what the backward pass recomputes: "none", "cheap" for all but the products with
            weights, or "block" for everything, which saves the most memory.
    """

    size: str = "b0"
    drop_path: float = 0.0
    remat: str = "cheap"

    input_kind: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __post_init__(self):
        for field, allowed in (("size", tuple(SIZES)), ("remat", tuple(REMAT))):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
        if not 0 <= self.drop_path < 1:
            raise ValueError(
                f"config.model.trunk.drop_path: {self.drop_path}; expected a probability from 0 to "
                "below 1"
            )

    @property
    def width(self) -> int:
        """Width d of the features."""
        return SIZES[self.size][0][-1]

    @property
    def heads(self) -> list[int]:
        """Attention heads of each stage."""
        return list(_HEADS)

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> MixTransformer:
        """The trunk; ValueError if `channels` is not the width of the first stage."""
        needed = SIZES[self.size][0][0]
        if channels != needed:
            raise ValueError(
                f"config.model.stems: MiT-{self.size.upper()} takes {needed} channels, the stem "
                f"gives {channels}; use overlap_patch_embed, width {needed}"
            )
        return MixTransformer(self, dtype, rngs=rngs)


class MixTransformer(nnx.Module):
    """[b, h, w, c] -> [b, h', w', d]: the normalised features of the last stage."""

    def __init__(self, config: Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        widths, depths = SIZES[config.size]
        for i, width in enumerate(widths):
            if i:
                setattr(
                    self,
                    f"embed{i + 1}",
                    OverlapEmbedding(widths[i - 1], width, 3, 2, dtype, rngs=rngs),
                )
            setattr(
                self,
                f"blocks{i + 1}",
                _blocks(width, _HEADS[i], _REDUCTIONS[i], depths[i], config.remat, dtype, rngs),
            )
            setattr(self, f"norm{i + 1}", LayerNorm(width, dtype))
        self.config = config

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """`mode.key` turns drop path on; `valid` is for trunks with BatchNorm and not used here."""
        for i, each in enumerate(self._block_inputs(mode, len(image)), start=1):
            if i > 1:
                image = getattr(self, f"embed{i}")(image)
            image = getattr(self, f"norm{i}")(getattr(self, f"blocks{i}")(image, each))
        return image

    def _block_inputs(self, mode: Mode, samples: int) -> list[dict[str, Array]]:
        """Further inputs of the blocks of each stage; empty without drop path."""
        depths = SIZES[self.config.size][1]
        if not self.config.drop_path or mode.key is None:
            return [{} for _ in depths]
        kept = draw_drop_path(
            mode.key, drop_path_rates(self.config.drop_path, sum(depths)), samples
        )
        return [{"kept": of_stage} for of_stage in jnp.split(kept, np.cumsum(depths)[:-1])]


def _blocks(
    width: int, heads: int, reduction: int, depth: int, remat: str, dtype: jnp.dtype, rngs: nnx.Rngs
) -> Stack:
    return Stack(
        lambda block_rngs: Block(width, heads, reduction, dtype, rngs=block_rngs),
        depth,
        remat,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Pre-norm block."""

    def __init__(self, width: int, heads: int, reduction: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(width, dtype)
        self.attention = EfficientAttention(width, heads, reduction, dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, dtype)
        self.mlp = MixFFN(width, dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w d"], kept: Float[Array, "2 b"] | None = None
    ) -> Float[Array, "b h w d"]:
        """`kept` has each sample's factors of the attention and the MLP branch."""
        of_attention, of_mlp = (
            (1, 1) if kept is None else kept.astype(x.dtype)[..., None, None, None]
        )
        x = x + self.attention(self.norm1(x)) * of_attention
        return x + self.mlp(self.norm2(x)) * of_mlp


class EfficientAttention(nnx.Module):
    """Self-attention of all cells, with keys and values from an image reduced `reduction` times per
    side.
    """

    def __init__(self, width: int, heads: int, reduction: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        head = width // heads
        self.q = nnx.Param(_INIT(rngs.params(), (width, heads, head)))
        self.q_bias = nnx.Param(jnp.zeros((heads, head)))
        self.kv = nnx.Param(_INIT(rngs.params(), (width, 2, heads, head)))
        self.kv_bias = nnx.Param(jnp.zeros((2, heads, head)))
        self.out = Dense(width, width, dtype, rngs=rngs)
        if reduction > 1:
            self.reduce = BiasedConv(width, width, reduction, reduction, 0, dtype, rngs=rngs)
            self.reduce_norm = LayerNorm(width, dtype, TORCH_EPSILON)
        self.reduction, self.dtype = reduction, dtype

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        b, height, width, _ = x.shape
        if min(height, width) < self.reduction:
            raise ValueError(
                f"mit: views are too small: {height} x {width} cells, but a key is made of "
                f"{self.reduction} x {self.reduction}; use views of 32 pixels or more"
            )
        small = self.reduce_norm(self.reduce(x)) if self.reduction > 1 else x
        q = add_bias(product(x, jnp.asarray(self.q[...])), jnp.asarray(self.q_bias[...]))
        kv = add_bias(product(small, jnp.asarray(self.kv[...])), jnp.asarray(self.kv_bias[...]))
        k, v = jnp.unstack(kv, axis=3)

        def flat(image):
            return image.reshape(b, -1, *image.shape[-2:])

        attended = jax.nn.dot_product_attention(flat(q), flat(k), flat(v))
        return self.out(attended.reshape(x.shape))


class MixFFN(nnx.Module):
    """Two dense layers with a 3 x 3 depthwise convolution and an exact GELU between them."""

    def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        hidden = 4 * width
        self.fc1 = Dense(width, hidden, dtype, rngs=rngs)
        self.depthwise = DepthwiseConv(hidden, dtype, rngs=rngs)
        self.fc2 = Dense(hidden, width, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        return self.fc2(gelu(self.depthwise(self.fc1(x))))


class Dense(Linear):
    """With SegFormer's initialisation: std 0.02, zero bias."""

    def __init__(self, fan_in: int, fan_out: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        super().__init__(fan_in, fan_out, dtype, kernel_init=_INIT, rngs=rngs)
