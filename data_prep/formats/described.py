"""The sensor row that a file describes itself, for scenes that no table has."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import rasterio

from data_prep.archive import ArchiveError
from data_prep.formats.band_identity import (
    Stated,
    are_positions,
    is_bad,
    read_stated,
    stated_names,
    stated_wavelengths,
    stated_widths,
)
from eo_jax.sensors import SENSORS, Sensor
from eo_jax.sensors.checks import DTYPES

# Wavelengths of a monitor's primaries, and how far a band may be from them to stand for one.
_RED_GREEN_BLUE_NM, _COLOUR_TOLERANCE_NM = (650.0, 560.0, 470.0), 40.0
_WAVELENGTH_IN_NAME = re.compile(r"\s*\([\d.]+ \w+\)$")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a file says about its digital numbers.

    Attributes:
        scales, offsets: one per band, or none: physical value = digital number x scale + offset.
        units: of the physical value; "" where the file does not say.
    """

    dtype: str
    nodata: float | None
    scales: Sequence[float] = ()
    offsets: Sequence[float] = ()
    units: str = ""
    gsd_m: float | None = None


def row_of(name: str, stated: Stated, numbers: Numbers) -> Sensor:
    """The row of a file with these statements about its bands and its digital numbers.

    No-data that is NaN or infinite is None, since neither is ever data. Raises ArchiveError.
    """
    if numbers.dtype not in DTYPES:
        raise ArchiveError(name, f"pixels are {numbers.dtype}, expected one of {', '.join(DTYPES)}")
    count = len(stated.tags)
    nm = next(iter(stated_wavelengths(name, stated).values()), None)
    columns: dict[str, list[Any]] = {
        "name": _band_names(stated),
        "number": list(range(1, count + 1)),
        "centre_nm": [None] * count if nm is None else list(map(float, nm)),
        "fwhm_nm": stated_widths(name, stated),
    }
    if any(map(is_bad, stated.tags)):
        columns["bad"] = [is_bad(tags) for tags in stated.tags]
    scale, columns["scale"] = _common(numbers.scales, 1.0, count)
    offset, columns["offset"] = _common(numbers.offsets, 0.0, count)
    nodata = numbers.nodata
    stem = PurePosixPath(name).stem
    row = {
        "id": _id(stem),
        "title": f"{stem}, {count} bands",
        "gsd_m": numbers.gsd_m,
        "dtype": numbers.dtype,
        "scale": scale,
        "offset": offset,
        "units": numbers.units or "digital number",
        "nodata": nodata if nodata is not None and np.isfinite(nodata) else None,
        "true_colour": _true_colour(nm),
        "source": f"what {PurePosixPath(name).name} says about itself",
        "bands": columns,
    }
    try:
        return Sensor.from_row(row)
    except ValueError as error:
        raise ArchiveError(
            name, f"describes no sensor: {error}; write a row (JSON) and give it as --sensor"
        ) from error


def tiff_row(name: str, dataset: rasterio.DatasetReader, bands: Sequence[int], gsd_m) -> Sensor:
    """The row of a GeoTIFF, whose `bands` are 1-based and without alpha. Raises ArchiveError."""
    nodata = {dataset.nodatavals[band - 1] for band in bands} - {None}
    dtypes, units = (
        {values[band - 1] for band in bands} for values in (dataset.dtypes, dataset.units)
    )
    if len(dtypes) > 1 or len(nodata) > 1:
        raise ArchiveError(
            name,
            f"its bands have the types {', '.join(sorted(dtypes))} and the no-data values "
            f"{', '.join(map(str, sorted(nodata))) or 'none'}, expected one of each; write all "
            "bands alike",
        )
    numbers = Numbers(
        dtype=dtypes.pop(),
        nodata=next(iter(nodata), None),
        scales=[dataset.scales[band - 1] for band in bands],
        offsets=[dataset.offsets[band - 1] for band in bands],
        units=(units.pop() or "") if len(units) == 1 else "",
        gsd_m=gsd_m,
    )
    return row_of(name, read_stated(dataset, bands), numbers)


def _band_names(stated: Stated) -> list[str]:
    """The names of the first source that names each band differently, else their numbers."""
    for names in stated_names(stated).values():
        short = [_WAVELENGTH_IN_NAME.sub("", each).strip() for each in names]
        if not are_positions(short) and all(short) and len(set(short)) == len(short):
            return short
    return [f"band {number}" for number in range(1, len(stated.tags) + 1)]


def _common(
    values: Sequence[float], neutral: float, count: int
) -> tuple[float, list[float | None]]:
    """(value of the row, values of bands that differ from it)."""
    listed = list(map(float, values)) or [neutral] * count
    first = max(set(listed), key=listed.count)
    return first, [None if value == first else value for value in listed]


def _id(stem: str) -> str:
    text = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")[:80] or "scene"
    return f"{text}_scene" if text in SENSORS else text


def _true_colour(nm: np.ndarray | None) -> list[int] | None:
    if nm is None or not np.isfinite(nm).all():
        return None
    nearest = [int(np.abs(nm - wanted).argmin()) for wanted in _RED_GREEN_BLUE_NM]
    off = np.abs(nm[nearest] - np.array(_RED_GREEN_BLUE_NM))
    return nearest if (off <= _COLOUR_TOLERANCE_NM).all() and len(set(nearest)) == 3 else None
