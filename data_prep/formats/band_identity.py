"""Which bands a raster says it has, and in which order, compared with a row of the sensor table.

Statements are band descriptions; the tags `wavelength` and `wavelength_units` (ENVI, EnMAP-Box);
CENTRAL_WAVELENGTH_UM of GDAL's IMAGERY domain; names and wavelengths of a STAC item (domain STAC,
see sidecars.py); and the band widths beside each of these. Each must agree with the row. A
description that is neither a band name of the row nor a wavelength says nothing, and neither does
"Band 3" of the third band.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.sidecars import stac_tags
from eo_jax import sensors
from eo_jax.sensors import Sensor

NM_PER_UNIT = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1000.0),
    **dict.fromkeys(("micrometre", "micrometres"), 1000.0),
}
_OPTICAL_UM = (0.15, 30.0)  # no optical sensor has wavelengths in nm within these numbers
# "B08", "SR_B4", "Band 8A", "T33UUP_B8A_20m", "B4, central wavelength 665 nm"
_NUMBERED = re.compile(r"(?:^|.*[^a-z0-9])b(?:and)?[ _-]?0*(\d{1,3})(a?)(?:[ _-]\d+m)?")
_POSITION = re.compile(r"(?:band|layer|channel)[ _-]?0*(\d+)")
# "band 1 (418.24 Nanometers)", "665 nm"; of GDAL and ENVI
_WAVELENGTH = re.compile(r"(?:[^()]*\()?\s*(\d+(?:\.\d+)?)\s*([^\W\d]+)\s*\)?")
_NAME_TAGS = ("band_name", "BAND_NAME", "BandName", "band", "name")
# Common names of the STAC extension eo, with their ranges in nm.
_COMMON_NM = {
    "coastal": (400, 455),
    "blue": (440, 535),
    "green": (500, 605),
    "yellow": (575, 630),
    "red": (610, 705),
    "rededge": (685, 795),
    "nir": (750, 1000),
    "nir08": (750, 900),
    "nir09": (850, 1050),
    "cirrus": (1350, 1400),
    "swir16": (1550, 1750),
    "swir22": (2050, 2350),
}
# Sources give the width at half maximum or that of the published range.
_WIDTH_TOLERANCE, _LEAST_WIDTH_TOLERANCE_NM = 0.35, 2.0
_REORDERED = "bands put in the order of the sensor table by their names or wavelengths (--reorder)"


class Bands(NamedTuple):
    """The bands of a file that are those of a sensor.

    Attributes:
        numbers: 1-based numbers in the file, in the order of the sensor.
        wavelengths_nm: float64 [c] in that order; None where the file has none.
        bad: positions in that order of the bands that the file's bad-band list excludes.
        told: whether the file says which band is which; if not, they are taken in its order.
    """

    numbers: list[int]
    wavelengths_nm: np.ndarray | None
    bad: list[int]
    told: bool = False

    def pick(self, positions: Sequence[int]) -> Bands:
        """Only the bands at these positions."""
        return Bands(
            [self.numbers[position] for position in positions],
            None if self.wavelengths_nm is None else self.wavelengths_nm[list(positions)],
            [new for new, position in enumerate(positions) if position in self.bad],
            self.told,
        )


class Stated(NamedTuple):
    """Everything that a file says about its bands except alpha, band by band.

    `tags` has `wavelength`, `fwhm`, `wavelength_units` (nm if absent) and `bbl`.
    """

    descriptions: list[str]
    tags: list[dict[str, str]]
    imagery: list[dict[str, str]]
    stac: list[dict[str, str]]


def read_stated(dataset: rasterio.DatasetReader, numbers: Sequence[int]) -> Stated:
    """What a raster states about the bands with these 1-based numbers."""
    return Stated(
        [dataset.descriptions[number - 1] or "" for number in numbers],
        [dataset.tags(number) for number in numbers],
        [dataset.tags(number, ns="IMAGERY") for number in numbers],
        stac_tags(dataset, numbers),
    )


def data_bands(dataset: rasterio.DatasetReader) -> list[int]:
    """1-based numbers of all bands except alpha, which is a mask and not a band."""
    return [
        number
        for number, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True)
        if meaning is not ColorInterp.alpha
    ]


def check_count(name: str, dataset: rasterio.DatasetReader, bands: int, what: str) -> None:
    """Raises ArchiveError where the file has another number of bands."""
    _check_count(name, dataset, len(data_bands(dataset)), bands, what)


def _check_count(
    name: str, dataset: rasterio.DatasetReader, found: int, bands: int, what: str
) -> None:
    if found != bands:
        alpha = " and an alpha band" if found < dataset.count else ""
        raise ArchiveError(
            name,
            f"{found} bands{alpha}, expected the {bands} of {what}; use the reader of that "
            "product, or where the reader has them, --sensor for the row of this file or --bands "
            "for the bands that it has",
        )


def identify(
    name: str, dataset: rasterio.DatasetReader, sensor: Sensor, reorder: bool = False
) -> Bands:
    """The bands of `sensor` in a file.

    With `reorder`, bands in another order are put right where names or wavelengths leave no doubt.
    Raises ArchiveError for another number of bands, and where the file contradicts the row.
    """
    numbers = data_bands(dataset)
    _check_count(name, dataset, len(numbers), len(sensor.bands), sensor.title)
    if len(numbers) < dataset.count:
        remarks.note("alpha band: a mask, and not a band")
    return identify_stated(name, read_stated(dataset, numbers), numbers, sensor, reorder)


def identify_stated(
    name: str, stated: Stated, numbers: Sequence[int], sensor: Sensor, reorder: bool
) -> Bands:
    """The same from what a file states about the bands with these 1-based numbers."""
    found, names = stated_wavelengths(name, stated), stated_names(stated)
    orders = {
        **{source: _order_by_names(name, source, each, sensor) for source, each in names.items()},
        **{source: _order_by_wavelengths(name, nm, sensor) for source, nm in found.items()},
    }
    orders = {source: order for source, order in orders.items() if order is not None}
    order = _agreed(name, orders)
    if order is None:
        order = list(range(len(numbers)))
    if order != sorted(order):
        if not reorder:
            source = next(iter(orders))
            raise ArchiveError(
                name, _other_order(order, source, {**names, **found}[source], sensor)
            )
        remarks.note(_REORDERED)
    _check_widths(name, stated, order, sensor)
    for source in orders:
        remarks.note(f"{source}: bands are those of the sensor table")
    found_nm = next(iter(found.values()), None)
    bad = [
        position
        for position, (index, band) in enumerate(zip(order, sensor.bands, strict=True))
        if is_bad(stated.tags[index]) or band.bad
    ]
    return Bands(
        [numbers[index] for index in order],
        None if found_nm is None else found_nm[order],
        bad,
        any(source in orders for source in found)
        or any(_tells_all(names[source], sensor) for source in names if source in orders),
    )


def is_bad(tags: dict[str, str]) -> bool:
    """Whether the tags of a band exclude it, by the bad-band list of ENVI."""
    return tags.get("bbl", "1").strip() in ("0", "0.0")


def _agreed(name: str, orders: dict[str, list[int]]) -> list[int] | None:
    different = {tuple(order) for order in orders.values()}
    if len(different) > 1:
        raise ArchiveError(
            name,
            f"its {' and '.join(orders)} state different orders of the bands; correct those that "
            "are wrong",
        )
    return list(different.pop()) if different else None


def _other_order(
    order: Sequence[int], source: str, values: Sequence[str] | np.ndarray, sensor: Sensor
) -> str:
    index = next(index for index, position in enumerate(order) if index != position)
    if isinstance(values, np.ndarray):
        first = f"wavelengths: band {index + 1} has {values[index]:g} nm, expected "
        first += f"{sensor.centres_nm[index]:g}"
    else:
        first = f"names: band {index + 1} is {values[index]!r}, expected {sensor.bands[index].name}"
    return (
        f"its bands are those of {sensor.title} in another order, by their {first} ({source}); "
        "give --reorder if the reader has it, or write the bands in the order of the sensor table"
    )


# ------------------------------------------------------------------ names


def stated_names(stated: Stated) -> dict[str, list[str]]:
    """{source: name of each band, "" where it has none}."""
    found = {"band descriptions": stated.descriptions}
    found |= {f"tags {key}": [band.get(key, "") for band in stated.tags] for key in _NAME_TAGS}
    found |= {
        f"STAC item ({key})": [band.get(key, "") for band in stated.stac]
        for key in ("name", "common_name", "description")
    }
    return {source: names for source, names in found.items() if any(names)}


@functools.lru_cache(4096)  # the files of an archive have the same names
def _key(text: str) -> str:
    """A band name in one spelling: "B08" and "Band 8" are both "b8"."""
    text = text.partition(",")[0].strip().lower()
    match = _NUMBERED.fullmatch(text)
    return f"b{match[1]}{match[2]}" if match else re.sub(r"[\W_]+", "", text)


def _order_by_names(
    name: str, source: str, names: Sequence[str], sensor: Sensor
) -> list[int] | None:
    """For each band of the sensor its position among `names`; None where they say nothing.

    Raises ArchiveError for names that contradict the sensor.
    """
    if are_positions(names):
        return None
    found, expected = list(map(_key, names)), _keys(sensor)
    if not set(found) & set(expected) and not (_are_numbered(found) and _are_numbered(expected)):
        return _order_by_common_names(name, source, found, sensor)
    if all(key in ("", wanted) for key, wanted in zip(found, expected, strict=True)):
        return list(range(len(names)))
    if sorted(found) == sorted(expected) and len(set(found)) == len(found):
        return [found.index(wanted) for wanted in expected]
    raise ArchiveError(name, _contradiction(source, names, sensor))


def _tells_all(names: Sequence[str], sensor: Sensor) -> bool:
    """Whether names that fit the sensor fit it in one order only: each band has one of its own, and
    those of wavelength ranges, as "red", are in the range of one band.
    """
    found, centres = list(map(_key, names)), sensor.centres_nm
    if len(set(found)) < len(found) or "" in found:
        return False
    if not set(found) <= set(_COMMON_NM) or set(found) & set(_keys(sensor)):
        return True
    return bool((_in_ranges(found, centres).sum(1) == 1).all())


def check_only_band(name: str, dataset: rasterio.DatasetReader, sensor: Sensor, index: int) -> None:
    """Raises ArchiveError where the only band of a file has the name of another band of `sensor`
    than the one at `index`.
    """
    keys = _keys(sensor)
    numbers = data_bands(dataset)
    for source, (found, *_) in stated_names(read_stated(dataset, numbers[:1])).items():
        if _key(found) in keys and _key(found) != keys[index]:
            raise ArchiveError(
                name,
                f"its {source} is {found[:40]!r}, expected {sensor.bands[index].name} of "
                f"{sensor.title}; take each file by its own name, or correct the name in it",
            )


def band_of_name(sensor: Sensor, name: str) -> int | None:
    """The index of the band of that name, in any spelling; None where the sensor has none."""
    keys, key = _keys(sensor), _key(name)
    return keys.index(key) if key in keys else None


@functools.lru_cache(64)
def _keys(sensor: Sensor) -> list[str]:
    return [_key(band.name) for band in sensor.bands]


def _contradiction(source: str, names: Sequence[str], sensor: Sensor) -> str:
    listed = ", ".join(names[:13])
    return (
        f"its {source} are {listed[:200]}, but {sensor.title} has "
        f"{', '.join(band.name for band in sensor.bands[:13])}; give the --sensor with these "
        "bands, or correct the names"
    )


def are_positions(names: Sequence[str]) -> bool:
    """Whether names only count the bands, "Band 1", "Band 2", ..., as many programs write them."""
    for position, text in enumerate(names, 1):
        match = _POSITION.fullmatch(text.strip().lower())
        if text and not (match and int(match[1]) == position):
            return False
    return True


def _are_numbered(keys: Sequence[str]) -> bool:
    return all(re.fullmatch(r"b\d+a?", key) for key in keys)


def _order_by_common_names(
    name: str, source: str, found: Sequence[str], sensor: Sensor
) -> list[int] | None:
    """The same by "red", "nir", ... where the sensor's wavelengths are known."""
    centres = sensor.centres_nm
    if not set(found) <= set(_COMMON_NM) or not np.isfinite(centres).all():
        return None
    fits = _in_ranges(found, centres)
    if fits.diagonal().all():
        return list(range(len(found)))
    if (fits.sum(0) == 1).all() and (fits.sum(1) == 1).all():
        return fits.argmax(1).tolist()
    raise ArchiveError(name, _contradiction(source, found, sensor))


