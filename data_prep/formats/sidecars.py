"""Files beside an image that speak about it: GDAL's .aux.xml and .msk, and a STAC item.

GDAL applies them when it opens the image (https://gdal.org/user/raster_data_model.html, PAM). It
gets them rewritten here, since .aux.xml can refer to other files: only the elements that describe
pixels and bands are kept, and a mask must be a TIFF. What a STAC item states about the bands
(https://github.com/stac-extensions/eo, raster; STAC 1.1 `bands`) becomes metadata of the domain
STAC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

import rasterio
from defusedxml import DefusedXmlException, ElementTree

from data_prep.archive import ArchiveError
from data_prep.reader import AUX, MASK, STAC, Files

_MAX_BYTES = 10_000_000  # of an .aux.xml or a STAC item
_OF_DATASET = ("SRS", "GeoTransform")
_OF_BAND = (
    "Description",
    "NoDataValue",
    "Scale",
    "Offset",
    "UnitType",
    "ColorInterp",
    "ColorTable",
)
# Meanings of the columns of a raster attribute table (GDALRATFieldUsage).
_RAT_NAME, _RAT_VALUE = "2", "5"
# "xml:" domains and these name other files.
_REFERRING = ("OVERVIEWS", "SUBDATASETS", "DERIVED_SUBDATASETS", "GEOLOCATION", "RPC")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DOMAIN = "STAC"
CLASSES_DOMAIN = "CLASSES"  # {class number: its name}, which rasterio does not read otherwise


class Sidecars(NamedTuple):
    """Files for GDAL beside an image: the text of an .aux.xml and the bytes of a mask, or None."""

    aux: bytes | None
    mask: bytes | None


def sidecars(files: Files, role: str) -> Sidecars | None:
    """The sidecars of a file; None where there are none. Raises ArchiveError for invalid ones."""
    found = [role + ending in files for ending in (AUX, MASK, STAC)]
    if not any(found):
        return None
    root, has_text = Element("PAMDataset"), False
    if role + AUX in files:
        _copy_aux(root, files.name(role + AUX), files.read(role + AUX, _MAX_BYTES))
    if role + STAC in files:
        _add_stac(root, files, role)
    has_text = len(root) > 0
    mask = _mask(files, role + MASK) if role + MASK in files else None
    return Sidecars(tostring(root) if has_text else None, mask) if has_text or mask else None


def _mask(files: Files, role: str) -> bytes:
    data = files.read(role)
    if not data.startswith(_TIFF_MAGIC):
        raise ArchiveError(
            files.name(role),
            f"begins with {data[:4]!r}, expected a TIFF with the mask of the image beside it; copy "
            "it again, or move it away if it is not a mask",
        )
    return data


# ------------------------------------------------------------------ .aux.xml


def _copy_aux(root: Element, name: str, data: bytes) -> None:
    """Copies what describes pixels and bands from an .aux.xml."""
    found = _parse(name, data)
    for child in found:
        if child.tag in _OF_DATASET:
            SubElement(root, child.tag).text = child.text
        elif child.tag == "Metadata":
            _copy_metadata(root, child)
        elif child.tag == "PAMRasterBand":
            _copy_band(root, name, child)


def _parse(name: str, data: bytes) -> Element:
    try:
        found = ElementTree.fromstring(data, forbid_dtd=True)
    # ValueError and LookupError are raised for unknown encodings.
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ArchiveError(
            name,
            f"cannot be read as XML ({error}), but it may state no-data, scale or bands of the "
            "image beside it; copy it again",
        ) from error
    if found.tag != "PAMDataset":
        raise ArchiveError(
            name,
            f"its root is <{str(found.tag)[:40]}>, expected the <PAMDataset> of GDAL; move it away "
            "if it says nothing about the image beside it",
        )
    return found


def _copy_metadata(parent: Element, child: Element) -> None:
    domain = child.get("domain", "")
    if child.get("format") or domain.startswith("xml:") or domain in _REFERRING:
        return
    target = SubElement(parent, "Metadata", {"domain": domain} if domain else {})
    for item in child.iterfind("MDI"):
        SubElement(target, "MDI", {"key": item.get("key", "")}).text = item.text


def _copy_band(root: Element, name: str, band: Element) -> None:
    number = band.get("band", "")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise ArchiveError(
            name, f"a PAMRasterBand has the number {number[:20]!r}, expected 1 or more; correct it"
        )
    target = _band(root, int(number))
    for child in band:
        if child.tag == "Metadata":
            _copy_metadata(target, child)
        elif child.tag in _OF_BAND:
            target.append(child)
        elif child.tag == "CategoryNames":
            names = [category.text or "" for category in child.iterfind("Category")]
            _add_items(target, {str(n): name for n, name in enumerate(names)}, CLASSES_DOMAIN)
        elif child.tag == "GDALRasterAttributeTable":
            _add_items(target, _attribute_names(child), CLASSES_DOMAIN)


def _attribute_names(table: Element) -> dict[str, str]:
    """{class number: its name} of a raster attribute table."""
    usages = [field.findtext("Usage", "") for field in table.iterfind("FieldDefn")]
    if _RAT_NAME not in usages or _RAT_VALUE not in usages:
        return {}
    value, name = usages.index(_RAT_VALUE), usages.index(_RAT_NAME)
    rows = [[cell.text or "" for cell in row.iterfind("F")] for row in table.iterfind("Row")]
    return {row[value]: row[name] for row in rows if len(row) == len(usages)}


def _band(root: Element, number: int) -> Element:
    """The element of a band, which is made where there is none yet."""
    for band in root.iterfind("PAMRasterBand"):
        if band.get("band") == str(number):
            return band
    return SubElement(root, "PAMRasterBand", {"band": str(number)})


# ------------------------------------------------------------------ STAC


def stac_tags(dataset: rasterio.DatasetReader, numbers: Sequence[int]) -> list[dict[str, str]]:
    """What a STAC item states about the bands with these 1-based numbers."""
    if not dataset.tags(ns=DOMAIN):
        return [{} for _ in numbers]
    return [dataset.tags(number, ns=DOMAIN) for number in numbers]


def _add_stac(root: Element, files: Files, role: str) -> None:
    """Adds what a STAC item states about the asset that is this image; other JSON says nothing."""
    item = _json(files.read(role + STAC, _MAX_BYTES))
    asset = _asset(item, PurePosixPath(files.name(role)).name)
    if asset is None:
        return
    properties = item.get("properties") if isinstance(item.get("properties"), dict) else {}
    _add_items(root, {**properties, **asset, "stac_version": item["stac_version"]}, DOMAIN)
    for number, band in enumerate(_stac_bands(asset), 1):
        _add_items(_band(root, number), band, DOMAIN)


def _json(data: bytes) -> dict[str, Any]:
    try:
        item = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return item if isinstance(item, dict) and "stac_version" in item else {}


def _asset(item: Mapping[str, Any], file: str) -> dict[str, Any] | None:
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else ():
        href = asset.get("href") if isinstance(asset, dict) else None
        if isinstance(href, str) and PurePosixPath(href.partition("?")[0]).name == file:
            return asset
    return None


def _stac_bands(asset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per band, the fields of `bands` (STAC 1.1), `eo:bands` and `raster:bands` together."""
    lists = [asset.get(key) for key in ("bands", "eo:bands", "raster:bands")]
    lists = [bands for bands in lists if isinstance(bands, list)]
    merged: list[dict[str, Any]] = [{} for _ in range(max(map(len, lists), default=0))]
    for bands in lists:
        for target, band in zip(merged, bands, strict=False):
            if isinstance(band, dict):
                target.update({key.rpartition(":")[2]: value for key, value in band.items()})
    return merged


def _add_items(parent: Element, fields: Mapping[str, Any], domain: str) -> None:
    """Adds the text and number fields as metadata of a domain."""
    plain = {
        key: str(value)
        for key, value in fields.items()
        if isinstance(value, str | int | float) and str(value).isprintable() and value != ""
    }
    if plain:
        target = SubElement(parent, "Metadata", {"domain": domain})
        for key, value in plain.items():
            # GDAL would end the name at a colon.
            SubElement(target, "MDI", {"key": key.replace(":", ".")}).text = value
