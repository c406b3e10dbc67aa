"""Reads the SSL4EO-L benchmark (arXiv 2306.09424): Landsat patches with land cover and crop maps.

    <root>/ssl4eo_l_<product>_benchmark/<location>/<scene>/all_bands.tif
        uint8 [c, 264, 264], products as in ssl4eo-l
    <root>/ssl4eo_l_{tm,etm,oli}_{cdl,nlcd}/<location>/<scene>/{cdl,nlcd}_<year>.tif
        class codes [264, 264]; 2011 for tm, 2019 for others

Locations are in the conterminous United States. etm_toa and etm_sr share the maps of etm,
oli_tirs_toa and oli_sr those of oli. Labels: `cdl` and `nlcd`, if present, and then for every
image. --classes raw (default) keeps the codes; paper keeps the classes of the published configs and
sets all others to 0. Values are then positions in these lists, and training ignores 0:

    nlcd  0 11 21 22 31 41 42 43 52 71 81 82 90 95
    cdl   0 1 5 24 36 37 61 111 121 122 131 141 142 143 152 176 190 195

The split of the 25,000 images of each product is 17,500 / 3,750 / 3,750: images sorted by path are
numbered from 0, the numbers are shuffled by NumPy's legacy generator with seed 0
(`numpy.random.RandomState(0).shuffle`), the first 70 % are train, the next 15 % val, the rest test;
fractions are rounded down. It depends on the number of images, so other numbers than 25,000 are an
error, unless --subset is given. Each product is split separately: where sensors differ in their
lists of images, a location can be in train for one and in test for another. Neighbouring locations
can be in different splits; --split blocks:KM keeps them together. SLC-off gaps of etm are 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import check_count
from data_prep.formats.labels import PUBLISHED_CODES, read_labels
from data_prep.formats.listing import image_files, sorted_by_id
from data_prep.reader import File, Files, Item, option
from data_prep.readers._ssl4eo_l_scenes import PRODUCTS, SIZE, present_products, scene_time, scenes
from eo_jax.schema import Sample

IMAGES = 25_000
CLASSES = {
    "nlcd": (0, 11, 21, 22, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95),
    "cdl": (0, 1, 5, 24, 36, 37, 61, 111, 121, 122, 131, 141, 142, 143, 152, 176, 190, 195),
}
_YEARS = {"tm": 2011, "etm": 2019, "oli": 2019}
_FRACTIONS = {"train": 0.7, "val": 0.15}


@dataclasses.dataclass(frozen=True)
class Reader:
    """The SSL4EO-L benchmark, one sample per image. Bands are in file order."""

    TITLE: ClassVar[str] = "SSL4EO-L benchmark"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = (
        "not stated; Landsat data and NLCD courtesy of the U.S. Geological Survey, CDL of USDA NASS"
    )
    sensors: ClassVar = tuple(PRODUCTS.values())
    archive: Archive
    products: tuple[str, ...] = option(
        (), "products to read (default: all in the archive)", choices=tuple(PRODUCTS)
    )
    classes: str = option(
        "raw",
        "raw: codes of NLCD and CDL; paper: the published 14 and 18 classes, others 0",
        choices=("raw", "paper"),
    )
    subset: bool = option(
        False,
        "accept other numbers of images than 25,000, for which the split is drawn the same way, "
        "but is not the published one",
    )
    size: int = option(SIZE, "height and width that every image must have, in pixels")

    def items(self) -> list[Item]:
        products = present_products(self.archive, self.products, "ssl4eo_l_{}_benchmark")
        kinds = sorted(
            {
                kind
                for kind in CLASSES
                for product in products
                if image_files(self.archive, _folder(product, kind))
            }
        )
        if not kinds:
            raise ArchiveError(
                _folder(products[0], "nlcd"),
                "no such folder, nor one with _cdl; download the label maps next to the images",
            )
        return sorted_by_id(item for product in products for item in self._items(product, kinds))

    def read(self, item: Item, files: Files) -> Sample:
        name, sensor = item.files[0].name, PRODUCTS[item.id.split("/")[1]]
        with geotiff.open_tiff(files, "image") as dataset:
            check_count(name, dataset, len(sensor.bands), sensor.title)
            geotiff.check_shape(name, dataset, self.size, self.size)
            maps = {
                file.role: read_labels(name, dataset, files, file.role, PUBLISHED_CODES)
                for file in item.files[1:]
            }
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                time=scene_time(name),
                labels=maps
                if self.classes == "raw"
                else {kind: positions(codes, CLASSES[kind]) for kind, codes in maps.items()},
                **geotiff.georeference(dataset),
            )

    def _items(self, product: str, kinds: Sequence[str]) -> Iterator[Item]:
        folder = f"ssl4eo_l_{product}_benchmark"
        found = scenes(self.archive, folder)
        if len(found) != IMAGES and not self.subset:
            hint = (
                "complete the download, or give --subset, with which the split differs from the "
                "published one"
            )
            raise ArchiveError(folder, f"{len(found):,} images, expected {IMAGES:,}; {hint}")
        for (scene, name), split in zip(found.items(), published_split(len(found)), strict=True):
            location, date = scene.split("/")
            maps = tuple(File(kind, self._map(name, product, kind, scene)) for kind in kinds)
            yield Item(
                f"{location}/{product}/{date}", location, (File("image", name), *maps), split
            )

    def _map(self, image: str, product: str, kind: str, scene: str) -> str:
        name = f"{_folder(product, kind)}/{scene}/{kind}_{_YEARS[product.split('_')[0]]}.tif"
        if not self.archive.exists(name):
            raise ArchiveError(
                name,
                f"no such file, but {image} needs its label map {kind!r} there; download it, or "
                f"move all {kind} maps away",
            )
        return name


def published_split(count: int) -> list[str]:
    """The splits of `count` images in the order of their paths; see the docstring of the module."""
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)
    edges = np.cumsum([int(fraction * count) for fraction in _FRACTIONS.values()])
    splits = ["test"] * count
    for split, numbers in zip(_FRACTIONS, np.split(order, edges), strict=False):
        for number in numbers:
            splits[number] = split
    return splits


def positions(codes: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """uint8 [h, w]: the position of each code in `classes`, 0 for other codes."""
    found = np.zeros(codes.shape, np.uint8)
    for position, code in enumerate(classes):
        found[codes == code] = position
    return found


def _folder(product: str, kind: str) -> str:
    return f"ssl4eo_l_{product.split('_')[0]}_{kind}"
