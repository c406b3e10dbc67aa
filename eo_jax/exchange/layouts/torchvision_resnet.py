"""torchvision's ResNet, whose keys timm and torchgeo use too: of the stages, under any prefix, and
of the whole encoder.
"""

from __future__ import annotations

from eo_jax.exchange.layout import Layout, Row, batch_norm_rows
from eo_jax.exchange.orders import CONV2D
from eo_jax.models.encoder import Encoder

_BLOCK = "trunk/layer{stage}/block{i}"


def trunk_rows(encoder: Encoder, prefix: str) -> list[Row]:
    """The four stages; PyTorch's shortcut is a Sequential of convolution (0) and norm (1)."""
    block = f"{prefix}layer{{stage}}.{{i}}"
    return [
        Row(f"{_BLOCK}/conv{{n}}/kernel", f"{block}.conv{{n}}.weight", CONV2D),
        *batch_norm_rows(f"{_BLOCK}/norm{{n}}", f"{block}.bn{{n}}"),
        Row(f"{_BLOCK}/shortcut_conv/kernel", f"{block}.downsample.0.weight", CONV2D),
        *batch_norm_rows(f"{_BLOCK}/shortcut_norm", f"{block}.downsample.1"),
    ]


def _rows(encoder: Encoder) -> list[Row]:
    return [
        Row("stem/conv/kernel", "conv1.weight", CONV2D),
        *batch_norm_rows("stem/norm", "bn1"),
        *trunk_rows(encoder, ""),
    ]


def _constructor(encoder: Encoder, image_size: int) -> str:
    depth, bands = encoder.trunk.depth, len(encoder.sensor.bands)
    return f"timm.create_model('resnet{depth}', in_chans={bands}, num_classes=0)"


PLAIN = {"attention": "none", "blocks": ()}  # anything else has no keys in published ResNets
LAYOUT = Layout(
    "torchvision ResNet, without fc",
    "conv",
    "resnet",
    _rows,
    PLAIN | {"first_block": "plain"},
    bands="conv1.weight",
    ignored=("fc\\..*",),
    constructor=_constructor,
)
