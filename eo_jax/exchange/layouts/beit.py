"""BEiT's VisionTransformer (microsoft/unilm), which data2vec and its SSL4EO-S12 release share: one
table of relative positions for all blocks, or the same one in each block, as timm has it.

Keys have no bias there. A bias of keys adds the same number to all logits of a query, which softmax
does not see, so it is left out here and 0 after an import.
"""

from __future__ import annotations

from eo_jax.exchange.layout import Condition, Layout, Row, affine_rows, linear_rows
from eo_jax.exchange.layouts.timm_vit import BLOCK, embedding_rows
from eo_jax.exchange.orders import FLAT, HEADS
from eo_jax.models.encoder import Encoder

SHARED, PER_BLOCK = "rel_pos_bias", "blocks.{copy}.attn"


def bias_rows(query: str, value: str) -> list[Row]:
    """The biases of queries and values; that of keys is left out."""
    ours = f"{BLOCK}/attention/qkv_bias"
    return [
        Row(ours, query, FLAT, part=(0,)),
        Row(ours, "", FLAT, part=(1,)),
        Row(ours, value, FLAT, part=(2,)),
    ]


def _rows(encoder: Encoder, table: str, copies: int) -> list[Row]:
    block = "blocks.{i}"
    return [
        *embedding_rows(encoder.patch, ""),
        Row("trunk/cls_token", "cls_token"),
        Row("trunk/relative/table", f"{table}.relative_position_bias_table", copies=copies),
        Row(f"{BLOCK}/attention_scale", f"{block}.gamma_1"),
        Row(f"{BLOCK}/mlp_scale", f"{block}.gamma_2"),
        *affine_rows(f"{BLOCK}/norm{{n}}", f"{block}.norm{{n}}"),
        Row(f"{BLOCK}/attention/qkv", f"{block}.attn.qkv.weight", HEADS),
        *bias_rows(f"{block}.attn.q_bias", f"{block}.attn.v_bias"),
        *linear_rows(f"{BLOCK}/attention/out", f"{block}.attn.proj"),
        *linear_rows(f"{BLOCK}/mlp/fc{{n}}", f"{block}.mlp.fc{{n}}"),
        *affine_rows("trunk/norm", "norm"),
    ]


def _shared_rows(encoder: Encoder) -> list[Row]:
    return _rows(encoder, SHARED, 0)


def _rows_per_block(encoder: Encoder) -> list[Row]:
    return _rows(encoder, PER_BLOCK, encoder.layers)


def _call(encoder: Encoder, image_size: int) -> str:
    return (
        f"timm.models.beit.Beit(img_size={image_size}, patch_size={encoder.patch}, "
        f"in_chans={len(encoder.sensor.bands)}, num_classes=0, global_pool='token', "
        f"embed_dim={encoder.width}, depth={encoder.layers}, num_heads={encoder.trunk.heads}, "
        f"init_values={encoder.trunk.layer_scale or 1e-4}, use_abs_pos_emb=False, "
    )


def _shared_constructor(encoder: Encoder, image_size: int) -> str:
    return _call(encoder, image_size) + "use_shared_rel_pos_bias=True)"


def _constructor_per_block(encoder: Encoder, image_size: int) -> str:
    return _call(encoder, image_size) + "use_rel_pos_bias=True)"


SCALED = Condition(lambda scale: scale > 0, "more than 0")
RELATIVE = {"positions": "relative", "registers": 0, "layer_scale": SCALED}
_IGNORED = ("(?:blocks\\.\\d+\\.attn|rel_pos_bias)\\.relative_position_index", "lm_head\\..*")
LAYOUT = Layout(
    "BEiT VisionTransformer with one table of relative positions, without head",
    "patch_embed",
    "vit",
    _shared_rows,
    RELATIVE,
    bands="patch_embed.proj.weight",
    ignored=(*_IGNORED, "mask_token", "head\\..*"),
    constructor=_shared_constructor,
)
LAYOUT_PER_BLOCK = Layout(
    "timm Beit with a table of relative positions per block, without head",
    "patch_embed",
    "vit",
    _rows_per_block,
    RELATIVE,
    bands="patch_embed.proj.weight",
    ignored=(*_IGNORED, "mask_token", "head\\..*"),
    constructor=_constructor_per_block,
)
