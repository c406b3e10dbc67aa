"""The projector of facebookresearch/moco-v3, which takes the place of the classifier in its ViT.

The predictor is not of that class, but of the one around student and teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eo_jax.exchange.heads.head import Head, Shapes
from eo_jax.exchange.layout import Row, batch_norm_rows
from eo_jax.exchange.orders import TRANSPOSED
from eo_jax.models.layers.batch_norm import EPSILON


def _rows(shapes: Shapes) -> list[Row]:
    """Layers of three modules: linear without bias, BatchNorm, ReLU; the last BatchNorm has no
    scale and bias.
    """
    hidden = _hidden(shapes)
    rows = []
    for i in range(hidden):
        rows.append(Row(f"projector/hidden/{i}/kernel", f"head.{3 * i}.weight", TRANSPOSED))
        rows += batch_norm_rows(f"projector/norms/{i}", f"head.{3 * i + 1}")
    norm = f"head.{3 * hidden + 1}"
    return [
        *rows,
        Row("projector/last/kernel", f"head.{3 * hidden}.weight", TRANSPOSED),
        Row("projector/last_norm/mean", f"{norm}.running_mean"),
        Row("projector/last_norm/var", f"{norm}.running_var"),
    ]


def _hidden(shapes: Shapes) -> int:
    """Number of layers before the last."""
    return sum(path.startswith("projector/hidden/") for path in shapes)


def _constructor(contract: Mapping[str, Any], shapes: Shapes) -> str:
    found = contract["architecture"]
    widths = [shapes[f"projector/hidden/{i}/kernel"] for i in range(_hidden(shapes))]
    widths.append(shapes["projector/last/kernel"])
    return (
        f"vits.VisionTransformerMoCo(img_size={contract['image_size']}, "
        f"patch_size={found['patch']}, in_chans={found['channels']}, embed_dim={found['width']}, "
        f"depth={found['depth']}, num_heads={found['heads']}, qkv_bias=True, "
        "norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6)), with head = "
        f"moco.builder.MoCo._build_mlp(None, {len(widths)}, {widths[0][0]}, {widths[0][1]}, "
        f"{widths[-1][1]})"
    )


HEAD = Head(
    network="VisionTransformerMoCo of facebookresearch/moco-v3 with its projector",
    layouts=("timm_vit",),
    plain=True,
    parts=("projector",),
    keys=("head.",),
    rows=_rows,
    constructor=_constructor,
    architecture=lambda objective: {"batch_norm_epsilon": EPSILON},
)
