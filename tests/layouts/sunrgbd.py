"""SUN RGB-D in the layout of CMX: five pictures with HHA, depth and labels, two sizes, JPEG and
PNG.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": ("1", "2", "10"), "test": ("3", "4")}
SIZES = {"1": (24, 32), "2": (24, 32), "10": (30, 20), "3": (24, 32), "4": (30, 20)}


def write(root: Path) -> None:
    for folder in ("RGB", "HHA", "Depth", "Label"):
        (root / folder).mkdir(parents=True)
    for split, names in SPLITS.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_scene(root, name)


def write_scene(root: Path, name: str) -> None:
    """The four pictures of a name."""
    rng, shape = np.random.default_rng(int(name)), SIZES[name]
    Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(root / "RGB" / f"{name}.jpg")
    channels = rng.integers(0, 50, (*shape, 3), np.uint8) + np.array([0, 100, 200], np.uint8)
    Image.fromarray(channels).save(root / "HHA" / f"{name}.png")
    Image.fromarray(rng.integers(0, 60_000, shape, np.uint16)).save(root / "Depth" / f"{name}.png")
    Image.fromarray(rng.integers(0, 38, shape, np.uint8)).save(root / "Label" / f"{name}.png")
