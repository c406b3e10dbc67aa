"""The contract in an exported file: bands, wavelengths, units, normalisation, pooling."""

from __future__ import annotations

import json
from typing import Any

from eo_jax.export.layouts import layout_of
from eo_jax.export.layouts.base import section
from eo_jax.models.encoder import Encoder

_POOLING = {
    "cls": "token 0 of the normalised tokens",
    "mean": "mean of the normalised patch tokens, without token 0",
    "image": "mean over rows and columns of the features of the last stage",
}


def make_contract(
    name: str, encoder: Encoder, image_size: int, fingerprint: dict, config: dict, step: int
) -> dict[str, Any]:
    """The contract as plain JSON types.

    Args:
        name: of the encoder, a key of `Objective.encoders`: "enmap.teacher".
        image_size: side in pixels of the images it was trained on.
        fingerprint: of the source, from data.json: sensor row, normalisation, content hash.
        config, step: of the run.
    """
    normalisation = fingerprint["normalisation"]
    return {
        "layout": layout_of(encoder).name,
        "encoder": name,
        "sensor": fingerprint["sensor"],
        "input": "float32 [batch, band, row, column]; (digital number - mean) / std, 0 where there "
        "is no data; bands in the order of sensor.bands",
        "mean": normalisation["mean"],
        "std": normalisation["std"],
        "normalisation_source": normalisation["source"],
        "image_size": image_size,
        "patch": encoder.patch,
        "width": encoder.width,
        "stem": section(encoder.stem),
        "trunk": section(encoder.trunk),
        "pooling": _POOLING[encoder.pool if encoder.kind == "tokens" else encoder.kind],
        "objective": config["objective"],
        "step": step,
        "data": {
            key: fingerprint[key]
            for key in ("store", "content_sha256", "split", "locations", "samples")
        },
    }


def to_header(contract: dict[str, Any]) -> dict[str, str]:
    """The contract as safetensors metadata, whose values are strings: JSON under "eo_jax", and
    "format", which some loaders require.
    """
    return {"format": "pt", "eo_jax": json.dumps(contract)}