def _in_ranges(names: Sequence[str], centres: np.ndarray) -> np.ndarray:
    """bool [c, c]: whether the centre of a band (row) is in the range of a common name (column)."""
    ranges = np.array([_COMMON_NM[name] for name in names], float)
    return (ranges[None, :, 0] <= centres[:, None]) & (centres[:, None] <= ranges[None, :, 1])


# ------------------------------------------------------------------ wavelengths


def stated_wavelengths(name: str, stated: Stated) -> dict[str, np.ndarray]:
    """{source: wavelengths [c] in nm}, the most exact source first."""
    values = {
        "tag `wavelength`": [
            (band.get("wavelength"), band.get("wavelength_units", "nm")) for band in stated.tags
        ],
        "tag `CENTRAL_WAVELENGTH_UM`": [
            (band.get("CENTRAL_WAVELENGTH_UM"), "um") for band in stated.imagery
        ],
        "center_wavelength in the STAC item": [
            (band.get("center_wavelength"), "um") for band in stated.stac
        ],
    }
    found = {
        source: np.array([_nm(name, number, *pair) for number, pair in enumerate(pairs, 1)])
        for source, pairs in values.items()
        if _all_present(name, source, [text is not None for text, _ in pairs])
    }
    described = [_described_nm(text) for text in stated.descriptions]
    if None not in described:
        found["wavelengths in band descriptions"] = np.array(described)
    return found


