"""So2Sat LCZ42: three files with three, two and one patches, and sen1, which is not read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

COUNTS = {"training": 3, "validation": 2, "testing": 1}


def write(root: Path) -> None:
    for part, count in COUNTS.items():
        write_file(
            root / f"{part}.h5",
            patches(count),
            np.eye(17)[np.arange(count) * 8],
            compression="gzip",
        )


def write_file(path: Path, sen2: np.ndarray, label: np.ndarray, **layout) -> None:
    """A file as published, with sen2 [n, h, w, c] and label [n, 17]; `layout` applies to both
    datasets.
    """
    with h5py.File(path, "w") as file:
        file.create_dataset("sen1", data=np.zeros((len(sen2), 32, 32, 8)), compression="gzip")
        file.create_dataset("sen2", data=sen2, **layout)
        file.create_dataset("label", data=label, **layout)


def patches(count: int) -> np.ndarray:
    """float64 [n, 32, 32, 10], digital numbers / 10000, with distinct bands."""
    numbers = np.random.default_rng(count).integers(0, 100, (count, 8, 8, 10)) + 100 * np.arange(
        1, 11
    )
    return numbers.repeat(4, axis=1).repeat(4, axis=2) / 10_000
