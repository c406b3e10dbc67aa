"""Reads and checks the METADATA.XML of an EnMAP L2A product: wavelengths of the bands, and time."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from data_prep.archive import ArchiveError
from data_prep.formats.band_identity import check_wavelengths
from data_prep.formats.times import utc_seconds
from eo_jax.sensors import ENMAP_PRODUCT

MAX_BYTES = 64_000_000  # of the file; real files have one or two MB
_GET_AGAIN = "get the METADATA.XML of this product again"


class Metadata(NamedTuple):
    """Fields of a sample from METADATA.XML.

    Attributes:
        time: start of the acquisition, seconds since 1970 UTC.
        wavelengths_nm: float64 [224], in product order.
    """

    time: int
    wavelengths_nm: np.ndarray


@functools.lru_cache(4)  # every tile of a product needs it
def parse(name: str, data: bytes) -> Metadata:
    """The metadata of an L2A product with the bands, scale and no-data value of the sensor table.

    Raises ArchiveError for any other.
    """
    root = _root(name, data)
    level = _text(name, root, "base/level")
    if level != "L2A":
        raise ArchiveError(
            name, f"base/level is {level!r}, expected 'L2A'; order the product at that level"
        )
    wavelengths_nm = _bands(name, root)
    wavelengths_nm.flags.writeable = False  # shared through the cache
    return Metadata(_time(name, root), wavelengths_nm)


def _root(name: str, data: bytes) -> Element:
    try:
        return ElementTree.fromstring(data, forbid_dtd=True)
    # ValueError and LookupError are raised for unknown encodings.
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ArchiveError(name, f"cannot be read as XML ({error}); {_GET_AGAIN}") from error


def _bands(name: str, root: Element) -> np.ndarray:
    """The wavelengths [224] of all bands.

    Raises ArchiveError where bands, their scale or the no-data value are not those of the sensor
    table.
    """
    characterisation = _find(name, root, "specific/bandCharacterisation")
    bands = {band.get("number"): band for band in characterisation.iterfind("{*}bandID")}
    numbers = [str(number) for number in ENMAP_PRODUCT.band_numbers]
    if len(characterisation) != len(numbers) or set(bands) != set(numbers):
        raise ArchiveError(
            name,
            f"bandCharacterisation has {len(characterisation)} bands, expected bandID 1 to "
            f"{len(numbers)}; {_GET_AGAIN}",
        )
    for number in numbers:
        _check_number(name, bands[number], "GainOfBand", ENMAP_PRODUCT.scale)
        _check_number(name, bands[number], "OffsetOfBand", ENMAP_PRODUCT.offset)
    _check_number(name, _find(name, root, "specific"), "backgroundValue", ENMAP_PRODUCT.nodata)
    found_nm = np.array(
        [_number(name, bands[number], "wavelengthCenterOfBand") for number in numbers]
    )
    check_wavelengths(name, found_nm, ENMAP_PRODUCT)
    return found_nm


def _time(name: str, root: Element) -> int:
    text = _text(name, root, "base/temporalCoverage/startTime")
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"startTime is {text!r}, expected an ISO time such as 2022-06-11T07:23:05.1Z; "
            f"{_GET_AGAIN}",
        ) from error


# ------------------------------------------------------------------ elements


def _find(name: str, parent: Element, path: str) -> Element:
    """The element at a path of tags, in any namespace."""
    found = parent.find("/".join("{*}" + part for part in path.split("/")))
    if found is None:
        raise ArchiveError(name, f"has no element {path}{_of(parent)}; {_GET_AGAIN}")
    return found


def _text(name: str, parent: Element, path: str) -> str:
    return (_find(name, parent, path).text or "").strip()


def _number(name: str, parent: Element, path: str) -> float:
    text = _text(name, parent, path)
    try:
        return float(text)
    except ValueError as error:
        raise ArchiveError(
            name, f"{path}{_of(parent)} is {text[:40]!r}, expected a number; {_GET_AGAIN}"
        ) from error


def _check_number(name: str, parent: Element, path: str, expected: float) -> None:
    found = _number(name, parent, path)
    if not math.isclose(found, expected, rel_tol=1e-9):
        hint = "products with another scale need their own row in the sensor table"
        raise ArchiveError(
            name,
            f"{path}{_of(parent)} is {found:g}, expected the {expected:g} of "
            f"{ENMAP_PRODUCT.title}; {hint}",
        )


def _of(parent: Element) -> str:
    return f" of band {parent.get('number')}" if parent.get("number") else ""
