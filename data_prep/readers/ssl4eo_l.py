"""Reads SSL4EO-L (arXiv 2306.09424): Landsat patches of four seasons a location, in five products.

    <root>/ssl4eo_l_<product>/<location>/<scene>/all_bands.tif    uint8 [c, 264, 264], scene such as
    LE07_172034_20010526

Products: tm_toa (7 bands), etm_toa (9), etm_sr (6), oli_tirs_toa (11), oli_sr (7). All were
downloaded for one list of locations, so a location of seven digits is the same location in all
five; TOA and SR of one sensor have the same dates, too. A location is published with four dates;
fewer are taken as they are, more than four are an error. The last eight characters of a scene's
name are its date, whatever is before them. The hour is not published, so times are 00:00 UTC of
that date. A folder may hold the published *.tar.gzaa, *.tar.gzab, ... as they were downloaded.

The 8 bits are clipped: TOA reflectance 0 to 0.4 and 248.15 K to 318.15 K, surface reflectance 0 to
0.3; see the sensor table.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
from collections.abc import Iterable
from typing import ClassVar

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.listing import image_files, sorted_by_id
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

PRODUCTS = {
    "tm_toa": get_sensor("landsat5_tm_toa"),
    "etm_toa": get_sensor("landsat7_etm_toa"),
    "etm_sr": get_sensor("landsat7_etm_sr"),
    "oli_tirs_toa": get_sensor("landsat8_oli_tirs_toa"),
    "oli_sr": get_sensor("landsat8_oli_sr"),
}
SEASONS = 4
SIZE = 264  # pixels, height and width

_INNER = re.compile(r"(\d{7}/[^/]+)/all_bands\.tif")


@dataclasses.dataclass(frozen=True)
class Reader:
    """SSL4EO-L, one sample a location, product and date. Bands are in file order."""

    TITLE: ClassVar[str] = "SSL4EO-L"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; Landsat data courtesy of the U.S. Geological Survey"
    sensors: ClassVar = tuple(PRODUCTS.values())
    archive: Archive
    products: tuple[str, ...] = option(
        (), "products to read (default: all that are there)", choices=tuple(PRODUCTS)
    )
    size: int = option(SIZE, "height and width that every image must have, in pixels")

    def items(self) -> list[Item]:
        items = []
        for product in present_products(self.archive, self.products, "ssl4eo_l_{}"):
            for scene, name in scenes(self.archive, f"ssl4eo_l_{product}").items():
                location, folder = scene.split("/")
                items.append(
                    Item(f"{location}/{product}/{folder}", location, (File("image", name),))
                )
        _check_seasons(items)
        return sorted_by_id(items)

    def read(self, item: Item, files: Files) -> Sample:
        name, sensor = item.files[0].name, PRODUCTS[item.id.split("/")[1]]
        with geotiff.open_tiff(name, files["image"]) as dataset:
            geotiff.check_count(name, dataset, len(sensor.bands), sensor.title)
            geotiff.check_shape(name, dataset, self.size, self.size)
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                time=scene_time(name),
                **geotiff.georeference(dataset),
            )


def present_products(archive: Archive, wanted: Iterable[str], folder: str) -> list[str]:
    """The wanted products, or all that the archive has; `folder` is the pattern of their folders.
    Raises ArchiveError where there is none.
    """
    there = [product for product in PRODUCTS if image_files(archive, folder.format(product))]
    for product in wanted:
        if product not in there:
            raise ArchiveError(
                folder.format(product),
                "no such folder, or no GeoTIFF in it; --products can be "
                f"{', '.join(there) or 'none'}",
            )
    if not there:
        expected = (
            f"<input>/{folder.format('<product>')}/<location>/<scene>/all_bands.tif, with a "
            f"product of {', '.join(PRODUCTS)}"
        )
        raise ArchiveError(".", f"no product of SSL4EO-L in it; expected {expected}")
    return sorted(set(wanted)) or there


def scenes(archive: Archive, folder: str) -> dict[str, str]:
    """{"<location>/<scene>": name} of the images below a product's folder, sorted. Raises
    ArchiveError for files that lie elsewhere.
    """
    found = {}
    for name in image_files(archive, folder):
        inner = _INNER.fullmatch(name.removeprefix(f"{folder}/"))
        if not inner:
            raise ArchiveError(
                name,
                f"lies elsewhere than {folder}/<location of 7 digits>/<scene>/all_bands.tif; move "
                f"it there, or out of {folder}/",
            )
        scene_time(name)
        found[inner[1]] = name
    return found


def scene_time(name: str) -> int:
    """Seconds since 1970 UTC of the date that ends the name of a file's folder, at 00:00. Raises
    ArchiveError where it ends in no date.
    """
    folder = name.split("/")[-2]
    try:
        if not re.fullmatch(r"\d{8}", folder[-8:]):
            raise ValueError(folder)
        moment = datetime.datetime.strptime(folder[-8:], "%Y%m%d")
    except ValueError as error:
        raise ArchiveError(
            name,
            f"its folder {folder!r} does not end in a date such as 20010526; give it its published "
            "name",
        ) from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def _check_seasons(items: Iterable[Item]) -> None:
    counts = collections.Counter(item.id.rpartition("/")[0] for item in items)
    for item in items:
        dates = counts[item.id.rpartition("/")[0]]
        if dates > SEASONS:
            cure = "remove those that are not published"
            raise ArchiveError(
                item.files[0].name,
                f"is one of {dates} dates of its place, expected at most {SEASONS}; {cure}",
            )
