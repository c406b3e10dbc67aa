"""What a raster says about its digital numbers, compared with the row of the sensor table: dtype,
no-data values, scale and offset; and values that cannot be what the row says they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import rasterio

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.sidecars import stac_tags
from eo_jax.sensors import SENSORS, Sensor

# Physical values that a sensor can measure, by words in the units; generous, since what is outside
# is a fill value or in another unit. Reflectance below -0.9 excludes the fill value -9999.
_POSSIBLE = {
    "reflectance": (-0.9, 30.0),
    "kelvin": (0.0, 1000.0),
    "k": (0.0, 1000.0),
    "db": (-200.0, 200.0),
    "m": (-9998.0, 9998.0),
}
_ANY = (-1e15, 1e15)
_FILLS = (-9999, -32768)  # of integers, where the table has another no-data value
_FRACTION = 2.0  # reflectance as a fraction has no larger digital numbers
_DN_SCALE = 1e-2  # a row with a smaller scale holds integers of hundreds and thousands


def check_encoding(
    name: str,
    dataset: rasterio.DatasetReader,
    sensor: Sensor,
    numbers: Sequence[int],
    dtypes: Sequence[str],
) -> None:
    """Raises ArchiveError where dtype, no-data values or scales of the bands with these 1-based
    numbers, which are the sensor's in its order, are not those of the sensor.
    """
    dtypes_of_bands = dataset.dtypes
    found = {dtypes_of_bands[number - 1] for number in numbers}
    if len(found) > 1 or not found <= set(dtypes):
        types = f"pixels are {', '.join(sorted(found))}, expected {' or '.join(dtypes)}"
        hint = " (or give --cast where the reader has it)" if found == {"float64"} else ""
        raise ArchiveError(name, f"{types}; write {in_words(sensor)} in that type{hint}")
    stac = stac_tags(dataset, numbers)
    for value in _nodata_values(name, dataset, numbers, stac):
        _check_nodata(name, dataset, value, sensor, *found)
    _check_scales(name, dataset, sensor, numbers, stac)


def in_words(sensor: Sensor) -> str:
    """The sensor's digital numbers in words: "surface reflectance x 10000"."""
    return sensor.units if sensor.scale == 1 else f"{sensor.units} x {1 / sensor.scale:g}"


# ------------------------------------------------------------------ no-data


def _nodata_values(
    name: str,
    dataset: rasterio.DatasetReader,
    numbers: Sequence[int],
    stac: Sequence[dict[str, str]],
) -> list[float]:
    """The different no-data values that tags, .aux.xml or a STAC item state."""
    tags = dataset.nodatavals
    stated = {tags[number - 1] for number in numbers}
    stated |= {_number(name, "nodata", band["nodata"]) for band in stac if "nodata" in band}
    return [value for value in stated if value is not None]


def _check_nodata(
    name: str, dataset: rasterio.DatasetReader, found: float, sensor: Sensor, dtype: str
) -> None:
    if found == sensor.nodata or (np.dtype(dtype).kind == "f" and not math.isfinite(found)):
        remarks.note(f"no-data value {found:g}, as in the sensor table or never data")
        return
    raise ArchiveError(
        name,
        f"no-data value is {found:g}{_source(dataset)}, but {sensor.title} has "
        f"{'none' if sensor.nodata is None else f'{sensor.nodata:g}'}; give --sensor "
        f"{_row_with(sensor, found)}",
    )


def _source(dataset: rasterio.DatasetReader) -> str:
    """Names the sidecar, which a user may not have seen."""
    has_sidecar = any(file.endswith(".aux.xml") for file in dataset.files)
    return " by the file or its .aux.xml or STAC item" if has_sidecar else ""


def _row_with(sensor: Sensor, nodata: float) -> str:
    """The row of the table that differs in the no-data value only, else how to write one."""
    for row in SENSORS.values():
        names = [band.name for band in row.bands]
        same = (row.dtype, row.scale, row.offset, names) == (
            sensor.dtype,
            sensor.scale,
            sensor.offset,
            [band.name for band in sensor.bands],
        )
        if same and row.nodata == nodata:
            return f"{row.id}, which has it"
    return f'a row (JSON, Sensor.row) of its bands with "nodata": {nodata:g}'


# ------------------------------------------------------------------ scales


