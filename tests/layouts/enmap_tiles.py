"""EnMAP tiles of 224 bands with wavelength tags and label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives


def write(root: Path) -> None:
    for seed, name in enumerate(("0_0.tif", "0_32.tif", "32_0.tif")):
        tiny_archives.tile(root / "images" / name, seed)
        tiny_archives.write(
            root / "labels" / name, (tiny_archives.pixels(seed, 1) % 4).astype(np.uint8)
        )
