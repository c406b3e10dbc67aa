"""Reads GeoTIFF tiles cut from EnMAP L2A products, with 224 product bands or the 202 of SpectralEarth.

    <root>/**/*.tif                                    [224 or 202, h, w], reflectance x 10000, int16 or float32
    <root>/images/**/*.tif, <root>/labels/**/*.tif     the same with label maps, which become the label `landcover`

The 202 kept bands are picked by product band number, never by sorting wavelengths. EnMAP's own quality layers (*-QL_*) are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import rasterio

from data_prep import geotiff
from data_prep.readers import ArchiveError, Item, image_files, label_folders, relative_name, sorted_by_id, with_labels
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

_LAYOUTS = {len(sensor.bands): sensor for sensor in (ENMAP_PRODUCT, ENMAP)}


@dataclasses.dataclass(frozen=True)
class Reader:
    """Tiles below `root`. `trust_product_order` takes untagged tiles of 224 bands to be in product order, as HySpecNet-11k has them."""

    TITLE: ClassVar[str] = "EnMAP L2A tiles"
    VERSION: ClassVar[int] = 1
    root: Path
    labels: tuple[str, ...] = ()
    trust_product_order: bool = False

    def items(self) -> list[Item]:
        base, folders = self.root, label_folders(self.root, self.labels)
        if (self.root / "images").is_dir() and (self.root / "labels").is_dir():
            base, folders = self.root / "images", {"landcover": self.root / "labels", **folders}
        labels = {folder.resolve() for folder in folders.values()}
        paths = [path for path in image_files(base) if "-QL_" not in path.name and labels.isdisjoint(path.resolve().parents)]
        if not paths:
            raise ArchiveError(relative_name(self.root, base), "no GeoTIFF in it or below; expected *.tif tiles")
        return sorted_by_id(self._item(path, base, folders) for path in paths)

    def read(self, item: Item, contents: Mapping[str, bytes]) -> Sample:
        name = item.files[0].name
        with geotiff.open_tiff(name, contents["image"]) as dataset:
            numbers, found_nm = self._bands(name, dataset)
            return Sample(
                pixels=geotiff.read_pixels(name, dataset, numbers, ENMAP, ("int16", "float32")),
                sensor=ENMAP.id,
                id=item.id,
                group=item.group,
                product=geotiff.product_version(name),
                time=geotiff.acquisition_time(name, dataset),
                wavelengths_nm=found_nm,
                labels={file.role: geotiff.read_labels(name, dataset, file.name, contents[file.role]) for file in item.files[1:]},
                **geotiff.place(dataset),
            )

    def _item(self, path: Path, base: Path, folders: Mapping[str, Path]) -> Item:
        tile = relative_name(base, path.with_suffix(""))
        return Item(tile, tile, with_labels(self.root, path, base, folders))

    def _bands(self, name: str, dataset: rasterio.DatasetReader) -> tuple[list[int], np.ndarray | None]:
        """The file's 1-based numbers of the kept bands, and their wavelengths [202] in nm, where the file has them."""
        if dataset.count not in _LAYOUTS:
            raise ArchiveError(name, f"{dataset.count} bands, expected all 224 of the EnMAP L2A product, or the 202 of SpectralEarth")
        layout = _LAYOUTS[dataset.count]
        found_nm = geotiff.wavelengths_nm(name, dataset)
        if found_nm is not None:
            geotiff.check_wavelengths(name, found_nm, layout)
        elif not (self.trust_product_order and layout is ENMAP_PRODUCT):
            raise ArchiveError(name, _untagged(dataset.count))
        position = {number: index for index, number in enumerate(layout.band_numbers)}
        kept = [position[number] for number in ENMAP.band_numbers]
        return [index + 1 for index in kept], None if found_nm is None else found_nm[kept]


def _untagged(count: int) -> str:
    cure = "; or give --trust-product-order where the tiles have bands 1 to 224 in order" if count == len(ENMAP_PRODUCT.bands) else ""
    return f"no band has a tag `wavelength`, so the order of its {count} bands is a guess; write the tags{cure}"
