"""Reads SpectralEarth (arXiv 2408.08447): one GeoTIFF of 202 EnMAP bands per location and date.

<root>/enmap/<location>/<scene>.tif      int16 [202, h, w], reflectance x 10000
<root>/<label>/<location>/<scene>.tif    a label map on the same grid, for each of --labels
<root>/splits/{train,val,test}.txt       one <location>/<scene>.tif per line; optional, but if
                                         there are lists, every image must be in one
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import data_bands, identify
from data_prep.formats.labels import (
    class_numbers,
    first_class_option,
    label_nodata_option,
    read_labels,
)
from data_prep.formats.listing import (
    files_with_labels,
    image_files,
    items_of,
    label_folders,
    split_lists,
)
from data_prep.reader import Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP


@dataclasses.dataclass(frozen=True)
class Reader:
    """SpectralEarth with the label maps of the folders in `labels`. Bands are in cube order."""

    TITLE: ClassVar[str] = "SpectralEarth"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "not stated by SpectralEarth; EnMAP data (c) DLR"
    sensors: ClassVar = (ENMAP,)
    archive: Archive
    labels: tuple[str, ...] = option((), "folders of label maps, with the layout of the images")
    first_class: int = first_class_option()
    label_nodata: tuple[str, ...] = label_nodata_option()

    def items(self) -> list[Item]:
        names = image_files(self.archive, "enmap")
        folders = label_folders(self.archive, self.labels)
        if not names:
            raise ArchiveError(
                "enmap",
                "no such folder, or no GeoTIFF in it; expected "
                "<input>/enmap/<location>/<scene>.tif",
            )
        lists = {split: f"splits/{split}.txt" for split in ("train", "val", "test")}
        splits = split_lists(
            self.archive, lists, (name.removeprefix("enmap/") for name in names), "enmap/"
        )
        return items_of(
            (name, functools.partial(self._items, name, folders, splits)) for name in names
        )

    def read(self, item: Item, files: Files) -> Sample:
        name = item.files[0].name
        with geotiff.open_tiff(files, "image") as dataset:
            count = len(data_bands(dataset))
            if count != len(ENMAP.bands):
                raise ArchiveError(
                    name,
                    f"{count} bands, expected the {len(ENMAP.bands)} of SpectralEarth; for "
                    "224, use enmap-tiles",
                )
            bands = identify(name, dataset, ENMAP)
            classes = class_numbers(self.first_class, self.label_nodata)
            return Sample(
                pixels=geotiff.read_pixels(name, dataset, bands, ENMAP, ("int16",)),
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

    def _items(
        self, name: str, folders: Mapping[str, str], splits: Mapping[str, str]
    ) -> list[Item]:
        image = PurePosixPath(name.removeprefix("enmap/"))
        if len(image.parts) != 2:
            raise ArchiveError(
                name,
                "is not at enmap/<location>/<scene>.tif; move it there, or out of enmap/",
            )
        files = files_with_labels(self.archive, name, "enmap", folders)
        return [Item(str(image.with_suffix("")), image.parts[0], files, splits.get(str(image)))]
