"""HYPERVIEW, as SpectralEarth uses it: four numbers of a field, from its image of 150 bands.

It is converted by `python -m data_prep convert hyperview`.

    <output>/images/<index>.npz                `data` int16 [150, size, size], reflectance x 10000,
                                               462 to 942 nm
    <output>/train.csv, val.csv                columns sample_index, P, K, Mg, pH

The numbers are no chemistry, but what light tells of the field, standardised as in the lists of
SpectralEarth: means of the cover of green crops (P), of straw (K) and of moist soil (Mg), and of
the vigour of plants (pH).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from data_prep.simulation import files
from data_prep.simulation.acquisition import (
    GROUND,
    VIEW,
    Location,
    covers,
    make_location,
    reflectance,
    stream,
)
from data_prep.simulation.landscape import Landscape, make_field
from data_prep.simulation.splits import is_validation

LEAST = 2  # one for each split

_NM = np.linspace(462, 942, 150)
_NOISE = 0.002  # standard deviation, in reflectance
# Mean and standard deviation of the four means over 300 fields of 32 pixels.
_MEAN = np.array([0.44, 0.17, 0.18, 0.51])
_STD = np.array([0.19, 0.15, 0.15, 0.14])


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes a field, if it is missing; returns the number of images and their bytes."""
    path = output / "images" / f"{index}.npz"
    if path.exists():
        return 0, 0
    location, field = _field(seed, size, index)
    surface = reflectance(seed, location, location.scenes[0], field, _NM)
    noise = stream(seed, VIEW, index, 0).normal(0, _NOISE, surface.shape)
    data = np.clip(np.rint((surface + noise) * 10_000), 0, 32767).astype(np.int16)
    files.replace_with(path, functools.partial(_write_npz, data=data))
    return 1, path.stat().st_size


def write_lists(output: Path, seed: int, size: int, locations: int) -> None:
    """Writes the numbers of all fields."""
    lines = {"train": ["sample_index,P,K,Mg,pH"], "val": ["sample_index,P,K,Mg,pH"]}
    for index in range(locations):
        numbers = ",".join(f"{value:.6f}" for value in targets(seed, size, index))
        lines["val" if is_validation(seed, index) else "train"].append(f"{index},{numbers}")
    for split, rows in lines.items():
        files.write_text(output / f"{split}.csv", "".join(f"{row}\n" for row in rows))


def last_location(output: Path) -> int:
    """The highest number of a field that is there, -1 without any."""
    return files.highest_number(output.glob("images/*.npz"))


def targets(seed: int, size: int, index: int) -> np.ndarray:
    """The four numbers of a field."""
    location, field = _field(seed, size, index)
    cover = covers(seed, location, location.scenes[0], field)
    green = cover["crop_lush"] + cover["crop_sparse"]
    parts = green, cover["straw"], cover["moist_soil"], field.vigour
    return (np.array([part.mean() for part in parts]) - _MEAN) / _STD


def _field(seed: int, size: int, index: int) -> tuple[Location, Landscape]:
    return make_location(seed, index, size), make_field(stream(seed, GROUND, index), size)


def _write_npz(partial: Path, data: np.ndarray) -> None:
    with partial.open("wb") as file:
        np.savez_compressed(file, data=data)
