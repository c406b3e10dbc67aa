"""A tiny encoder as `eo_jax.export` writes it, without a run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from reference import random_weights

from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.translation import tensors_of
from eo_jax.exchange.writing import write_safetensors
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.stems import patch_embed
from eo_jax.models.trunks import vit
from eo_jax.sensors import Sensor, get_sensor

SENSOR = dataclasses.replace(
    get_sensor("sentinel2_l2a"),
    nodata=0,
    mean=tuple(float(1000 + 10 * i) for i in range(12)),
    std=tuple(float(500 + i) for i in range(12)),
)
IMAGE, PATCH = 16, 8


@functools.cache
def tiny_encoder(size: str = "nano") -> Encoder:
    """A timm ViT of one block for 16 x 16 pixels of Sentinel-2."""
    trunk = vit.Config(size=size, depth=1)
    return make_encoder(patch_embed.Config(patch=PATCH), trunk, SENSOR, np.dtype("float32"))


@functools.cache
def weights_of(encoder: Encoder) -> tuple[dict, dict]:
    """(params, running statistics) at random."""
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    return tuple(random_weights(tree, seed=7) for tree in shapes)


def fingerprint(sensor: Sensor) -> dict:
    """The fields of a source in data.json that a contract takes."""
    return {
        "store": "tiles",
        "content_sha256": "0" * 64,
        "licence": "CC-BY-4.0",
        "split": "train",
        "locations": 3,
        "samples": 6,
        "sensor": sensor.row(),
        "normalisation": {
            "source": "training split of the store",
            "mean": list(sensor.mean),
            "std": list(sensor.std),
        },
    }


def exported(encoder: Encoder, image_size: int, weights: tuple[dict, dict] | None = None):
    """(tensors, contract with its checksums)."""
    layout = layout_name(encoder)
    tensors = tensors_of(LAYOUTS[layout], encoder, *(weights or weights_of(encoder)), image_size)
    config = {"objective": {"name": "mae"}}
    contract = make_contract(
        "s2", encoder, layout, image_size, fingerprint(encoder.sensor), config, 7
    )
    return tensors, sealed(contract, tensors)


def write_export(path: Path, encoder: Encoder, image_size: int = IMAGE) -> Path:
    """A file of an encoder with random weights."""
    tensors, contract = exported(encoder, image_size)
    write_safetensors(path, tensors, to_header(contract))
    return path
