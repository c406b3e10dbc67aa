"""Our encoders of single pixels and small windows, in `eo_jax_pixels.py`: nobody has published such
weights in PyTorch, so the names there are ours.
"""

from __future__ import annotations

import dataclasses

from eo_jax.exchange.layout import Layout, Row, batch_norm_rows, linear_rows
from eo_jax.exchange.layouts import timm_vit
from eo_jax.exchange.orders import CONV3D
from eo_jax.models.encoder import Encoder


def _cnn_rows(encoder: Encoder) -> list[Row]:
    return [
        Row("trunk/conv{i}/kernel", "conv{i}.weight", CONV3D),
        *batch_norm_rows("trunk/norm{i}", "norm{i}"),
        *linear_rows("trunk/embed", "embed"),
        *batch_norm_rows("trunk/embed_norm", "embed_norm"),
    ]


def _mlp_rows(encoder: Encoder) -> list[Row]:
    return [
        *linear_rows("trunk/dense{i}", "dense{i}"),
        *batch_norm_rows("trunk/norm{i}", "norm{i}"),
        *linear_rows("trunk/embed", "embed"),
    ]


def _transformer_rows(encoder: Encoder) -> list[Row]:
    inner = dataclasses.replace(encoder, trunk=encoder.trunk.blocks)
    rows = [
        dataclasses.replace(row, ours=f"trunk/{row.ours}") for row in timm_vit.trunk_rows(inner, "")
    ]
    return [*linear_rows("trunk/embed", "embed"), *rows]


def _cnn_constructor(encoder: Encoder, image_size: int) -> str:
    trunk = encoder.trunk
    return (
        f"eo_jax_pixels.SpectralCNN(bands={len(encoder.sensor.bands)}, window={trunk.window}, "
        f"dims={trunk.dims}, width={trunk.width}, layers={trunk.layers}, kernel={trunk.kernel})"
    )


def _mlp_constructor(encoder: Encoder, image_size: int) -> str:
    trunk = encoder.trunk
    return (
        f"eo_jax_pixels.SpectralMLP(bands={len(encoder.sensor.bands)}, window={trunk.window}, "
        f"width={trunk.width}, hidden={trunk.hidden}, layers={trunk.layers})"
    )


def _transformer_constructor(encoder: Encoder, image_size: int) -> str:
    trunk = encoder.trunk
    return (
        f"eo_jax_pixels.SpectralTransformer(window={trunk.window}, "
        f"bands_per_token={trunk.bands_per_token}, width={trunk.width}, depth={trunk.layers}, "
        f"heads={trunk.heads})"
    )


SPECTRAL_CNN = Layout(
    "SpectralCNN of eo_jax_pixels.py",
    "identity",
    "spectral_cnn",
    _cnn_rows,
    constructor=_cnn_constructor,
)
SPECTRAL_MLP = Layout(
    "SpectralMLP of eo_jax_pixels.py",
    "identity",
    "spectral_mlp",
    _mlp_rows,
    constructor=_mlp_constructor,
)
SPECTRAL_TRANSFORMER = Layout(
    "SpectralTransformer of eo_jax_pixels.py",
    "identity",
    "spectral_transformer",
    _transformer_rows,
    constructor=_transformer_constructor,
)
