"""The head of facebookresearch/dino beside its encoder: `utils.MultiCropWrapper`.

Its last layer is weight-normalised: row by row g v / |v|, with g fixed at 1 as `norm_last_layer`
does. Ours has v, and no g.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eo_jax.exchange.heads.head import Head, Shapes
from eo_jax.exchange.layout import Row, linear_rows
from eo_jax.exchange.orders import TRANSPOSED

_LAST = "projector/last_layer/kernel"


def _rows(shapes: Shapes) -> list[Row]:
    return [
        *linear_rows("projector/fc1", "head.mlp.0"),
        *linear_rows("projector/fc2", "head.mlp.2"),
        *linear_rows("projector/fc3", "head.mlp.4"),
        Row(_LAST, "head.last_layer.weight_v", TRANSPOSED),
    ]


def _computed(shapes: Shapes, side: int) -> dict[str, np.ndarray]:
    return {"head.last_layer.weight_g": np.ones((shapes[_LAST][1], 1), np.float32)}


def _constructor(contract: Mapping[str, Any], shapes: Shapes) -> str:
    width, hidden = shapes["projector/fc1/kernel"]
    bottleneck, prototypes = shapes[_LAST]
    return (
        f"utils.MultiCropWrapper({contract['constructor']}, "
        f"vision_transformer.DINOHead({width}, {prototypes}, hidden_dim={hidden}, "
        f"bottleneck_dim={bottleneck}))"
    )


HEAD = Head(
    network="MultiCropWrapper of facebookresearch/dino",
    layouts=("timm_vit", "torchvision_resnet", "spec_vit", "spec_resnet"),
    plain=False,
    parts=("projector",),
    keys=("head.",),
    rows=_rows,
    constructor=_constructor,
    prefix="backbone.",
    computed=_computed,
    computed_as="1, the length of prototypes with norm_last_layer",
    # torch.nn.utils.parametrizations.weight_norm
    renamed={
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    },
)
