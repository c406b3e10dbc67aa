"""The PyTorch layouts by name. The first that fits an encoder is its default."""

from __future__ import annotations

from eo_jax.exchange.layout import Layout, section
from eo_jax.exchange.layouts import (
    beit,
    decur,
    hugging_face,
    pixels,
    segformer,
    spectral_earth,
    timm_vit,
    torchvision_resnet,
)
from eo_jax.models.encoder import Encoder

LAYOUTS: dict[str, Layout] = {
    "spec_vit": spectral_earth.SPEC_VIT,
    "spec_resnet": spectral_earth.SPEC_RESNET,
    "timm_vit": timm_vit.LAYOUT,
    "torchvision_resnet": torchvision_resnet.LAYOUT,
    "decur_rda": decur.RDA,
    "segformer": segformer.LAYOUT,
    "beit": beit.LAYOUT,
    "timm_beit": beit.LAYOUT_PER_BLOCK,
    "hf_vit": hugging_face.VIT,
    "hf_dinov2": hugging_face.DINOV2,
    "hf_data2vec": hugging_face.DATA2VEC,
    "hf_segformer": hugging_face.SEGFORMER,
    "spectral_cnn": pixels.SPECTRAL_CNN,
    "spectral_mlp": pixels.SPECTRAL_MLP,
    "spectral_transformer": pixels.SPECTRAL_TRANSFORMER,
}


def layout_name(encoder: Encoder, wanted: str = "") -> str:
    """The name of an encoder's layout: the one that is wanted, "" for the first that fits.

    Raises ValueError where it does not fit, or none does.
    """
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(encoder)]
    if wanted and wanted not in LAYOUTS:
        raise ValueError(f"--layout: {wanted!r}; expected one of {', '.join(LAYOUTS)}")
    if not fitting or wanted not in ("", *fitting):
        asked = f"the layout {wanted!r} does not fit" if wanted else "no PyTorch layout for"
        known = "; ".join(f"{name}: {layout.requirements}" for name, layout in LAYOUTS.items())
        raise ValueError(
            f"{asked} config.model stem {section(encoder.stem)}, trunk {section(encoder.trunk)}; "
            f"fitting: {', '.join(fitting) or 'none'}; known layouts: {known}"
        )
    return wanted or fitting[0]
