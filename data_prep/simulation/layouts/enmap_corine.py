"""EnMAP-CORINE of SpectralEarth's downstream tasks: which land covers a patch has.

It is converted by `python -m data_prep convert spectral-earth-downstream --task enmap_corine`.

    <output>/enmap_corine/enmap/<location>/<scene>.tif     int16 [202, size, size]
    <output>/enmap_corine/corine/<location>/<scene>.tif    uint16 [size, size], CORINE codes
    <output>/splits/enmap_corine/{train,val,test}.txt      one <location>/<scene>.tif per line
"""

from __future__ import annotations

from pathlib import Path

from data_prep.simulation import enmap_scenes, files
from data_prep.simulation.acquisition import make_location
from data_prep.simulation.splits import split_of

LEAST = 3  # one for each split

# {land use: CORINE code}; 111 and 112 are one of BigEarthNet's 19 classes.
CODES = {1: 512, 2: 311, 3: 222, 4: 211, 5: 242, 6: 231, 7: 112, 8: 111, 9: 121}


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes the missing dates of a location; returns their number and the bytes of images."""
    return enmap_scenes.write_scenes(output / "enmap_corine", "corine", CODES, seed, size, index)


def write_lists(output: Path, seed: int, size: int, locations: int) -> None:
    """Writes the split lists."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for index in range(locations):
        lists[split_of(seed, index)] += enmap_scenes.lines_of(make_location(seed, index, size))
    files.write_lists(output / "splits" / "enmap_corine", lists)


def last_location(output: Path) -> int:
    """The highest number of a location that is there, -1 without any."""
    return files.highest_number(output.glob("enmap_corine/enmap/*"))
