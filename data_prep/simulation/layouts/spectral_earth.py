"""SpectralEarth: EnMAP patches with land-use maps.

It is converted by `python -m data_prep convert spectral-earth --labels landuse`.

    <output>/enmap/<location>/<scene>.tif      int16 [202, size, size], reflectance x 10000
    <output>/landuse/<location>/<scene>.tif    uint8 [size, size], 0 = unlabelled
    <output>/landuse/classes.csv               code,name
    <output>/splits/train.txt, val.txt         one <location>/<scene>.tif per line, all dates of a
                                               location in one split
"""

from __future__ import annotations

from pathlib import Path

from data_prep.simulation import enmap_scenes, files
from data_prep.simulation.acquisition import make_location
from data_prep.simulation.landscape import CLASSES
from data_prep.simulation.splits import is_validation

LEAST = 2  # one for each split

_CODES = {code: code for code in CLASSES}


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes the missing dates of a location; returns their number and the bytes of images."""
    return enmap_scenes.write_scenes(output, "landuse", _CODES, seed, size, index)


def write_lists(output: Path, seed: int, size: int, locations: int) -> None:
    """Writes the names of the classes and the split lists."""
    rows = [f"{code},{name}\n" for code, name in CLASSES.items()]
    files.write_text(output / "landuse" / "classes.csv", "code,name\n" + "".join(rows))
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(locations):
        split = "val" if is_validation(seed, index) else "train"
        lists[split] += enmap_scenes.lines_of(make_location(seed, index, size))
    files.write_lists(output / "splits", lists)


def last_location(output: Path) -> int:
    """The highest number of a location that is there, -1 without any."""
    return files.highest_number(output.glob("enmap/*"))