@functools.lru_cache(4096)
def _described_nm(text: str) -> float | None:
    """The wavelength in a band description, or None."""
    match = _WAVELENGTH.fullmatch(text)
    if not match or match[2].lower() not in NM_PER_UNIT:
        return None
    return float(match[1]) * NM_PER_UNIT[match[2].lower()]


def _all_present(name: str, source: str, present: Sequence[bool]) -> bool:
    if any(present) and not all(present):
        raise ArchiveError(
            name,
            f"band {present.index(False) + 1} has no {source}, but others do; write it for all "
            "bands or none",
        )
    return any(present)


def _nm(name: str, number: int, text: str, unit: str) -> float:
    if unit.strip().lower() not in NM_PER_UNIT:
        raise ArchiveError(
            name,
            f"band {number} has wavelength_units {unit[:40]!r}, expected Nanometers or "
            "Micrometers; correct the tag",
        )
    try:
        return float(text) * NM_PER_UNIT[unit.strip().lower()]
    except ValueError as error:
        raise ArchiveError(
            name,
            f"band {number} has the wavelength or width {text[:40]!r}, expected a number; correct "
            "the tag",
        ) from error


def _check_widths(name: str, stated: Stated, order: Sequence[int], sensor: Sensor) -> None:
    """Raises ArchiveError where a width is not that of the band in the row, if the row has it."""
    for source, key, bands, unit in _width_sources(stated):
        for index, band in zip(order, sensor.bands, strict=True):
            if key not in bands[index] or band.fwhm_nm is None:
                continue
            widths = _widths_nm(name, index, bands[index], key, unit)
            tolerance = max(_WIDTH_TOLERANCE * band.fwhm_nm, _LEAST_WIDTH_TOLERANCE_NM)
            if not any(abs(width - band.fwhm_nm) <= tolerance for width in widths):
                raise ArchiveError(
                    name,
                    f"band {index + 1} has a width of {widths[0]:g} nm ({source}), but {band.name} "
                    f"of {sensor.title} has {band.fwhm_nm:g}; give the --sensor of this file, or "
                    "correct its width",
                )


