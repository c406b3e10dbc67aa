"""BigEarthNet: version 2 with S1, S2, maps and metadata of three locations, and version 1 by
`write_v1`; patches of 12 pixels instead of 120.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rasterio.transform import Affine

from tests import tiny_archives

SIZE = 12
PIXELS = {
    "B02": 1,
    "B03": 1,
    "B04": 1,
    "B08": 1,
    "VV": 1,
    "VH": 1,
    "B01": 6,
    "B09": 6,
}  # in pixels of 10 m; the others are 2
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S1 = ("VV", "VH")
TILE, SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1A_IW_GRDH_1SDV_20170613T165043"
LOCATIONS = {"26_57": "train", "75_43": "validation", "8_9": "test"}
LABELS = {
    "26_57": ("Arable land", "Urban fabric"),
    "75_43": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "8_9": ("Marine waters", "Moors, heathland and sclerophyllous vegetation"),
}
OPTIONS = {"labels": ("multilabel", "landcover")}
V1_S2, V1_S1 = "S2A_MSIL2A_20170617T113321", "S1A_IW_GRDH_1SDV_20170617T064724_29UPU"


def write(root: Path) -> None:
    for location in LOCATIONS:
        write_location(root, location)
    lines = [
        f'{TILE}_{location},"{";".join(LABELS[location])}",{split},Austria,{SCENE}_33UUP_{location}\n'
        for location, split in LOCATIONS.items()
    ]
    (root / "metadata.csv").write_text("patch_id,labels,split,country,s1_name\n" + "".join(lines))


def write_location(root: Path, location: str) -> None:
    """The S1 and S2 patch of a location, and its map."""
    patch = f"{TILE}_{location}"
    write_patch(root / "BigEarthNet-S2" / TILE / patch, S2, location)
    write_patch(root / "BigEarthNet-S1" / SCENE / f"{SCENE}_33UUP_{location}", S1, location)
    codes = (
        np.random.default_rng(len(location))
        .choice([112, 211, 311, 523], (1, SIZE, SIZE))
        .astype(np.uint16)
    )
    tiny_archives.write(
        root / "Reference_Maps" / TILE / patch / f"{patch}_reference_map.tif",
        codes,
        nodata=0,
        **grid(1, location),
    )


def write_v1(root: Path) -> None:
    """Two locations, in train.csv and in bigearthnet-test.csv; the second has none of the 19
    classes.
    """
    for location, names in {
        "4_55": ["Pastures", "Sea and ocean", "Airports"],
        "5_6": ["Airports"],
    }.items():
        write_patch(root / "BigEarthNet-v1.0" / f"{V1_S2}_{location}", S2, location, labels=names)
        pair = {"labels": names, "corresponding_s2_patch": f"{V1_S2}_{location}"}
        write_patch(root / "BigEarthNet-S1-v1.0" / f"{V1_S1}_{location}", S1, location, **pair)
    (root / "train.csv").write_text(f"{V1_S2}_4_55,{V1_S1}_4_55\n")
    (root / "bigearthnet-test.csv").write_text(f"{V1_S2}_5_6,{V1_S1}_5_6\n")


def write_patch(folder: Path, bands: tuple[str, ...], location: str, **metadata: object) -> None:
    """The band files of a patch, and its JSON file if it has metadata. Thousands (S1: tens) encode
    the band.
    """
    for index, band in enumerate(bands):
        factor = PIXELS.get(band, 2)
        noise = np.random.default_rng([index, *location.encode()]).integers(
            1, 900, (1, SIZE // factor, SIZE // factor)
        )
        plane = (
            (1000 * index + noise).astype(np.uint16)
            if bands is S2
            else (-10 * index - noise / 100).astype(np.float32)
        )
        tiny_archives.write(
            folder / f"{folder.name}_{band}.tif",
            plane,
            nodata=0 if bands is S2 else None,
            **grid(factor, location),
        )
    if metadata:
        (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(metadata))


def grid(factor: int, location: str) -> dict:
    """The grid of pixels of `factor` x 10 m; all grids of a patch share a corner."""
    column, row = map(int, location.split("_"))
    return {
        "crs": "EPSG:32633",
        "transform": Affine(
            10 * factor, 0, 3e5 + 1200 * column, 0, -10 * factor, 5.4e6 - 1200 * row
        ),
    }
