"""The contract of an exported encoder: what its input has to be, what it is, what it was trained
on. Plain JSON types; `eo_jax.load` and `eo_jax_torch.py` hold users to it.
"""

from __future__ import annotations

import json
from typing import Any

import eo_jax
from eo_jax.exchange.layout import section
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.layer_norm import TORCH_EPSILON

VERSION = 2  # of the contract's fields
_INPUT = (
    "float32 [batch, band, row, column]; (digital number - mean) / std, 0 where there is no data; "
    "bands in the order of sensor.bands"
)
_POOLING = {
    "cls": "token 0 of the normalised tokens",
    "mean": "mean of the normalised patch tokens, without token 0",
    "image": "mean over rows and columns of the features of the last stage",
}


def make_contract(
    name: str,
    encoder: Encoder,
    layout: str,
    image_size: int,
    fingerprint: dict,
    config: dict,
    step: int,
) -> dict[str, Any]:
    """The contract as plain JSON types.

    Args:
        name: of the encoder, a key of `Objective.encoders`: "enmap.teacher".
        layout: a name in `LAYOUTS`.
        image_size: side in pixels of the images that positions are for.
        fingerprint: of the source, from data.json: sensor row, normalisation, content hash.
        config, step: of the run.
    """
    normalisation, pool = fingerprint["normalisation"], pooling_of(encoder)
    return {
        "version": VERSION,
        "layout": layout,
        "network": LAYOUTS[layout].network,
        "constructor": LAYOUTS[layout].constructor(encoder, image_size),
        "encoder": name,
        "architecture": architecture_of(encoder, image_size),
        "sensor": fingerprint["sensor"],
        "input": _INPUT,
        "mean": normalisation["mean"],
        "std": normalisation["std"],
        "normalisation_source": normalisation["source"],
        "image_size": image_size,
        "patch": encoder.patch,
        "width": encoder.width,
        "stem": section(encoder.stem),
        "trunk": section(encoder.trunk),
        "pool": pool,
        "pooling": _POOLING[pool],
        "objective": config["objective"],
        "step": step,
        "data": {
            key: fingerprint[key]
            for key in ("store", "content_sha256", "split", "locations", "samples")
        },
        "code": f"eo_jax {eo_jax.__version__}",
    }


def pooling_of(encoder: Encoder) -> str:
    """ "cls", "mean" (of patch tokens) or "image" (mean over rows and columns)."""
    return encoder.pool if encoder.kind == "tokens" else encoder.kind


def architecture_of(encoder: Encoder, image_size: int) -> dict[str, Any]:
    """What a state dict does not say about its network, and what it does, to be compared."""
    found = {"width": encoder.width, "channels": len(encoder.sensor.bands), "patch": encoder.patch}
    if encoder.kind == "tokens":
        trunk = encoder.trunk
        return found | {
            "depth": encoder.layers,
            "heads": trunk.heads,
            "layer_norm_epsilon": 1e-6,
            "tokens": (image_size // encoder.patch) ** 2,
            "class_token": True,
            "registers": getattr(trunk, "registers", 0),
            "positions": trunk.positions,
        }
    name = section(encoder.trunk)["name"]
    if name == "mit":
        return found | {"size": encoder.trunk.size, "layer_norm_epsilon": [1e-6, TORCH_EPSILON]}
    return found | {"depth": getattr(encoder.trunk, "depth", None), "batch_norm_epsilon": 1e-5}


def to_header(contract: dict[str, Any]) -> dict[str, str]:
    """The contract as safetensors metadata, whose values are strings: JSON under "eo_jax", and
    "format", which some loaders require.
    """
    return {"format": "pt", "eo_jax": json.dumps(contract, allow_nan=False)}
