"""SpectralEarth's enmap_cdl: five locations of three scenes, with CDL maps and split lists.

Scene 00001 is in train and test, like most in the published lists.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import tiny_archives

OPTIONS = {"task": "enmap_cdl"}
SPLITS = {
    "train": ("0000010/00001", "0000011/00001", "0000012/00002"),
    "val": ("0000013/00003",),
    "test": ("0000014/00001",),
}
BANDS = {"enmap": 202, "desis": 235, "eo1": 198}
SIZE = 16


def write(root: Path) -> None:
    """The archive of OPTIONS."""
    write_task(root, "enmap_cdl", codes=(0, 1, 5, 204, 121))


def write_task(
    root: Path, task: str, codes: tuple[int, ...], mask_dtype: str = "uint8", dtype: str = "int16"
) -> None:
    """A task whose maps have `codes` in turn, pixel by pixel."""
    sensor, product = task.split("_")
    for seed, name in enumerate(name for names in SPLITS.values() for name in names):
        cube = tiny_archives.pixels(seed, BANDS[sensor], SIZE).clip(0).astype(dtype)
        tiny_archives.write(root / task / sensor / f"{name}.tif", cube, compress="deflate")
        mask = np.resize(np.array(codes, mask_dtype), (1, SIZE, SIZE))
        tiny_archives.write(root / task / product / f"{name}.tif", mask)
    write_lists(root / "splits" / task)


def write_lists(folder: Path) -> None:
    """The split lists, in a folder."""
    folder.mkdir(parents=True)
    for split, names in SPLITS.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}.tif\n" for name in names))
