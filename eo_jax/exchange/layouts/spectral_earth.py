"""SpectralEarth's SpecViT and SpecResNet (arXiv 2408.08447, AABNassim/spectral_earth): the spectral
adapter before timm's encoders.
"""

from __future__ import annotations

from eo_jax.exchange.layout import Layout, Row, batch_norm_rows
from eo_jax.exchange.layouts import timm_vit, torchvision_resnet
from eo_jax.exchange.orders import SPECTRAL_CONV3D
from eo_jax.models.encoder import Encoder


def _adapter_rows() -> list[Row]:
    """PyTorch's adapter is a Sequential: convolution i is module 3 i, its norm 3 i + 1."""
    return [
        row
        for i in range(3)
        for row in (
            Row(
                f"stem/adapter/conv{i}/kernel", f"spectral_adapter.{3 * i}.weight", SPECTRAL_CONV3D
            ),
            Row(f"stem/adapter/conv{i}/bias", f"spectral_adapter.{3 * i}.bias"),
            *batch_norm_rows(f"stem/adapter/norm{i}", f"spectral_adapter.{3 * i + 1}"),
        )
    ]


def _spec_vit_rows(encoder: Encoder) -> list[Row]:
    return [
        *_adapter_rows(),
        *timm_vit.embedding_rows(encoder.patch, "vit_core."),
        *timm_vit.trunk_rows(encoder, "vit_core."),
    ]


def _spec_resnet_rows(encoder: Encoder) -> list[Row]:
    return [*_adapter_rows(), *torchvision_resnet.trunk_rows(encoder, "resnet.")]


def _spec_vit_constructor(encoder: Encoder, image_size: int) -> str:
    return (
        f"SpecViT of spectral_earth with vit_core = {timm_vit.call(encoder, image_size, 128)}, "
        "head removed"
    )


SPEC_VIT = Layout(
    "SpectralEarth SpecViT, without head",
    "spectral_adapter",
    "vit",
    _spec_vit_rows,
    timm_vit.POSITIONS | {"registers": 0, "layer_scale": 0.0},
    "vit_core.pos_embed",
    ignored=("head\\..*", "vit_core\\.head\\..*"),
    constructor=_spec_vit_constructor,
)
SPEC_RESNET = Layout(
    "SpectralEarth SpecResNet, without fc",
    "spectral_adapter_image",
    "resnet",
    _spec_resnet_rows,
    torchvision_resnet.PLAIN | {"first_block": "strided", "depth": 50},
    ignored=("fc\\..*", "resnet\\.fc\\..*"),
    constructor=lambda encoder, image_size: "SpecResNet50 of spectral_earth, fc removed",
)
