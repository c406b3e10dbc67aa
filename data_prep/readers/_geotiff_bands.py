"""Images with one GeoTIFF per band, for the reader of arbitrary GeoTIFFs: which file is which band
of which image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import band_of_name
from data_prep.formats.band_stack import Layer, finest
from data_prep.reader import File, Item
from eo_jax.sensors import Sensor

_ROLE = "band "  # before a band's name, so that no label has its role


class BandName(NamedTuple):
    """What a file name says: the image and the band."""

    item: str
    band: str


def band_name(name: str, inner: str, regex: re.Pattern) -> BandName:
    """What the name of a file says. Raises ArchiveError where the regex does not match."""
    match = regex.search(inner)
    if not (match and match["item"] and match["band"]):
        raise ArchiveError(
            name,
            f"--band-regex {regex.pattern!r} does not match its name; correct it, or exclude the "
            "file with --pattern",
        )
    return BandName(match["item"], match["band"])


def group_bands(
    found: Iterable[tuple[str, BandName]], sensor: Sensor
) -> dict[str, tuple[File, ...]]:
    """{image: its files, in the order of the sensor's bands}; bands may be missing.

    Raises ArchiveError for a band that the sensor does not have, and for two files of one band.
    """
    images: dict[str, dict[int, str]] = {}
    for name, (item, band) in found:
        index = band_of_name(sensor, band)
        if index is None:
            raise ArchiveError(
                name,
                f"is of the band {band!r} by --band-regex, but {sensor.title} has "
                f"{', '.join(each.name for each in sensor.bands)}; exclude the file with "
                "--pattern, or correct the regex",
            )
        other = images.setdefault(item, {}).setdefault(index, name)
        if other != name:
            raise ArchiveError(
                name,
                f"is {sensor.bands[index].name} of {item!r} by --band-regex, and so is {other}; "
                "include what distinguishes them in (?P<item>...), or move one away",
            )
    return {
        item: tuple(File(_ROLE + sensor.bands[index].name, files[index]) for index in sorted(files))
        for item, files in images.items()
    }


def finest_first(archive: Archive, files: tuple[File, ...]) -> tuple[File, ...]:
    """The files with one of the smallest pixels first, by their headers."""

    def pixels(file: File) -> int:
        with geotiff.open_listed(archive, file.name) as dataset:
            return dataset.width

    first = max(files, key=pixels)
    return (first, *(file for file in files if file != first))


def roles(sensor: Sensor) -> list[str]:
    """The roles of the files of an image, in the order of the sensor's bands."""
    return [_ROLE + band.name for band in sensor.bands]


def missing_bands(item: Item, sensor: Sensor) -> list[str]:
    """The names of the sensor's bands that have no file."""
    present = {file.role for file in item.files}
    return [band.name for band in sensor.bands if _ROLE + band.name not in present]


def labels_of(item: Item) -> list[str]:
    """The roles of an item's label maps."""
    return [file.role for file in item.files if not file.role.startswith(_ROLE)]


def check_one_grid(layers: Iterable[Layer]) -> None:
    """Raises ArchiveError where bands have pixels of different sizes."""
    layers = list(layers)
    fine = finest(layers)
    for layer in layers:
        if layer.factor > 1:
            raise ArchiveError(
                layer.name,
                f"{geotiff.size_text(layer.dataset)} pixels, but {fine.name} has "
                f"{geotiff.size_text(fine.dataset)}; give --resample bilinear or nearest to bring "
                "all bands to the finest grid, or a --sensor row with the bands of one grid",
            )
