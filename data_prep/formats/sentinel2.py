"""Sentinel-2 processing baselines: from 04.00 on digital numbers are 1000 higher.

The offsets are BOA_ADD_OFFSET (L2A) and RADIO_ADD_OFFSET (L1C) of -1000 in the metadata of products
since 25 January 2022, and of older scenes reprocessed since (baselines 05.xx). Source: ESA,
Sentinel-2 Products Specification Document, issue 14.9, and the notice on baseline 04.00. Some
archives have subtracted it again ("harmonised").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import rasterio

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.sidecars import DOMAIN
from eo_jax.sensors import SENSORS, Sensor

# Of products as ESA names them. N9999 is what Sen2Cor writes outside ESA: it states nothing.
_PRODUCT = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_N(\d{4})_", re.IGNORECASE)
_BASELINE = re.compile(r"N?0?(\d{1,2}?)(?:\.?\d\d)?")  # "05.09", "4.00", "N0400", "4"
_FIRST_WITH_OFFSET, _UNKNOWN = 4, 99  # whole numbers of baselines
_BASELINE_TAGS = ("PROCESSING_BASELINE", "s2.processing_baseline", "processing_baseline")
_OFFSET_TAG = re.compile(r"(?:BOA|RADIO)_ADD_OFFSET(?:_\w+)?", re.IGNORECASE)
_APPLIED_TAG = "earthsearch.boa_offset_applied"
_NOTE = "Sentinel-2 processing baseline: the offset of the digital numbers is that of the table"
_LOWEST = 1000
_SUSPECT = (
    "Sentinel-2 without offset, but no value below 1000 in any band: perhaps DN + 1000 of a "
    "processing baseline from 04.00"
)


def check_offset(
    name: str, dataset: rasterio.DatasetReader, sensor: Sensor, harmonised: bool = False
) -> None:
    """Raises ArchiveError where the name or the metadata of a file contradict the offset of the
    sensor's digital numbers.

    Args:
        harmonised: the user declares that 1000 is subtracted from the files already.
    """
    if np.dtype(sensor.dtype).kind not in "iu" or np.dtype(sensor.dtype).itemsize < 2:
        return
    has_offset = bool(sensor.offsets.any())
    if harmonised and has_offset:
        raise ArchiveError(
            name,
            f"--harmonised declares digital numbers without the offset, but {sensor.title} has "
            "one; give the row without it, or leave --harmonised out",
        )
    if harmonised:
        remarks.note("Sentinel-2 declared as harmonised: no offset (--harmonised)")
        return
    for source, stated in _stated(name, dataset):
        if stated != has_offset:
            raise ArchiveError(name, _message(source, stated, sensor))
        remarks.note(_NOTE)


def note_suspect(pixels: np.ndarray, sensor: Sensor) -> None:
    """Notes Sentinel-2 pixels [c, h, w] that look as if they had an offset which the row lacks."""
    holds_integers = pixels.dtype.kind in "iu" and pixels.itemsize > 1
    without_offset = sensor.id.startswith("sentinel2") and not sensor.offsets.any()
    if holds_integers and without_offset and pixels.min() >= _LOWEST:
        remarks.note(_SUSPECT)


def _message(source: str, stated: bool, sensor: Sensor) -> str:
    meaning = "1000 higher" if stated else "without an offset"
    others = [
        row.id
        for row in SENSORS.values()
        if bool(row.offsets.any()) is stated
        and (row.dtype, row.units, len(row.bands))
        == (sensor.dtype, sensor.units, len(sensor.bands))
    ]
    row = others[0] if others else "a row (JSON) with the right offset"
    harmonised = ", or to `geotiff` --harmonised if 1000 is subtracted already" if stated else ""
    return (
        f"{source}, so its digital numbers are {meaning}, but {sensor.title} ({sensor.id}) has "
        f"offset {sensor.offsets[0]:g}; give --sensor {row}{harmonised}"
    )


def _stated(name: str, dataset: rasterio.DatasetReader) -> Iterator[tuple[str, bool]]:
    """(the statement in words, whether digital numbers have the offset by it); metadata decide
    before names.
    """
    tags = {**dataset.tags(), **dataset.tags(ns=DOMAIN)}
    metadata = list(_of_metadata(tags))
    if metadata:
        yield from metadata
        return
    for baseline in _PRODUCT.findall(name):
        if int(baseline[:2]) < _UNKNOWN:
            yield (
                f"N{baseline} in its name is processing baseline {baseline[:2]}.{baseline[2:]}",
                int(baseline[:2]) >= _FIRST_WITH_OFFSET,
            )


def _of_metadata(tags: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    if tags.get(_APPLIED_TAG, "").lower() == "true":
        yield f"{_APPLIED_TAG} in its metadata is true", False
        return
    offsets = {key: value for key, value in tags.items() if _OFFSET_TAG.fullmatch(key)}
    for key, value in offsets.items():
        yield f"{key} in its metadata is {value[:20]}", value.strip() not in ("0", "0.0")
    for key in () if offsets else _BASELINE_TAGS:
        match = _BASELINE.fullmatch(tags.get(key, "").strip())
        if match and int(match[1]) < _UNKNOWN:
            yield f"{key} in its metadata is {tags[key][:20]}", int(match[1]) >= _FIRST_WITH_OFFSET
