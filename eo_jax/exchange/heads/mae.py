"""The decoder of facebookresearch/mae: `models_mae.MaskedAutoencoderViT`.

Its values of a token are in the order row, column, band, as ours are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eo_jax.exchange.heads.head import Head, Shapes
from eo_jax.exchange.layout import Row, affine_rows, fixed_positions, linear_rows
from eo_jax.exchange.layouts.timm_vit import block_rows


def _rows(shapes: Shapes) -> list[Row]:
    return [
        Row("decoder/mask_token", "mask_token"),
        *linear_rows("decoder/embed", "decoder_embed"),
        *block_rows("decoder/blocks/layers/{i}", "decoder_blocks.{i}"),
        *affine_rows("decoder/norm", "decoder_norm"),
        *linear_rows("decoder/predict", "decoder_pred"),
    ]


def _computed(shapes: Shapes, side: int) -> dict[str, np.ndarray]:
    width = shapes["decoder/mask_token"][-1]
    return {"decoder_pos_embed": fixed_positions("sincos", width, side, before=1)}


def _constructor(contract: Mapping[str, Any], shapes: Shapes) -> str:
    found, objective = contract["architecture"], contract["objective"]
    return (
        f"models_mae.MaskedAutoencoderViT(img_size={contract['image_size']}, "
        f"patch_size={found['patch']}, in_chans={found['channels']}, embed_dim={found['width']}, "
        f"depth={found['depth']}, num_heads={found['heads']}, "
        f"decoder_embed_dim={objective['decoder_width']}, "
        f"decoder_depth={objective['decoder_depth']}, "
        f"decoder_num_heads={objective['decoder_heads']}, mlp_ratio=4, "
        "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), "
        f"norm_pix_loss={objective['norm_pix_loss']})"
    )


HEAD = Head(
    network="MaskedAutoencoderViT of facebookresearch/mae",
    layouts=("timm_vit",),
    plain=True,
    parts=("decoder",),
    keys=("decoder_", "mask_token"),
    rows=_rows,
    constructor=_constructor,
    architecture=lambda objective: {"heads": objective["decoder_heads"]},
    positions="decoder_pos_embed",
    computed=_computed,
    computed_as="fixed positions with the column first, 0 for the class token",
)
