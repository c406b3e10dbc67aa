"""timm's VisionTransformer, whose keys DINO, MAE, MoCo-v3, SSL4EO-S12 and torchgeo use too: of the
trunk, under any prefix, and of the whole encoder with a plain patch embedding.

Registers and layer scale are those of timm's vit_*_reg4_dinov2, and of DINOv2 but for `reg_token`,
there `register_tokens`. Features that are pooled by the mean have `fc_norm` in place of `norm` in
timm's classifiers; the tokens of ours are normalised before the mean, so `norm` is theirs.
"""

from __future__ import annotations

from eo_jax.exchange.layout import Layout, Row, affine_rows, linear_rows
from eo_jax.exchange.orders import FLAT, HEADS, patch_conv2d
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import FIXED

BLOCK = "trunk/blocks/layers/{i}"


def embedding_rows(patch: int, prefix: str) -> list[Row]:
    """The patch embedding: a linear layer here, a strided convolution in timm."""
    return [
        Row("stem/embed/kernel", f"{prefix}patch_embed.proj.weight", patch_conv2d(patch)),
        Row("stem/embed/bias", f"{prefix}patch_embed.proj.bias"),
    ]


def trunk_rows(encoder: Encoder, prefix: str) -> list[Row]:
    """Learned tokens and positions, blocks and final norm."""
    block = f"{prefix}blocks.{{i}}"
    rows = [Row("trunk/cls_token", f"{prefix}cls_token")]
    if encoder.trunk.positions == "learned":
        rows.append(Row("trunk/position_embedding/table", f"{prefix}pos_embed"))
    if encoder.trunk.registers:
        rows.append(Row("trunk/registers", f"{prefix}reg_token"))
    if encoder.trunk.layer_scale:
        rows += [
            Row(f"{BLOCK}/attention_scale", f"{block}.ls1.gamma"),
            Row(f"{BLOCK}/mlp_scale", f"{block}.ls2.gamma"),
        ]
    return [
        *rows,
        *affine_rows(f"{BLOCK}/norm{{n}}", f"{block}.norm{{n}}"),
        Row(f"{BLOCK}/attention/qkv", f"{block}.attn.qkv.weight", HEADS),
        Row(f"{BLOCK}/attention/qkv_bias", f"{block}.attn.qkv.bias", FLAT),
        *linear_rows(f"{BLOCK}/attention/out", f"{block}.attn.proj"),
        *linear_rows(f"{BLOCK}/mlp/fc{{n}}", f"{block}.mlp.fc{{n}}"),
        *affine_rows("trunk/norm", f"{prefix}norm"),
    ]


def call(encoder: Encoder, image_size: int, channels: int) -> str:
    """The call of timm's class."""
    trunk = encoder.trunk
    more = f", reg_tokens={trunk.registers}" if trunk.registers else ""
    more += f", init_values={trunk.layer_scale}" if trunk.layer_scale else ""
    return (
        f"timm.models.vision_transformer.VisionTransformer(img_size={image_size}, "
        f"patch_size={encoder.stem.patch}, in_chans={channels}, num_classes=0, "
        f"embed_dim={encoder.width}, depth={encoder.layers}, num_heads={trunk.heads}{more})"
    )


def _rows(encoder: Encoder) -> list[Row]:
    return [*embedding_rows(encoder.patch, ""), *trunk_rows(encoder, "")]


def _constructor(encoder: Encoder, image_size: int) -> str:
    return call(encoder, image_size, len(encoder.sensor.bands))


POSITIONS = {"positions": [*FIXED, "learned"]}
LAYOUT = Layout(
    "timm VisionTransformer, without head",
    "patch_embed",
    "vit",
    _rows,
    POSITIONS,
    "pos_embed",
    "patch_embed.proj.weight",
    ("head\\..*", "decoder_.*", "mask_token"),
    _constructor,
)
