"""SpectralEarth's SpecViT and SpecResNet (arXiv 2408.08447, AABNassim/spectral_earth): the spectral
adapter before timm's encoders.
"""

from __future__ import annotations

from eo_jax.export.layouts import resnet, vit
from eo_jax.export.layouts.base import Layout, Row, as_is, batch_norm_rows, spectral_conv3d
from eo_jax.models.encoder import Encoder


def _adapter_rows() -> list[Row]:
    """PyTorch's adapter is a Sequential: convolution i is module 3 i, its norm 3 i + 1."""
    rows = [
        ("stem/adapter/conv{i}/kernel", "spectral_adapter.{conv}.weight", spectral_conv3d),
        ("stem/adapter/conv{i}/bias", "spectral_adapter.{conv}.bias", as_is),
        *batch_norm_rows("stem/adapter/norm{i}", "spectral_adapter.{norm}"),
    ]
    return [
        (path.format(i=i), key.format(conv=3 * i, norm=3 * i + 1), reorder)
        for i in range(3)
        for path, key, reorder in rows
    ]


def _spec_vit_rows(encoder: Encoder) -> list[Row]:
    return [
        *_adapter_rows(),
        *vit.embedding_rows(encoder.patch, "vit_core."),
        *vit.position_rows(encoder, "vit_core."),
        *vit.trunk_rows("vit_core."),
    ]


def _spec_resnet_rows(encoder: Encoder) -> list[Row]:
    return [*_adapter_rows(), *resnet.trunk_rows("resnet.")]


SPEC_VIT = Layout(
    "SpectralEarth SpecViT, without head",
    "spectral_adapter",
    "vit",
    _spec_vit_rows,
    vit.PLAIN,
    positions="vit_core.pos_embed",
)
_SPEC_RESNET = resnet.PLAIN | {"first_block": "strided", "depth": 50}
SPEC_RESNET = Layout(
    "SpectralEarth SpecResNet, without fc",
    "spectral_adapter_image",
    "resnet",
    _spec_resnet_rows,
    _SPEC_RESNET,
)
