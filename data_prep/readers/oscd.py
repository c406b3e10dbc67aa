"""Reads OSCD (Onera Satellite Change Detection, IGARSS 2018): two Sentinel-2 L1C dates per city.

    <root>/Onera Satellite Change Detection dataset - Images/
        <city>/imgs_{1,2}_rect/{B01,...,B12}.tif    13 bands, all on one 10 m grid
        <city>/dates.txt                            date_1: 20160307, date_2: 20180207
        {train,test}.txt                            cities, separated by commas
    <root>/Onera Satellite Change Detection dataset - {Train,Test} Labels/
        <city>/cm/<city>-cm.tif                     1 no change, 2 change

Folders are recognised by the end of their names, "Images", "Train Labels" and "Test Labels",
ignoring case and with _ for spaces. The images are cut into full tiles, the same for both dates,
which share a group; remainders at the right and bottom edge are not converted. Label `change`, on
both dates: the codes of the GeoTIFF. A city is in the split of its label folder, with which
train.txt and test.txt must agree. Only the day of an acquisition is known, so times are 00:00 UTC.
B8A comes after B8, as in the sensor table.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff, sentinel2
from data_prep.formats.labels import PUBLISHED_CODES, read_labels
from data_prep.formats.listing import items_of, text_lines
from data_prep.formats.tiling import full_tiles, tile_name, tile_window
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

_SENSOR = get_sensor("sentinel2_l1c")
# The sensor table may name bands B1 or B01; the files are named B01, and B8A stays B8A.
_BANDS = {
    re.sub(r"^B(\d)$", r"B0\1", band.name): dataclasses.replace(
        _SENSOR, bands=(band,), mean=(), std=()
    )
    for band in _SENSOR.bands
}
_DATES = ("1", "2")
_SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Reader:
    """OSCD, one sample per tile and date."""

    TITLE: ClassVar[str] = "Onera Satellite Change Detection (OSCD)"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; modified Copernicus Sentinel data"
    sensors: ClassVar = (_SENSOR,)
    archive: Archive
    patch_size: int = option(96, "height and width of the tiles in pixels")

    def items(self) -> list[Item]:
        images = self._folder("images")
        labels = {split: self._folder(f"{split} labels") for split in _SPLITS}
        splits = self._splits(labels)
        cities = self.archive.folders(images)
        absent = sorted(set(cities) ^ set(splits))
        if absent:
            raise ArchiveError(
                absent[0],
                f"has images but no labels, or labels but no images, the first of {len(absent)} "
                "such cities; unpack all",
            )
        self._check_lists(images, splits)
        return items_of(
            (city, functools.partial(self._items, images, city, splits[city], labels[splits[city]]))
            for city in cities
        )

    def read(self, item: Item, files: Files) -> Sample:
        name, window = item.files[0].name, tile_window(item.part, self.patch_size)
        with geotiff.open_tiff(files, item.files[0].role) as grid:
            change = read_labels(name, grid, files, "change", PUBLISHED_CODES)
            shape, georeference = grid.shape, geotiff.georeference(grid, window)
        rows, columns = window.toslices()
        return Sample(
            pixels=np.concatenate([_read_band(files, band, shape, window) for band in _BANDS]),
            sensor=_SENSOR.id,
            id=item.id,
            group=item.group,
            time=_time(files.name("dates"), files["dates"], item.id.split("/")[1]),
            labels={"change": np.ascontiguousarray(change[rows, columns])},
            **georeference,
        )

    def _folder(self, ending: str) -> str:
        found = [
            folder
            for folder in self.archive.folders("")
            if re.sub(r"[\W_]+", " ", folder.lower()).endswith(ending)
        ]
        if len(found) != 1:
            title = f"Onera Satellite Change Detection dataset - {ending.title()}"
            raise ArchiveError(
                title,
                f"{len(found)} folders with names that end like this, expected one; unpack the "
                "three archives of OSCD into the same folder",
            )
        return found[0]

    def _splits(self, labels: dict[str, str]) -> dict[str, str]:
        """{city: split} from the label folders {split: folder}."""
        splits: dict[str, str] = {}
        for split, folder in labels.items():
            for city in self.archive.folders(folder):
                if city in splits:
                    raise ArchiveError(
                        f"{folder}/{city}",
                        "has labels in both label folders; remove one of them",
                    )
                splits[city] = split
        return splits

    def _check_lists(self, images: str, splits: dict[str, str]) -> None:
        for split in _SPLITS:
            name = f"{images}/{split}.txt"
            if not self.archive.exists(name):
                continue
            listed = {
                city.strip()
                for line in text_lines(self.archive, name)
                for city in line.split(",")
                if city.strip()
            }
            differ = sorted(listed ^ {city for city, of in splits.items() if of == split})
            if differ:
                raise ArchiveError(
                    name,
                    f"and the folder of {split} labels differ in {differ[0]!r}; copy both again",
                )

    def _items(self, images: str, city: str, split: str, labels: str) -> Iterator[Item]:
        common = (
            File("change", f"{labels}/{city}/cm/{city}-cm.tif"),
            File("dates", f"{images}/{city}/dates.txt"),
        )
        for file in common:
            if not self.archive.exists(file.name):
                raise ArchiveError(file.name, "no such file; unpack the archives of OSCD again")
        bands = {date: self._bands(f"{images}/{city}/imgs_{date}_rect") for date in _DATES}
        with geotiff.open_listed(self.archive, bands["1"][0].name) as dataset:
            tiles = full_tiles(bands["1"][0].name, dataset.shape, self.patch_size)
        for date in _DATES:
            for tile in tiles:
                yield Item(
                    f"{city}/{date}/{tile_name(tile)}",
                    f"{city}/{tile_name(tile)}",
                    (*bands[date], *common),
                    split,
                    tile,
                )

    def _bands(self, folder: str) -> tuple[File, ...]:
        """The 13 band files of a folder, in the order of the sensor table."""
        wanted = {f"{folder}/{band}.tif": band for band in _BANDS}
        found = {
            name for name in self.archive.names((".tif", ".tiff")) if name.startswith(f"{folder}/")
        }
        differ = sorted(found ^ set(wanted))
        if differ:
            what = (
                "is not a band of Sentinel-2 L1C; move it away"
                if differ[0] in found
                else "no such file; unpack the archive again"
            )
            raise ArchiveError(differ[0], f"{what} (expected {', '.join(_BANDS)})")
        return tuple(File(band, name) for name, band in wanted.items())


def _read_band(files: Files, band: str, shape: tuple[int, int], window: Window) -> np.ndarray:
    """One band [1, h, w] of a tile."""
    name = files.name(band)
    with geotiff.open_tiff(files, band) as dataset:  # a few MB at most, so the whole file
        geotiff.check_shape(name, dataset, *shape)
        sentinel2.check_offset(name, dataset, _SENSOR)
        return geotiff.read_bands(name, dataset, _BANDS[band], window)


def _time(name: str, data: bytes, date: str) -> int:
    """Seconds since 1970 UTC of a date in dates.txt, at 00:00 UTC."""
    found = re.findall(rb"^\s*date_%s\s*:\s*(\d{8})\s*$" % date.encode(), data, re.MULTILINE)
    try:
        (day,) = found
        moment = datetime.datetime.strptime(day.decode(), "%Y%m%d")
    except ValueError as error:
        raise ArchiveError(
            name,
            f"has {len(found)} dates date_{date}, expected one such as date_{date}: 20160307; "
            "correct it",
        ) from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
