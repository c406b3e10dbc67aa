"""SSL4EO-L: two locations, all five products, one to four dates; images of 16 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives
from rasterio.transform import Affine

SIZE = 16
OPTIONS = {"size": SIZE}
BANDS = {"tm_toa": 7, "etm_toa": 9, "etm_sr": 6, "oli_tirs_toa": 11, "oli_sr": 7}
SCENES = {
    "tm_toa": {
        "0000002": ("LT05_172034_20010526", "LT5_172034_20020923"),
        "0000005": ("LT05_223084_20010413",),
    },
    "etm": {
        "0000002": (
            "LE07_172034_20010526",
            "LE07_172034_20020310",
            "LE07_172034_20020902",
            "LE07_172034_20021121",
        )
    },
    "oli": {"0000005": ("LC08_223084_20210412", "LC08_223084_20221211")},
}
GRID = {
    "crs": "EPSG:4326",
    "transform": Affine(0.0003, 0, 40.3, 0, -0.0002, 37.6),
    "compress": "lzw",
    "predictor": 2,
}


def write(root: Path) -> None:
    for product in BANDS:
        for location, scenes in SCENES.get(product, SCENES.get(product.split("_")[0], {})).items():
            for scene in scenes:
                tiny_archives.write(
                    path(root, product, location, scene), pixels(product, scene), **GRID
                )


def path(root: Path, product: str, location: str, scene: str) -> Path:
    return root / f"ssl4eo_l_{product}" / location / scene / "all_bands.tif"


def pixels(product: str, scene: str) -> np.ndarray:
    """uint8 [c, 16, 16] with distinct bands."""
    noise = np.random.default_rng(int(scene[-8:])).integers(0, 20, (BANDS[product], SIZE, SIZE))
    return (20 * np.arange(1, BANDS[product] + 1)[:, None, None] + noise).astype(np.uint8)
