"""Weights of encoders in PyTorch layouts and back, by the name of the layout."""

from __future__ import annotations

import numpy as np

from eo_jax.exchange import translation
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.models.encoder import Encoder


def to_torch(
    encoder: Encoder, params: dict, statistics: dict, image_size: int, layout: str = ""
) -> dict[str, np.ndarray]:
    """{PyTorch key: array}, by default in the first layout that fits."""
    chosen = LAYOUTS[layout_name(encoder, layout)]
    return translation.to_torch(chosen, encoder, params, statistics, image_size)


def to_ours(
    encoder: Encoder, tensors: dict[str, np.ndarray], image_size: int, layout: str = ""
) -> tuple[dict, dict]:
    """(params, running statistics)."""
    chosen = LAYOUTS[layout_name(encoder, layout)]
    return translation.to_ours(chosen, encoder, tensors, image_size)
