"""OSCD: two cities for training and one for testing, two dates each, tiles of 16 pixels with
remainders at the edges.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import tiny_archives

OPTIONS = {"patch_size": 16}
NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
CITIES = {"train": {"beirut": (35, 40), "paris": (16, 33)}, "test": {"rio": (20, 16)}}
DATES = ("20160307", "20180207")
TITLE = "Onera Satellite Change Detection dataset - "


def write(root: Path) -> None:
    for split, cities in CITIES.items():
        for city, shape in cities.items():
            write_city(root, city, split, shape)
        (root / f"{TITLE}Images" / f"{split}.txt").write_text(",".join(cities) + "\n")


def write_city(root: Path, city: str, split: str, shape: tuple[int, int]) -> None:
    """A city with its two dates and its map of changes."""
    folder, labels = (
        root / f"{TITLE}Images" / city,
        root / f"{TITLE}{split.title()} Labels" / city / "cm",
    )
    for date in (1, 2):
        for band, name in enumerate(NAMES):
            tiny_archives.write(
                folder / f"imgs_{date}_rect" / f"{name}.tif", plane(city, date, band, shape)
            )
    (folder / "dates.txt").write_text(
        "".join(f"date_{number}: {date}\n" for number, date in enumerate(DATES, start=1))
    )
    tiny_archives.write(
        labels / f"{city}-cm.tif",
        np.random.default_rng(len(city)).integers(1, 3, (1, *shape), np.uint8),
    )


def plane(city: str, date: int, band: int, shape: tuple[int, int]) -> np.ndarray:
    """uint16 [1, h, w]; hundreds encode the band and thousands the date."""
    noise = np.random.default_rng(len(city) + date).integers(0, 50, (1, *shape))
    return (date * 10_000 + 100 * band + noise).astype(np.uint16)