def stated_widths(name: str, stated: Stated) -> list[float | None]:
    """The width of each band in nm, None where the file does not state it. Raises ArchiveError."""
    found: list[float | None] = [None] * len(stated.tags)
    for _, key, bands, unit in _width_sources(stated):
        for index, band in enumerate(bands):
            if key in band and found[index] is None:
                widths = _widths_nm(name, index, band, key, unit)
                found[index] = next((width for width in widths if 0.1 <= width <= 2000), None)
    return found


def _width_sources(stated: Stated) -> tuple[tuple[str, str, list[dict[str, str]], str], ...]:
    """(source in words, its key, its tags by band, the unit)."""
    return (
        ("tag `fwhm`", "fwhm", stated.tags, "nm"),
        ("tag `FWHM_UM`", "FWHM_UM", stated.imagery, "um"),
        ("full_width_half_max in the STAC item", "full_width_half_max", stated.stac, "um"),
    )


def _widths_nm(name: str, index: int, band: dict[str, str], key: str, unit: str) -> list[float]:
    """The width in each unit that it may have: tools that convert the wavelengths leave the widths
    beside them in nm.
    """
    units = {unit, band.get("wavelength_units", unit)}
    return [_nm(name, index + 1, band[key], each) for each in sorted(units)]


def _order_by_wavelengths(name: str, found_nm: np.ndarray, sensor: Sensor) -> list[int] | None:
    """For each band of the sensor the position of its wavelength; None where the table has none.

    Raises ArchiveError for wavelengths that are not those of the sensor in any order.
    """
    centres = sensor.centres_nm
    if not np.isfinite(centres).any():
        return None
    tolerances = sensors.wavelength_tolerances_nm(sensor)
    off = np.abs(found_nm - centres) > tolerances
    if not (off | np.isnan(found_nm)).any():
        return list(range(len(found_nm)))
    order = _nearest(found_nm, centres, tolerances)
    if order is None:
        check_wavelengths(name, found_nm, sensor)  # raises
    return order


def _nearest(found_nm: np.ndarray, centres: np.ndarray, tolerances: np.ndarray) -> list[int] | None:
    """The only order in which every wavelength is that of its band, or None."""
    if not np.isfinite(centres).all() or len(found_nm) != len(centres):
        return None
    fits = np.abs(found_nm[None] - centres[:, None]) <= tolerances[:, None]
    if (fits.sum(0) == 1).all() and (fits.sum(1) == 1).all():
        return fits.argmax(1).tolist()
    return None


def nm_of_unknown_unit(values: Sequence[float]) -> float:
    """nm per unit of wavelengths without one: micrometres where only these are optical."""
    low, high = _OPTICAL_UM
    return 1000.0 if len(values) and all(low <= value <= high for value in values) else 1.0


def check_wavelengths(name: str, found_nm: np.ndarray, sensor: Sensor) -> None:
    """Raises ArchiveError where wavelengths [c] are not those of the bands of `sensor`."""
    try:
        sensors.check_wavelengths(sensor, found_nm, name)
    except ValueError as error:
        raise ArchiveError(name, str(error).removeprefix(f"{name}: ")) from error
