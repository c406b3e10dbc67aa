"""torchvision's ResNet, whose keys timm and torchgeo use too: of the stages, under any prefix, and
of the whole encoder.
"""

from __future__ import annotations

from eo_jax.export.layouts.base import Layout, Row, batch_norm_rows, conv2d
from eo_jax.models.encoder import Encoder

_BLOCK = r"trunk/layer(\d)/block(\d+)"


def trunk_rows(prefix: str) -> list[Row]:
    """The four stages; PyTorch's shortcut is a Sequential of convolution (0) and norm (1)."""
    block = rf"{prefix}layer\1.\2"
    return [
        (rf"{_BLOCK}/conv(\d)/kernel", rf"{block}.conv\3.weight", conv2d),
        *batch_norm_rows(rf"{_BLOCK}/norm(\d)", rf"{block}.bn\3"),
        (rf"{_BLOCK}/shortcut_conv/kernel", rf"{block}.downsample.0.weight", conv2d),
        *batch_norm_rows(rf"{_BLOCK}/shortcut_norm", rf"{block}.downsample.1"),
    ]


def _rows(encoder: Encoder) -> list[Row]:
    return [
        ("stem/conv/kernel", "conv1.weight", conv2d),
        *batch_norm_rows("stem/norm", "bn1"),
        *trunk_rows(""),
    ]


PLAIN = {"attention": "none", "blocks": ()}  # anything else has no keys in published ResNets
TORCHVISION_RESNET = Layout(
    "torchvision ResNet, without fc", "conv", "resnet", _rows, PLAIN | {"first_block": "plain"}
)
