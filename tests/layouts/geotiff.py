"""Arbitrary GeoTIFFs: a drone camera over three fields on two days, with label maps and split
lists, cut into patches of 8 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives
from rasterio.transform import Affine

OPTIONS = {
    "sensor": str(Path(__file__).with_name("drone_bands.json")),
    "patch_size": 8,
    "group_regex": r"^(?P<group>[^/]+)/",
    "time_regex": r"_(?P<time>\d{8})\.",
    "labels": ("weeds",),
}
SPLITS = {"north": "train", "south": "train", "west": "val"}
DAYS = ("20240501", "20240620")
NODATA = 65535


def names() -> list[str]:
    """Names of the images, relative to images/."""
    return [f"{field}/flight_{day}.tif" for field in SPLITS for day in DAYS]


def pixels(seed: int, height: int = 16, width: int = 20) -> np.ndarray:
    """uint16 [4, height, width] with well separated bands; the upper left corner of some is no-
    data.
    """
    cube = (
        np.random.default_rng(seed).integers(0, 900, (4, height, width))
        + 1000 * np.arange(1, 5)[:, None, None]
    )
    cube[:, : 3 * (seed % 2), :3] = NODATA
    return cube.astype(np.uint16)


def write(root: Path) -> None:
    lists: dict[str, list[str]] = {}
    for seed, name in enumerate(names()):
        grid = {
            "crs": "EPSG:32633",
            "transform": Affine(0.05, 0, 366015 + 100 * (seed // 2), 0, -0.05, 5809965),
        }
        tiny_archives.write(root / "images" / name, pixels(seed), nodata=NODATA, **grid)
        for number, label in enumerate(("labels", "weeds")):
            tiny_archives.write(
                root / label / name,
                (pixels(seed + 7)[number : number + 1] % 5).astype(np.uint8),
                **grid,
            )
        lists.setdefault(SPLITS[name.split("/")[0]], []).append(f"{name}\n")
    (root / "splits").mkdir()
    for split, lines in lists.items():
        (root / "splits" / f"{split}.txt").write_text("".join(lines))
