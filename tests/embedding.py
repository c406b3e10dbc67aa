"""Files of weights and GeoTIFFs for tests of `python -m eo_jax.embed`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rasterio
from reference import random_weights

from eo_jax.embed import __main__ as embed
from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.translation import tensors_of
from eo_jax.exchange.writing import write_safetensors
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.stems import patch_embed
from eo_jax.models.trunks import vit
from eo_jax.sensors import Sensor

AFFINE = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)


class Weights:
    """A tiny ViT for a sensor, its file, and its features by hand.

    Args:
        view: side of its views in pixels.
    """

    def __init__(self, path: Path, sensor: Sensor, patch: int, view: int, size: str = "nano"):
        self.path, self.view, self.patch, self.sensor = path, view, patch, sensor
        self.encoder: Encoder = make_encoder(
            patch_embed.Config(patch=patch),
            vit.Config(size=size, depth=1),
            sensor,
            np.dtype("float32"),
        )
        shapes = jax.eval_shape(self.encoder.network.init, jax.random.key(0))
        self.params, self.statistics = (random_weights(tree, seed=3) for tree in shapes)
        bands = len(sensor.bands)
        self.mean = np.linspace(900, 1100, bands).astype(np.float32)
        self.std = np.linspace(400, 600, bands).astype(np.float32)
        layout = layout_name(self.encoder)
        fingerprint = {
            "sensor": sensor.row(),
            "normalisation": {
                "source": "made up",
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
            },
            **dict.fromkeys(("store", "content_sha256", "split"), "none"),
            **dict.fromkeys(("locations", "samples"), 1),
        }
        contract = make_contract(
            "s2", self.encoder, layout, view, fingerprint, {"objective": {"name": "mae"}}, 1
        )
        tensors = tensors_of(LAYOUTS[layout], self.encoder, self.params, self.statistics, view)
        write_safetensors(path, tensors, to_header(sealed(contract, tensors)))

    def features(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """{"pooled": [d], "dense": [h, w, d]} of a view of digital numbers [c, H, W], in plain
        steps.
        """
        valid = ~self.sensor.missing(pixels)
        numbers = np.where(valid, pixels, 0).astype(np.float32)
        view = (numbers - self.mean[:, None, None]) / self.std[:, None, None]
        view, valid = (
            np.moveaxis(array, 0, -1)[None] for array in (np.where(valid, view, 0.0), valid)
        )
        found = self.encoder.features(
            self.params, self.statistics, jnp.asarray(view), jnp.asarray(valid)
        )
        return {name: np.asarray(array)[0] for name, array in found.items()}


def write_tiff(
    path: Path, pixels: np.ndarray, names: Sequence[str] = (), affine=AFFINE, **profile
) -> Path:
    """A GeoTIFF of [c, h, w], with band descriptions."""
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs="EPSG:32633",
        transform=affine,
        **profile,
    ) as dataset:
        dataset.write(pixels)
        for number, name in enumerate(names, 1):
            dataset.set_band_description(number, name)
    return path


def run(monkeypatch, *arguments: object) -> int:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["eo_jax.embed", *map(str, arguments)])
    return embed.main()
