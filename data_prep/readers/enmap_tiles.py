"""Reads GeoTIFF tiles cut from EnMAP L2A products, with all 224 bands or SpectralEarth's 202.

    <root>/**/*.tif             [224 or 202, h, w], reflectance x 10000, int16 or float32
    <root>/images/**/*.tif,     the same with label maps,
    <root>/labels/**/*.tif      which become the label `landcover`

The 202 bands to keep are selected by product band number, never by sorting wavelengths. EnMAP's own
quality layers (*-QL_*) are ignored.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import PurePosixPath
from typing import ClassVar

import rasterio

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import Bands, data_bands, identify
from data_prep.formats.labels import (
    class_numbers,
    first_class_option,
    label_nodata_option,
    read_labels,
)
from data_prep.formats.listing import files_with_labels, image_files, items_of, label_folders
from data_prep.reader import Files, Item, option
from data_prep.readers._enmap_layers import LAYOUTS
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT


@dataclasses.dataclass(frozen=True)
class Reader:
    """Tiles of EnMAP products."""

    TITLE: ClassVar[str] = "EnMAP L2A tiles"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "EnMAP data (c) DLR; see the licence of the EnMAP products"
    sensors: ClassVar = (ENMAP,)
    archive: Archive
    labels: tuple[str, ...] = option((), "folders of label maps, with the layout of the images")
    trust_product_order: bool = option(
        False,
        "tiles without wavelength tags have bands 1 to 224 in order, as in HySpecNet-11k",
    )
    reorder: bool = option(
        False, "put bands in product order by their wavelengths, where there is no doubt"
    )
    first_class: int = first_class_option()
    label_nodata: tuple[str, ...] = label_nodata_option()

    def items(self) -> list[Item]:
        below, folders = "", label_folders(self.archive, self.labels)
        if image_files(self.archive, "images") and image_files(self.archive, "labels"):
            below, folders = "images", {"landcover": "labels", **folders}
        inside = tuple(f"{folder}/" for folder in folders.values())
        names = [
            name
            for name in image_files(self.archive, below)
            if "-QL_" not in name and not name.startswith(inside)
        ]
        if not names:
            raise ArchiveError(below or ".", "contains no GeoTIFF; expected *.tif tiles")
        return items_of(
            (name, functools.partial(self._items, name, below, folders)) for name in names
        )

    def read(self, item: Item, files: Files) -> Sample:
        name = item.files[0].name
        with geotiff.open_tiff(files, "image") as dataset:
            bands = self._bands(name, dataset)
            classes = class_numbers(self.first_class, self.label_nodata)
            return Sample(
                pixels=geotiff.read_pixels(name, dataset, bands, ENMAP, ("int16", "float32")),
                sensor=ENMAP.id,
                id=item.id,
                group=item.group,
                product=geotiff.product_version(name),
                time=geotiff.acquisition_time(name, dataset),
                wavelengths_nm=bands.wavelengths_nm,
                labels={
                    file.role: read_labels(name, dataset, files, file.role, classes)
                    for file in item.files[1:]
                },
                **geotiff.georeference(dataset),
            )

    def _items(self, name: str, below: str, folders: dict[str, str]) -> list[Item]:
        tile = str(PurePosixPath(name.removeprefix(f"{below}/") if below else name).with_suffix(""))
        return [Item(tile, tile, files_with_labels(self.archive, name, below, folders))]

    def _bands(self, name: str, dataset: rasterio.DatasetReader) -> Bands:
        """The 202 kept bands of the file."""
        count = len(data_bands(dataset))
        if count not in LAYOUTS:
            raise ArchiveError(
                name,
                f"{count} bands, expected all 224 of the EnMAP L2A product, or the 202 of "
                "SpectralEarth; read others with `geotiff` and --bands or --sensor",
            )
        layout = LAYOUTS[count]
        bands = identify(name, dataset, layout, self.reorder)
        if bands.wavelengths_nm is None and not (
            self.trust_product_order and layout is ENMAP_PRODUCT
        ):
            raise ArchiveError(name, _no_wavelengths(count))
        position = {number: index for index, number in enumerate(layout.band_numbers)}
        return bands.pick([position[number] for number in ENMAP.band_numbers])


def _no_wavelengths(count: int) -> str:
    hint = (
        "; or give --trust-product-order if the tiles have bands 1 to 224 in order"
        if count == len(ENMAP_PRODUCT.bands)
        else ""
    )
    return (
        f"no band has a tag `wavelength`, so the order of its {count} bands is unknown; write the "
        f"tags{hint}"
    )
