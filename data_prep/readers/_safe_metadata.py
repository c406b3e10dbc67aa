"""Reads and checks MTD_MSIL1C.xml and MTD_MSIL2A.xml of Sentinel-2 products.

ESA, Sentinel-2 Products Specification Document, issue 14.9: General_Info has the processing
baseline, the special values, the quantification value and, from baseline 04.00, an offset per band.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from data_prep.archive import ArchiveError
from data_prep.formats.band_identity import check_wavelengths
from data_prep.formats.times import utc_seconds
from eo_jax.sensors import Sensor

MAX_BYTES = 20_000_000  # of the file; real ones have about 50 kB
_AGAIN = "get the product again"
_LEVELS = {"1C": "Level-1C", "2A": "Level-2A"}
_QUANTIFICATION = {
    "1C": "QUANTIFICATION_VALUE",
    "2A": "QUANTIFICATION_VALUES_LIST/BOA_QUANTIFICATION_VALUE",
}
_OFFSETS = {
    "1C": "Radiometric_Offset_List/RADIO_ADD_OFFSET",
    "2A": "BOA_ADD_OFFSET_VALUES_LIST/BOA_ADD_OFFSET",
}
_FIRST_WITH_OFFSET, _UNKNOWN = 4, 99  # whole numbers of baselines; 99.99 is Sen2Cor outside ESA
_NODATA, _SATURATED = "NODATA", "SATURATED"


class Metadata(NamedTuple):
    """Fields of a sample, and what decides about its row, from an MTD file.

    Attributes:
        baseline: the processing baseline, "05.09".
        time: start of the product, seconds since 1970 UTC.
        offset: added to digital numbers before they are divided by 10000: 0 or -1000.
        saturated: digital numbers of saturated pixels: none, or one.
        centres_nm: {band: centre wavelength}, empty where the file has none.
    """

    baseline: str
    time: int
    offset: int
    saturated: tuple[int, ...]
    centres_nm: dict[str, float]


@functools.lru_cache(4)  # every tile of a product needs it
def parse(name: str, data: bytes, level: str, product: str) -> Metadata:
    """The metadata of a product of level "1C" or "2A".

    Raises ArchiveError for any other file, and for values that no row of the sensor table has.
    """
    root = _root(name, data)
    info = _find(name, root, "General_Info/Product_Info")
    image = _find(name, root, "General_Info/Product_Image_Characteristics")
    _check_text(name, info, "PROCESSING_LEVEL", _LEVELS[level])
    uri = info.find("{*}PRODUCT_URI")
    if uri is not None and (uri.text or "").strip().removesuffix(".SAFE") != product:
        _check_text(name, info, "PRODUCT_URI", f"{product}.SAFE")
    if _number(name, image, _QUANTIFICATION[level]) != 10_000:
        _check_text(name, image, _QUANTIFICATION[level], "10000")
    baseline, offset = _text(name, info, "PROCESSING_BASELINE"), _offset(name, image, level)
    _check_baseline(name, baseline, offset)
    return Metadata(
        baseline, _time(name, info), offset, _saturated(name, image), _centres_nm(name, image)
    )


def wavelengths_nm(name: str, metadata: Metadata, sensor: Sensor) -> np.ndarray | None:
    """Centre wavelengths [c] of the bands of `sensor`; None where the file does not have them all.

    Raises ArchiveError where they are not those of the row.
    """
    names = [band.name for band in sensor.bands]
    if not set(names) <= metadata.centres_nm.keys():
        return None
    found = np.array([metadata.centres_nm[band] for band in names])
    check_wavelengths(name, found, sensor)
    return found


def _root(name: str, data: bytes) -> Element:
    try:
        return ElementTree.fromstring(data, forbid_dtd=True)
    # ValueError and LookupError are raised for unknown encodings.
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ArchiveError(name, f"cannot be read as XML ({error}); {_AGAIN}") from error


def _offset(name: str, image: Element, level: str) -> int:
    found = image.findall(_path(_OFFSETS[level]))
    values = {(element.text or "").strip() for element in found} or {"0"}
    if values == {"0"} or values == {"-1000"}:
        return int(values.pop())
    raise ArchiveError(
        name,
        f"{_OFFSETS[level]} is {', '.join(sorted(values))[:60]}, expected -1000 in all bands, or "
        f"none; {_AGAIN}",
    )


def _check_baseline(name: str, baseline: str, offset: int) -> None:
    match = re.fullmatch(r"(\d\d)\.\d\d", baseline, re.ASCII)
    if not match:
        raise ArchiveError(
            name,
            f"PROCESSING_BASELINE is {baseline[:20]!r}, expected one such as 05.09; {_AGAIN}",
        )
    number = int(match[1])
    if number != _UNKNOWN and (number >= _FIRST_WITH_OFFSET) != bool(offset):
        raise ArchiveError(
            name,
            f"PROCESSING_BASELINE is {baseline} with an offset of {offset}, expected -1000 from "
            f"04.00 on, and none before; {_AGAIN}",
        )


def _saturated(name: str, image: Element) -> tuple[int, ...]:
    """Raises ArchiveError for another no-data value than 0, and for unknown special values."""
    values = {
        _text(name, element, "SPECIAL_VALUE_TEXT"): _number(name, element, "SPECIAL_VALUE_INDEX")
        for element in image.iterfind("{*}Special_Values")
    }
    unknown = values.keys() - {_NODATA, _SATURATED}
    if unknown or values.get(_NODATA, 0) != 0 or not 0 < values.get(_SATURATED, 1) <= 65535:
        listed = ", ".join(f"{key} {value:g}" for key, value in values.items())
        raise ArchiveError(
            name,
            f"Special_Values are {listed[:80]}, expected NODATA 0 and SATURATED 65535; {_AGAIN}",
        )
    return (int(values[_SATURATED]),) if _SATURATED in values else ()


def _centres_nm(name: str, image: Element) -> dict[str, float]:
    path = _path("Spectral_Information_List/Spectral_Information")
    return {
        element.get("physicalBand", ""): _number(name, element, "Wavelength/CENTRAL")
        for element in image.iterfind(path)
    }


def _time(name: str, info: Element) -> int:
    text = _text(name, info, "PRODUCT_START_TIME")
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"PRODUCT_START_TIME is {text[:40]!r}, expected an ISO time; {_AGAIN}",
        ) from error


# ------------------------------------------------------------------ elements


def _path(path: str) -> str:
    """A path of tags in any namespace."""
    return "/".join("{*}" + part for part in path.split("/"))


def _find(name: str, parent: Element, path: str) -> Element:
    found = parent.find(_path(path))
    if found is None:
        raise ArchiveError(
            name,
            f"has no element {path}; {_AGAIN}, in its present format if it is of an old one",
        )
    return found


def _text(name: str, parent: Element, path: str) -> str:
    return (_find(name, parent, path).text or "").strip()


def _check_text(name: str, parent: Element, path: str, expected: str) -> None:
    found = _text(name, parent, path)
    if found != expected:
        raise ArchiveError(name, f"{path} is {found[:80]!r}, expected {expected!r}; {_AGAIN}")


def _number(name: str, parent: Element, path: str) -> float:
    text = _text(name, parent, path)
    try:
        return float(text)
    except ValueError as error:
        raise ArchiveError(name, f"{path} is {text[:40]!r}, expected a number; {_AGAIN}") from error
