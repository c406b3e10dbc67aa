"""SpectralEarth: five locations, seven dates, label maps and split lists."""

from __future__ import annotations

from pathlib import Path

import tiny_archives

OPTIONS = {"labels": ("landuse",)}
SPLITS = {"train": ("0000001", "0000002", "0000007"), "val": ("0000010",), "test": ("0000011",)}


def write(root: Path) -> None:
    tiny_archives.spectral_earth(root, "landuse")
    (root / "splits").mkdir()
    for split, locations in SPLITS.items():
        lines = [
            f"{location}/{scene}.tif\n"
            for location in locations
            for scene in tiny_archives.LOCATIONS[location]
        ]
        (root / "splits" / f"{split}.txt").write_text("".join(lines))
