"""SSL4EO-S12 v1.0: two locations, the first with three products and two dates, the second with one;
12 pixels of 10 m instead of 264.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.transform import Affine

from tests import tiny_archives

SIZE = 12
PIXELS = {
    "B2": 1,
    "B3": 1,
    "B4": 1,
    "B8": 1,
    "B1": 6,
    "B9": 6,
    "B10": 6,
}  # in pixels of 10 m; the others are 2
L1C = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
BANDS = {"s1": ("VV", "VH"), "s2c": L1C, "s2a": tuple(band for band in L1C if band != "B10")}
SCENES = {
    "s1": (
        "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457",
        "S1B_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C",
    ),
    "s2c": ("20200604T054639_20200604T054831_T43RCP", "20200823T054639_20200823T055618_T43RCP"),
    "s2a": ("20200604T054639_20200604T054831_T43RCP", "20200813T054639_20200813T054952_T43RCP"),
}
OPTIONS = {"void_ids": "void_ids.csv"}


def write(root: Path) -> None:
    for product, scenes in SCENES.items():
        for date, scene in enumerate(scenes):
            write_scene(root / product / "0000200" / scene, product, date)
    write_scene(root / "s2c" / "0000201" / SCENES["s2c"][0], "s2c", 7)
    write_scene(root / "s2c" / "0000202" / SCENES["s2c"][0], "s2c", 7)
    (root / "void_ids.csv").write_text("202\n124990\n")


def write_scene(folder: Path, product: str, seed: int) -> None:
    """The band files of one image, on grids that share the centre of their first pixel, like those
    of Google Earth Engine's export.
    """
    for index, band in enumerate(BANDS[product]):
        factor = 1 if product == "s1" else PIXELS.get(band, 2)
        tiny_archives.write(
            folder / f"{band}.tif",
            plane(product, index, factor, seed),
            crs="EPSG:4326",
            transform=transform(factor),
        )
    (folder / "metadata.json").write_text(f'{{"system:index": "{folder.name}"}}')


def transform(factor: int) -> Affine:
    """The grid of pixels of `factor` x 10 m."""
    pixel = 1e-4 * factor
    return Affine(pixel, 0, 73.3 - pixel / 2, 0, -pixel, 30.4 + pixel / 2)


def plane(product: str, index: int, factor: int, seed: int) -> np.ndarray:
    """[1, h, w]; thousands encode the band for Sentinel-2, tens for Sentinel-1."""
    noise = np.random.default_rng([seed, index]).integers(
        1, 900, (1, SIZE // factor, SIZE // factor)
    )
    return (
        (-10 * index - noise / 100).astype(np.float32)
        if product == "s1"
        else (1000 * index + noise).astype(np.uint16)
    )
