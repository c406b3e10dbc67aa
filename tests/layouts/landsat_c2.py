"""Landsat Collection 2: level 2 of Landsat 9 and level 1 of Landsat 8, 7 and 4, with the files and
the groups of MTL.txt that USGS writes; cut into patches of 8 pixels, some cloudy, some beyond the
scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.transform import Affine

from data_prep.readers.landsat_c2 import Reader
from tests import tiny_archives

OPTIONS = {"patch_size": 8}
OLI, OLI_L1 = "LC09_L2SP_224063_20220814_20220920_02_T1", "LC08_L1TP_224063_20200814_20200920_02_T1"
ETM, TM = "LE07_L1TP_016028_20030521_20200904_02_T1", "LT04_L1TP_016028_19880521_20200904_02_T2"
ROWS = {
    OLI: "landsat8_oli_sr_c2",
    OLI_L1: "landsat8_oli_tirs_l1_c2",
    ETM: "landsat7_etm_l1_c2",
    TM: "landsat5_tm_l1_c2",
}
HEIGHT, WIDTH = 18, 25
CLEAR, CLOUD, DILATED, CIRRUS, SHADOW, FILL = 21824, 22280, 21826, 54596, 23888, 1
SUN = 48.25
SPACECRAFT = {"LC09": "LANDSAT_9", "LC08": "LANDSAT_8", "LE07": "LANDSAT_7", "LT04": "LANDSAT_4"}


def bands(product: str) -> list[str]:
    """The names of the bands of a product's row."""
    row = next(row for row in Reader.sensors if row.id == ROWS[product])
    return [band.name for band in row.bands]


def plane(product: str, band: str) -> np.ndarray:
    """[1, h, w] of one band; the first three columns are no-data."""
    rng = np.random.default_rng([list(ROWS).index(product), bands(product).index(band)])
    is_byte = product[:2] in ("LE", "LT") and "L1" in product
    low, high = (20, 250) if is_byte else (7000, 40_000)
    values = rng.integers(low, high, (1, HEIGHT, WIDTH))
    values[:, :, :3] = 0
    return values.astype(np.uint8 if is_byte else np.uint16)


def quality() -> np.ndarray:
    """uint16 [1, h, w]: fill where the bands are no-data and at one more pixel, (9, 9); two clouds
    of 8 x 4 pixels, a shadow below them.
    """
    codes = np.full((1, HEIGHT, WIDTH), CLEAR, np.uint16)
    codes[:, :, :3] = codes[:, 9, 9] = FILL
    codes[:, :8, 16:20], codes[:, 8:, 16:18] = CLOUD, SHADOW
    codes[:, 0, 16], codes[:, 1, 16] = DILATED, CIRRUS
    return codes


def write(root: Path) -> None:
    for product in ROWS:
        write_product(root / product, product)


def write_product(folder: Path, product: str) -> None:
    """The folder of a product, with files that are not read."""
    grid = {"transform": Affine(30, 0, 366015, 0, -30, 5809965)}
    for band in bands(product):
        path = folder / f"{product}_{band}.TIF"
        tiny_archives.write(path, plane(product, band), nodata=0, **grid)
    tiny_archives.write(folder / f"{product}_QA_PIXEL.TIF", quality(), nodata=FILL, **grid)
    other = "ST_B10" if "L2" in product else "QA_RADSAT"
    tiny_archives.write(folder / f"{product}_{other}.TIF", quality(), **grid)
    (folder / f"{product}_MTL.txt").write_text(mtl(product))
    (folder / f"{product}_ANG.txt").write_text("GROUP = FILE_HEADER\nEND\n")


def mtl(product: str, **changes: str) -> str:
    """MTL.txt; `changes` are {key: value}, with None to leave a key out."""
    level, date = product.split("_")[1], product.split("_")[3]
    groups = {
        "PRODUCT_CONTENTS": {
            "ORIGIN": '"Image courtesy of the U.S. Geological Survey"',
            "LANDSAT_PRODUCT_ID": f'"{product}"',
            "PROCESSING_LEVEL": f'"{level}"',
            "COLLECTION_NUMBER": "02",
        },
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": f'"{SPACECRAFT[product[:4]]}"',
            "DATE_ACQUIRED": f"{date[:4]}-{date[4:6]}-{date[6:]}",
            "SCENE_CENTER_TIME": '"13:22:46.1234560Z"',
            "SUN_ELEVATION": f"{SUN:.8f}",
        },
    }
    if "L2" in product:
        groups["LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"] = _scale(range(1, 8), "2.75e-05", "-0.2")
    numbers = range(1, 10) if product.startswith("LC") else (1, 2, 3, 4, 5, 7)
    constants = ("2.0000E-05", "-0.100000") if product.startswith("LC") else ("1.5E-03", "-0.004")
    groups["LEVEL1_RADIOMETRIC_RESCALING"] = _scale(numbers, *constants)
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for group, fields in groups.items():
        kept = {key: changes.get(key, value) for key, value in fields.items()}
        lines += [f"  GROUP = {group}"]
        lines += [f"    {key} = {value}" for key, value in kept.items() if value is not None]
        lines += [f"  END_GROUP = {group}"]
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def _scale(numbers, mult: str, add: str) -> dict[str, str]:
    return {f"REFLECTANCE_MULT_BAND_{number}": mult for number in numbers} | {
        f"REFLECTANCE_ADD_BAND_{number}": add for number in numbers
    }
