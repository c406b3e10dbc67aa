"""The PyTorch layouts, and the choice of one for an encoder."""

from __future__ import annotations

from eo_jax.export.layouts import mit, resnet, spectral_earth, vit
from eo_jax.export.layouts.base import Layout, section
from eo_jax.models.encoder import Encoder

LAYOUTS = (
    spectral_earth.SPEC_VIT,
    spectral_earth.SPEC_RESNET,
    vit.TIMM_VIT,
    resnet.TORCHVISION_RESNET,
    mit.SEGFORMER_MIT,
)


def layout_of(encoder: Encoder) -> Layout:
    """The layout of an encoder; ValueError where there is none."""
    for layout in LAYOUTS:
        if layout.fits(encoder):
            return layout
    known = "; ".join(f"{layout.name}: {layout.requirements}" for layout in LAYOUTS)
    raise ValueError(
        f"export: no PyTorch layout for config.model stem {section(encoder.stem)}, trunk "
        f"{section(encoder.trunk)}; known layouts: {known}"
    )
