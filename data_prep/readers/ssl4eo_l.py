"""Reads SSL4EO-L (arXiv 2306.09424): Landsat patches of four seasons, in five products.

    <root>/ssl4eo_l_<product>/<location>/<scene>/all_bands.tif
        uint8 [c, 264, 264]; a scene is named like LE07_172034_20010526

Products: tm_toa (7 bands), etm_toa (9), etm_sr (6), oli_tirs_toa (11), oli_sr (7). All were
downloaded for one list of locations, so a name of seven digits is the same location in all five;
TOA and SR of one sensor also have the same dates. A location is published with four dates; fewer
are accepted, more than four are an error. The last eight characters of a scene's name are its date,
whatever precedes them. The hour is not published, so times are 00:00 UTC of that date. The
published *.tar.gzaa, *.tar.gzab, ... are also read as downloaded.

The 8 bits are clipped: TOA reflectance 0 to 0.4 and 248.15 K to 318.15 K, surface reflectance 0 to
0.3; see the sensor table.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import check_count
from data_prep.formats.listing import sorted_by_id
from data_prep.reader import File, Files, Item, option
from data_prep.readers._ssl4eo_l_scenes import PRODUCTS, SIZE, present_products, scene_time, scenes
from eo_jax.schema import Sample

SEASONS = 4


@dataclasses.dataclass(frozen=True)
class Reader:
    """SSL4EO-L, one sample per location, product and date. Bands are in file order."""

    TITLE: ClassVar[str] = "SSL4EO-L"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "not stated; Landsat data courtesy of the U.S. Geological Survey"
    sensors: ClassVar = tuple(PRODUCTS.values())
    archive: Archive
    products: tuple[str, ...] = option(
        (), "products to read (default: all in the archive)", choices=tuple(PRODUCTS)
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
        with geotiff.open_tiff(files, "image") as dataset:
            check_count(name, dataset, len(sensor.bands), sensor.title)
            geotiff.check_shape(name, dataset, self.size, self.size)
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                time=scene_time(name),
                **geotiff.georeference(dataset),
            )


def _check_seasons(items: Iterable[Item]) -> None:
    counts = collections.Counter(item.id.rpartition("/")[0] for item in items)
    for item in items:
        dates = counts[item.id.rpartition("/")[0]]
        if dates > SEASONS:
            hint = "remove those that are not published"
            raise ArchiveError(
                item.files[0].name,
                f"is one of {dates} dates of its location, expected at most {SEASONS}; {hint}",
            )
