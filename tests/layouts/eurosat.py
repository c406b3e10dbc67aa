"""EuroSAT: two images of each of four classes, with different random and spatial split lists, as in
torchgeo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

OPTIONS = {"splits": "random"}
CLASSES = ("AnnualCrop", "Highway", "River", "SeaLake")
FOLDER = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
LISTS = {"": ((0, 1, 2, 3), (4, 5), (6, 7)), "spatial-": ((4, 5, 6, 7), (0, 1), (2, 3))}
FILE_ORDER = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")


def write(root: Path) -> None:
    names = [f"{kind}_{number}" for number in (1, 2) for kind in CLASSES]
    for name in names:
        tiny_archives.write(
            root / FOLDER / name.split("_")[0] / f"{name}.tif",
            pixels(name),
            compress="deflate",
            predictor=2,
        )
    for kind, parts in LISTS.items():
        for split, numbers in zip(("train", "val", "test"), parts, strict=True):
            (root / f"eurosat-{kind}{split}.txt").write_text(
                "".join(f"{names[number]}.jpg\n" for number in numbers)
            )


def pixels(name: str) -> np.ndarray:
    """uint16 [13, 64, 64] in file order; thousands encode the band in FILE_ORDER."""
    noise = np.random.default_rng(len(name)).integers(0, 50, (13, 16, 16)).repeat(4, 1).repeat(4, 2)
    return (1000 * np.arange(13)[:, None, None] + noise).astype(np.uint16)
