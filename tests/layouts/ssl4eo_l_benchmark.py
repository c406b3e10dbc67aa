"""The SSL4EO-L benchmark: twenty locations of ETM+ TOA and SR, and three of TM; both label maps;
images of 16 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

from layouts.ssl4eo_l import GRID, SIZE, pixels

OPTIONS = {"size": SIZE, "subset": True}
LOCATIONS = {"etm_toa": 20, "etm_sr": 20, "tm_toa": 3}
YEARS = {"etm": 2019, "tm": 2011}
CODES = {"cdl": (0, 1, 5, 24, 62, 195), "nlcd": (0, 11, 22, 42, 51, 95)}


def write(root: Path) -> None:
    for product, count in LOCATIONS.items():
        for location in range(count):
            scene = f"{location:07}/LE07_172030_201905{location + 1:02}"
            tiny_archives.write(
                root / f"ssl4eo_l_{product}_benchmark" / scene / "all_bands.tif",
                pixels(product, scene),
                **GRID,
            )
            write_maps(root, product.split("_")[0], scene)


def write_maps(root: Path, sensor: str, scene: str) -> None:
    """The maps cdl and nlcd of a scene."""
    for kind, codes in CODES.items():
        chosen = (
            np.random.default_rng(int(scene[-8:])).choice(codes, (1, SIZE, SIZE)).astype(np.uint8)
        )
        tiny_archives.write(
            root / f"ssl4eo_l_{sensor}_{kind}" / scene / f"{kind}_{YEARS[sensor]}.tif",
            chosen,
            **GRID,
        )
