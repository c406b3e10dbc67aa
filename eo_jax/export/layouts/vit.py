"""timm's VisionTransformer: keys of the trunk, under any prefix, and of the whole encoder with a
plain patch embedding.
"""

from __future__ import annotations

from eo_jax.export.layouts.base import (
    Layout,
    Row,
    affine_rows,
    as_is,
    flat,
    fuse_heads,
    linear_rows,
    patch_conv2d,
)
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import FIXED

_BLOCK = r"trunk/blocks/layers/(\d+)"


def embedding_rows(patch: int, prefix: str) -> list[Row]:
    """The patch embedding: a linear layer here, a strided convolution in timm."""
    return [
        (r"stem/embed/kernel", rf"{prefix}patch_embed.proj.weight", patch_conv2d(patch)),
        (r"stem/embed/bias", rf"{prefix}patch_embed.proj.bias", as_is),
    ]


def trunk_rows(prefix: str) -> list[Row]:
    """Class token, blocks and final norm."""
    block = rf"{prefix}blocks.\1"
    return [
        (r"trunk/cls_token", rf"{prefix}cls_token", as_is),
        *affine_rows(rf"{_BLOCK}/norm([12])", rf"{block}.norm\2"),
        (rf"{_BLOCK}/attention/qkv", rf"{block}.attn.qkv.weight", fuse_heads),
        (rf"{_BLOCK}/attention/qkv_bias", rf"{block}.attn.qkv.bias", flat),
        *linear_rows(rf"{_BLOCK}/attention/out", rf"{block}.attn.proj"),
        *linear_rows(rf"{_BLOCK}/mlp/fc([12])", rf"{block}.mlp.fc\2"),
        *affine_rows(r"trunk/norm", rf"{prefix}norm"),
    ]


def position_rows(encoder: Encoder, prefix: str) -> list[Row]:
    """The position embedding, where it is learned."""
    if encoder.trunk.positions != "learned":
        return []
    return [(r"trunk/position_embedding/table", rf"{prefix}pos_embed", as_is)]


def _timm_rows(encoder: Encoder) -> list[Row]:
    return [
        *embedding_rows(encoder.patch, ""),
        *position_rows(encoder, ""),
        *trunk_rows(""),
    ]


# Anything else has no keys in timm's vit_*_patch*.
PLAIN = {"positions": [*FIXED, "learned"], "registers": 0, "layer_scale": 0.0}
TIMM_VIT = Layout(
    "timm VisionTransformer, without head",
    "patch_embed",
    "vit",
    _timm_rows,
    PLAIN,
    positions="pos_embed",
)
