"""The contract of an exported encoder: what its input has to be, what it is, what it was trained
on. Plain JSON types; `eo_jax.load`, `eo_jax_torch.py` and imports hold users to it.

`sealing.sealed` adds the checksums when a file is written.
"""

from __future__ import annotations

import json
from typing import Any

import jax

import eo_jax
from eo_jax.exchange.layout import module_name, section
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.exchange.sealing import VERSION
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.batch_norm import EPSILON as BATCH_NORM_EPSILON
from eo_jax.models.layers.layer_norm import EPSILON, TORCH_EPSILON

# Of the trunks that take images: the fields of their configs that give the network.
_TRUNK_FIELDS = {
    "resnet": ("depth", "first_block", "attention"),
    "mit": ("size", "heads"),
    "spectral_cnn": ("window", "dims", "layers", "kernel"),
    "spectral_mlp": ("window", "hidden", "layers"),
    "spectral_transformer": ("window", "bands_per_token", "layers", "heads"),
}
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
        "stem": section(encoder.stem),
        "trunk": section(encoder.trunk),
        "pool": pool,
        "pooling": _POOLING[pool],
        "objective": config["objective"],
        "step": step,
        "data": {
            key: fingerprint[key]
            for key in ("store", "content_sha256", "split", "locations", "samples")
        }
        | {"licence": fingerprint.get("licence", "not stated")},  # runs of old versions lack it
        "code": f"eo_jax {eo_jax.__version__}",
    }


def pooling_of(encoder: Encoder) -> str:
    """ "cls", "mean" (of patch tokens) or "image" (mean over rows and columns)."""
    return encoder.pool if encoder.kind == "tokens" else encoder.kind


def architecture_of(encoder: Encoder, image_size: int) -> dict[str, Any]:
    """What a state dict does not say about its network, and what it does, to be compared.

    Values that a network may have several of are lists: heads by stage, epsilons in any order.
    """
    found = {
        "width": encoder.width,
        "channels": len(encoder.sensor.bands),
        "patch": encoder.patch,
        **_normalisations(encoder),
    }
    if encoder.kind == "image":
        trunk = module_name(encoder.trunk)
        return found | {field: getattr(encoder.trunk, field) for field in _TRUNK_FIELDS[trunk]}
    return found | {
        "depth": encoder.layers,
        "heads": encoder.trunk.heads,
        "tokens": (image_size // encoder.patch) ** 2,
        "class_token": True,
        "registers": encoder.trunk.registers,
        "positions": encoder.trunk.positions,
    }


def _normalisations(encoder: Encoder) -> dict[str, Any]:
    """The epsilons of its LayerNorm and BatchNorm, where it has them."""
    found = {}
    trunk = module_name(encoder.trunk)
    if trunk == "mit":
        found["layer_norm_epsilon"] = [EPSILON, TORCH_EPSILON]
    elif trunk in ("vit", "spectral_transformer"):
        found["layer_norm_epsilon"] = EPSILON
    elif getattr(encoder.trunk, "attention", "none") != "none":
        found["layer_norm_epsilon"] = TORCH_EPSILON
    _, statistics = jax.eval_shape(encoder.network.init, jax.random.key(0))
    if statistics:
        found["batch_norm_epsilon"] = BATCH_NORM_EPSILON
    return found


def to_header(contract: dict[str, Any]) -> dict[str, str]:
    """The contract as safetensors metadata, whose values are strings: JSON under "eo_jax", and
    "format", which some loaders require.
    """
    return {"format": "pt", "eo_jax": json.dumps(contract, allow_nan=False)}
