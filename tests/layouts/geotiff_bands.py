"""Arbitrary GeoTIFFs with one file per band: a drone camera over two fields on two days, with a
label map and split lists; near infrared in pixels twice as large. Cut into patches of 5 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.transform import Affine

from tests import tiny_archives

OPTIONS = {
    "sensor": str(Path(__file__).with_name("drone_bands.json")),
    "patch_size": 5,
    "band_regex": r"^(?P<item>.+)_(?P<band>green|red|red_edge|NIR)\.tif$",
    "resample": "bilinear",
    "group_regex": r"^(?P<group>[^/]+)/",
    "time_regex": r"/(?P<time>\d{8})_",
}
BANDS = ("green", "red", "red_edge", "NIR")  # of the table, in another spelling
FACTORS = {"NIR": 2}
IMAGES = {"north/20240501": "train", "north/20240620": "train", "south/20240501": "val"}
HEIGHT, WIDTH = 12, 16
NODATA = 65535


def plane(seed: int, band: str) -> np.ndarray:
    """uint16 [1, h, w] of one band; its upper left pixel is no-data in every second image."""
    factor = FACTORS.get(band, 1)
    values = np.random.default_rng([seed, BANDS.index(band)]).integers(
        0, 900, (1, HEIGHT // factor, WIDTH // factor)
    )
    values += 1000 * (1 + BANDS.index(band))
    values[:, : seed % 2, : seed % 2] = NODATA
    return values.astype(np.uint16)


def transform(seed: int, factor: int = 1) -> Affine:
    """The grid of an image, with pixels of `factor` x 5 cm."""
    return Affine(0.05 * factor, 0, 366015 + 100 * seed, 0, -0.05 * factor, 5809965)


def write(root: Path) -> None:
    lists: dict[str, list[str]] = {}
    for seed, (image, split) in enumerate(IMAGES.items()):
        for band in BANDS:
            tiny_archives.write(
                root / "images" / f"{image}_{band}.tif",
                plane(seed, band),
                nodata=NODATA,
                transform=transform(seed, FACTORS.get(band, 1)),
            )
        weeds = (plane(seed + 7, "red") % 5).astype(np.uint8)
        tiny_archives.write(root / "labels" / f"{image}.tif", weeds, transform=transform(seed))
        lists.setdefault(split, []).append(f"{image}\n")
    (root / "splits").mkdir()
    for split, lines in lists.items():
        (root / "splits" / f"{split}.txt").write_text("".join(lines))
