"""Reads and checks the MTL.txt of a Landsat Collection 2 product: time, scale, the sun's elevation.

USGS, Landsat Collection 2 Level-1 and Level-2 data format control books: groups of KEY = VALUE.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.times import utc_seconds
from eo_jax.sensors import Sensor

MAX_BYTES = 1_000_000  # of the file; real ones have about 15 kB
_AGAIN = "get the MTL.txt of this product again"
_LINE = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*")
_RESCALING = {
    "1": "LEVEL1_RADIOMETRIC_RESCALING",
    "2": "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS",
}  # the group by level

Mtl = Mapping[str, Mapping[str, str]]  # {group: {key: value}}


@functools.lru_cache(4)  # every tile of a product needs it
def parse(name: str, data: bytes) -> Mtl:
    """The groups of an MTL.txt. Raises ArchiveError for anything else, and where it is cut off."""
    lines = [line for line in _text(name, data).splitlines() if line.strip()]
    if not lines or lines[-1].strip() != "END":
        raise ArchiveError(name, f"does not end with END, so it is truncated; {_AGAIN}")
    groups, open_groups = dict[str, dict[str, str]](), [""]
    for line in lines[:-1]:
        match = _LINE.fullmatch(line)
        if not match:
            raise ArchiveError(name, f"has the line {line[:60]!r}, expected KEY = VALUE; {_AGAIN}")
        key, value = match[1], match[2].strip('"')
        if key == "GROUP":
            open_groups.append(value)
        elif key == "END_GROUP":
            open_groups = open_groups[:-1] or [""]
        else:
            groups.setdefault(open_groups[-1], {})[key] = value
    return groups


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(
            name, f"is not text ({error.reason} at byte {error.start}); {_AGAIN}"
        ) from error


def check_product(name: str, mtl: Mtl, product: str) -> None:
    """Raises ArchiveError for the MTL of another product."""
    found = mtl.get("PRODUCT_CONTENTS", {}).get("LANDSAT_PRODUCT_ID")
    if found is None:
        remarks.note("MTL.txt does not name its product")
    elif found != product:
        raise ArchiveError(
            name,
            f"LANDSAT_PRODUCT_ID is {found[:60]!r}, expected {product}; take the MTL.txt of that "
            "product",
        )


def time(name: str, mtl: Mtl, date: str) -> int:
    """Seconds since 1970 UTC of the scene's centre; the `date` of the product's name, YYYYMMDD, at
    00:00 where the MTL has none.

    Raises ArchiveError where the two dates differ.
    """
    attributes = mtl.get("IMAGE_ATTRIBUTES", {})
    day = attributes.get("DATE_ACQUIRED", f"{date[:4]}-{date[4:6]}-{date[6:]}")
    text = f"{day}T{attributes.get('SCENE_CENTER_TIME', '00:00:00Z')}"
    try:
        found = utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"DATE_ACQUIRED and SCENE_CENTER_TIME are {text[:60]!r}, expected an ISO date and "
            f"time; {_AGAIN}",
        ) from error
    if day.replace("-", "") != date:
        raise ArchiveError(
            name, f"DATE_ACQUIRED is {day[:20]!r}, but the product's name has {date}; {_AGAIN}"
        )
    return found


def check_scale(name: str, mtl: Mtl, level: str, sensor: Sensor) -> None:
    """Raises ArchiveError where scale or offset of a reflective band are not those of `sensor`."""
    bands = [band for band in sensor.bands if band.kind == "reflective"]
    stated = mtl.get(_RESCALING[level], {})
    for key, expected in (("MULT", sensor.scale), ("ADD", sensor.offset)):
        found = [stated.get(f"REFLECTANCE_{key}_BAND_{_number(band.name)}") for band in bands]
        if not any(found):
            remarks.note("MTL.txt states no scale of reflectance: that of the sensor table is used")
            return
        for band, text in zip(bands, found, strict=True):
            if not _is_close(text, expected):
                raise ArchiveError(
                    name,
                    f"REFLECTANCE_{key}_BAND_{_number(band.name)} is {(text or 'absent')[:20]}, "
                    f"expected the {expected:g} of {sensor.title}; {_AGAIN}",
                )
    remarks.note("scale and offset in MTL.txt are those of the sensor table")


def calibration(name: str, mtl: Mtl, level: str, sensor: Sensor) -> dict[str, np.ndarray]:
    """What turns level 1 into top-of-atmosphere reflectance, and differs between scenes.

    `sun_elevation`, float64 [], in degrees; for rows in digital numbers also `reflectance_mult` and
    `reflectance_add`, float64 [reflective bands]: reflectance = (mult x DN + add) / sine of the
    elevation. Raises ArchiveError where the MTL lacks one of them.
    """
    sun = _numbers(name, mtl.get("IMAGE_ATTRIBUTES", {}), ["SUN_ELEVATION"])[0]
    found = {"sun_elevation": np.array(sun)}
    if sensor.units != "digital number":
        return found
    numbers = [_number(band.name) for band in sensor.bands if band.kind == "reflective"]
    stated = mtl.get(_RESCALING[level], {})
    for key in ("MULT", "ADD"):
        keys = [f"REFLECTANCE_{key}_BAND_{number}" for number in numbers]
        found[f"reflectance_{key.lower()}"] = np.array(_numbers(name, stated, keys))
    return found


def _numbers(name: str, stated: Mapping[str, str], keys: Sequence[str]) -> list[float]:
    for key in keys:
        if not _is_finite(stated.get(key)):
            found = repr(stated[key][:20]) if key in stated else "absent"
            raise ArchiveError(name, f"{key} is {found}, expected a number; {_AGAIN}")
    return [float(stated[key]) for key in keys]


def _number(band: str) -> str:
    """ "SR_B4" -> "4"."""
    return band.rpartition("B")[2]


def _is_finite(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def _is_close(text: str | None, expected: float) -> bool:
    return _is_finite(text) and math.isclose(float(text), expected, rel_tol=1e-6)
