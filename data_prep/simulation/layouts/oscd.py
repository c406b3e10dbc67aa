"""OSCD: two Sentinel-2 dates of a place, and where it was built on between them.

It is converted by `python -m data_prep convert oscd`.

    <output>/Onera Satellite Change Detection dataset - Images/
        <place>/imgs_{1,2}_rect/{B01,...,B12}.tif    uint16 [size, size], reflectance x 10000
        <place>/dates.txt                            date_1: 20220314, date_2: 20240702
        {train,test}.txt                             places, separated by commas
    <output>/Onera Satellite Change Detection dataset - {Train,Test} Labels/
        <place>/cm/<place>-cm.tif                    1 no change, 2 change

Seasons, crops and light differ between the dates, too, and are no change. Pixels are of 30 m.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from data_prep.simulation import files, spectra
from data_prep.simulation.acquisition import (
    GROUND,
    VIEW,
    Location,
    Scene,
    make_location,
    reflectance,
    stream,
)
from data_prep.simulation.landscape import Landscape, build_up, make_landscape
from data_prep.simulation.splits import is_validation
from eo_jax.sensors import get_sensor

LEAST = 2  # one for each split

_TITLE = "Onera Satellite Change Detection dataset - "
_SENSOR = get_sensor("sentinel2_l1c")
_NAMES = [re.sub(r"^B(\d)$", r"B0\1", band.name) for band in _SENSOR.bands]
_AIR = 0.08  # path reflectance at 450 nm; L1C is at the top of the atmosphere
_NOISE = 0.002  # standard deviation, in reflectance


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes a place, if it is missing; returns the number of dates and their bytes."""
    location = make_location(seed, index, size)
    place = output / f"{_TITLE}Images" / location.name
    path = place / "dates.txt"  # the last file of a place
    if path.exists():
        return 0, 0
    before = make_landscape(stream(seed, GROUND, index), size)
    after, changed = build_up(before, stream(seed, GROUND, index, 1))
    dates = location.region.scenes[0], location.region.scenes[-1]
    written = 0
    for number, (scene, land) in enumerate(zip(dates, (before, after), strict=True), start=1):
        written += _write_date(place / f"imgs_{number}_rect", seed, location, scene, land)
    labels = output / f"{_TITLE}{_split(seed, index).title()} Labels" / location.name / "cm"
    codes = np.where(changed, 2, 1).astype(np.uint8)
    files.write_map(labels / f"{location.name}-cm.tif", codes, location, nodata=None)
    days = [f"date_{n}: {scene.time:%Y%m%d}\n" for n, scene in enumerate(dates, start=1)]
    files.write_text(path, "".join(days))
    return 2, written


def write_lists(output: Path, seed: int, size: int, locations: int) -> None:
    """Writes the lists of places."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for index in range(locations):
        lists[_split(seed, index)].append(make_location(seed, index, size).name)
    joined = {split: [",".join(places)] for split, places in lists.items()}
    files.write_lists(output / f"{_TITLE}Images", joined)


def last_location(output: Path) -> int:
    """The highest number of a place that is there, -1 without any."""
    return files.highest_number(output.glob(f"{_TITLE}Images/*"))


def _split(seed: int, index: int) -> str:
    return "test" if is_validation(seed, index) else "train"


def _write_date(folder: Path, seed: int, location: Location, scene: Scene, land: Landscape) -> int:
    """Writes the bands of a date; returns their bytes."""
    nm, written = _SENSOR.centres_nm, 0
    surface = reflectance(seed, location, scene, land, nm)
    seen = spectra.transmittance(nm)[:, None, None] * surface
    seen += spectra.haze(nm, _AIR + scene.haze_strength, 4)[:, None, None]
    seen += stream(seed, VIEW, location.index, scene.number).normal(0, _NOISE, seen.shape)
    # 0 is no-data in L1C.
    pixels = np.clip(np.rint(seen / _SENSOR.scale), 1, 65535).astype(np.uint16)
    for name, band in zip(_NAMES, pixels, strict=True):
        files.write_map(folder / f"{name}.tif", band, location, nodata=None)
        written += (folder / f"{name}.tif").stat().st_size
    return written
