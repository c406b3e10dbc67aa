"""timm's VisionTransformer, whose keys DINO, MAE, MoCo-v3, SSL4EO-S12 and torchgeo use too: of the
trunk, under any prefix, and of the whole encoder with a plain patch embedding.

Registers and layer scale are those of timm's vit_*_reg4_dinov2, whose positions are of patches
alone; the class token's is in the token. Files with registers may have positions of all tokens
instead (timm's default) or of class token and patches (DINOv2, which has `register_tokens`); all
are read.

Features that are pooled by the mean have `fc_norm` in place of `norm` in timm's classifiers. The
tokens of ours are normalised before the mean, which is timm's class with fc_norm=False.
"""

from __future__ import annotations

import math

import numpy as np

from eo_jax.exchange.layout import Layout, Row, Tensors, affine_rows, linear_rows
from eo_jax.exchange.orders import FLAT, HEADS, patch_conv2d
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import FIXED
from eo_jax.schema import Params

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
        rows += _position_rows(encoder, f"{prefix}pos_embed")
    if encoder.trunk.registers:
        rows.append(Row("trunk/registers", f"{prefix}reg_token"))
    if encoder.trunk.layer_scale:
        rows += [
            Row(f"{BLOCK}/attention_scale", f"{block}.ls1.gamma"),
            Row(f"{BLOCK}/mlp_scale", f"{block}.ls2.gamma"),
        ]
    return [*rows, *block_rows(BLOCK, block), *affine_rows("trunk/norm", f"{prefix}norm")]


def block_rows(ours: str, key: str) -> list[Row]:
    """A pre-norm block with a fused projection to queries, keys and values."""
    return [
        *affine_rows(f"{ours}/norm{{n}}", f"{key}.norm{{n}}"),
        Row(f"{ours}/attention/qkv", f"{key}.attn.qkv.weight", HEADS),
        Row(f"{ours}/attention/qkv_bias", f"{key}.attn.qkv.bias", FLAT),
        *linear_rows(f"{ours}/attention/out", f"{key}.attn.proj"),
        *linear_rows(f"{ours}/mlp/fc{{n}}", f"{key}.mlp.fc{{n}}"),
    ]


def _position_rows(encoder: Encoder, key: str) -> list[Row]:
    table = "trunk/position_embedding/table"
    if has_class_position(encoder):
        return [Row(table, key)]
    of_class, of_patches = (slice(None), slice(0, 1)), (slice(None), slice(1, None))
    return [Row(table, "", part=of_class), Row(table, key, part=of_patches)]


def has_class_position(encoder: Encoder) -> bool:
    """Whether the class token has a row in the positions, rather than holding its position."""
    return not encoder.trunk.registers


def folded(encoder: Encoder, params: Params) -> Params:
    """The position of the class token in the token, where it has no row."""
    trunk = params["trunk"]
    if has_class_position(encoder) or "position_embedding" not in trunk:
        return params
    table = np.array(trunk["position_embedding"]["table"])
    cls_token = np.asarray(trunk["cls_token"]) + table[:, :1]
    table[:, :1] = 0
    trunk = {**trunk, "cls_token": cls_token, "position_embedding": {"table": table}}
    return {**params, "trunk": trunk}


def unified(encoder: Encoder, tensors: Tensors) -> Tensors:
    """The positions of a file in the form above: positions of the class token and of registers are
    added to them, or a position 0 of the class token is added. What does not fit stays as it is.
    """
    tensors = {("reg_token" if k == "register_tokens" else k): v for k, v in tensors.items()}
    found, registers = tensors.get("pos_embed"), encoder.trunk.registers
    if found is None or found.ndim != 3:
        return tensors
    prefixes = [n for n in (0, 1 + registers, 1) if _is_square(found.shape[1] - n)]
    if not prefixes or found.shape[1] == 1:  # one position is not those of a view
        return tensors
    of_prefix, of_patches = found[:, : prefixes[0]], found[:, prefixes[0] :]
    if not registers:
        before = of_prefix if prefixes[0] else np.zeros_like(of_patches[:, :1])
        return tensors | {"pos_embed": np.concatenate([before, of_patches], axis=1)}
    for name, its in (("cls_token", of_prefix[:, :1]), ("reg_token", of_prefix[:, 1:])):
        if its.shape[1] and name in tensors and tensors[name].shape == its.shape:
            tensors[name] = tensors[name] + its
    return tensors | {"pos_embed": of_patches}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def call(encoder: Encoder, image_size: int, channels: int) -> str:
    """The call of timm's class."""
    trunk = encoder.trunk
    more = ", global_pool='avg', fc_norm=False" if trunk.pool == "mean" else ""
    more += f", reg_tokens={trunk.registers}, no_embed_class=True" if trunk.registers else ""
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
    folded,
    unified,
    has_class_position,
)
