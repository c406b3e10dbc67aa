"""HYPERVIEW: five fields of different sizes, one without a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPLITS = {"train": (0, 3, 12, 1501), "val": (599,)}
HEADER = "sample_index,company,field,cover,P,K,Mg,pH,P_class\n"


def write(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    for split, indices in SPLITS.items():
        (root / f"{split}.csv").write_text(
            HEADER + "".join(f"{index},A,77,5.0,{_targets(index)},1\n" for index in indices)
        )
        for index in indices:
            arrays = (
                {"data": cube(index)} if index == 3 else {"data": cube(index), "mask": mask(index)}
            )
            np.savez_compressed(root / "images" / f"{index}.npz", **arrays)


def cube(index: int) -> np.ndarray:
    """int16 [150, h, w] with distinct bands."""
    height, width = 4 + index % 3, 5 + index % 2
    noise = np.random.default_rng(index).integers(0, 9, (150, height, width))
    return (300 + 10 * np.arange(150)[:, None, None] + noise).astype(np.int16)


def mask(index: int) -> np.ndarray:
    """bool [150, h, w], equal in all bands: the first row is outside the field."""
    outside = np.zeros(cube(index).shape, bool)
    outside[:, 0] = True
    return outside


def _targets(index: int) -> str:
    return f"{index / 1000 - 1},{0.25},{-0.125},{index / 500}"