def _check_scales(
    name: str,
    dataset: rasterio.DatasetReader,
    sensor: Sensor,
    numbers: Sequence[int],
    stac: Sequence[dict[str, str]],
) -> None:
    """Scales are stated for all bands as in the table, or, as 1 and 0, for none."""
    for key, neutral, tags, expected in (
        ("scale", 1.0, dataset.scales, sensor.scales),
        ("offset", 0.0, dataset.offsets, sensor.offsets),
    ):
        check_scale_of_bands(
            name, key, neutral, [tags[number - 1] for number in numbers], expected, sensor
        )
        if any(key in band for band in stac):
            listed = [_number(name, key, band.get(key, str(neutral))) for band in stac]
            check_scale_of_bands(name, f"{key} in the STAC item", neutral, listed, expected, sensor)


def check_scale_of_bands(
    name: str,
    key: str,
    neutral: float,
    found: Sequence[float],
    expected: np.ndarray,
    sensor: Sensor,
) -> None:
    """Raises ArchiveError where values per band are neither all neutral nor those of the sensor."""
    if set(found) == {neutral}:
        return
    found_array = np.array(found)
    wrong = ~np.isclose(found_array, expected, rtol=1e-6, atol=0)
    if wrong.any():
        band = int(wrong.argmax())
        raise ArchiveError(
            name,
            f"{key} of band {band + 1} is {found_array[band]:g}, but {sensor.title} has "
            f"{expected[band]:g}; give a --sensor row (JSON) with this scale and offset, or write "
            f"{in_words(sensor)}",
        )
    remarks.note(f"{key} of the file is that of the sensor table")


def _number(name: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ArchiveError(
            name, f"{key} in the STAC item is {text[:40]!r}, expected a number; correct it"
        ) from error


# ------------------------------------------------------------------ values


def check_values(name: str, pixels: np.ndarray, sensor: Sensor) -> None:
    """Raises ArchiveError for pixels [c, h, w] that are fractions where the table has integers, and
    for fill values that the sensor cannot measure.
    """
    if pixels.dtype.kind == "f":
        _check_floats(name, pixels, sensor)
    elif pixels.dtype.kind == "i":
        _check_integers(name, pixels, sensor)


def _check_floats(name: str, pixels: np.ndarray, sensor: Sensor) -> None:
    valid = np.where(sensor.missing(pixels), np.nan, pixels)
    lows = np.nanmin(valid, (1, 2), initial=np.inf)
    highs = np.nanmax(valid, (1, 2), initial=-np.inf)
    if (np.rint(valid) != valid)[np.isfinite(valid)].any():
        _check_fractions(name, lows.min(), highs.max(), sensor)
    least, most = possible(sensor)
    for band in np.flatnonzero(np.isfinite(highs) & ((lows < least) | (highs > most))):
        wrong = lows[band] if lows[band] < least[band] else highs[band]
        raise ArchiveError(name, _impossible(float(wrong), int(band), sensor))


def _check_fractions(name: str, low: float, high: float, sensor: Sensor) -> None:
    if "reflectance" in sensor.units and sensor.scale < _DN_SCALE and max(-low, high) <= _FRACTION:
        raise ArchiveError(
            name,
            f"values from {low:.4g} to {high:.4g} are reflectance as fractions, but "
            f"{sensor.title} holds {in_words(sensor)}; multiply them, or give a --sensor row "
            "(JSON) with scale 1 and dtype float32",
        )


def _check_integers(name: str, pixels: np.ndarray, sensor: Sensor) -> None:
    least, _ = possible(sensor)
    lowest = pixels.min()  # spares the comparisons in most files
    for fill in _FILLS:
        if fill == sensor.nodata or not lowest <= fill < least.max():
            continue
        if (pixels == fill).any():
            bands = np.flatnonzero((pixels == fill).any((1, 2)) & (fill < least))
            if len(bands):
                raise ArchiveError(name, _impossible(fill, int(bands[0]), sensor))


@functools.lru_cache(64)
def possible(sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest digital number that each band can have, [c], by its units."""
    limits = np.array([_limits(band.units or sensor.units) for band in sensor.bands])
    numbers = (limits - sensor.offsets[:, None]) / sensor.scales[:, None]
    return numbers.min(1), numbers.max(1)


def _limits(units: str) -> tuple[float, float]:
    words = units.lower().replace("(", " ").split()
    return next((_POSSIBLE[word] for word in words if word in _POSSIBLE), _ANY)


def _impossible(value: float, band: int, sensor: Sensor) -> str:
    physical = value * sensor.scales[band] + sensor.offsets[band]
    units = sensor.bands[band].units or sensor.units
    return (
        f"band {sensor.bands[band].name} has the value {value:g}, which would be {physical:g} "
        f"({units}): a fill value, or another unit; give a --sensor row (JSON) with "
        f'"nodata": {value:g} if it marks pixels without data'
    )
