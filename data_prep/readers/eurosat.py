"""Reads EuroSAT (doi 10.1109/JSTARS.2019.2918242): Sentinel-2 L1C patches of ten land-use classes.

    <root>/**/<Class>/<Class>_<number>.tif          uint16 [13, 64, 64], DN = reflectance x 10000,
                                                    without the offset of later baselines
    <root>/eurosat-{train,val,test}.txt             torchgeo's lists, one <Class>_<number>.jpg or
                                                    .tif per line: --splits random
    <root>/eurosat-spatial-{train,val,test}.txt     the same by longitude: --splits spatial
    <root>/eurosat-100-{train,val,test}.txt         for the subset of 100 images: --splits 100

There are 27,000 patches with all 13 bands. The files have the bands in the order B01 to B09, B10,
B11, B12, B8A; here B8A comes after B08, as in the sensor table. Label `class`: the position, from
1, of the folder's name in AnnualCrop, Forest, HerbaceousVegetation, Highway, Industrial, Pasture,
PermanentCrop, Residential, River, SeaLake. A pixel of 0 is an ordinary value: the files have no
no-data value. Times are not published. EuroSATallBands.zip is read as downloaded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff, remarks, sentinel2
from data_prep.formats.band_identity import check_count
from data_prep.formats.listing import image_files, sorted_by_id, split_lists, text_lines
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
FILE_ORDER = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")
_CLASS_TABLE = {number: {"name": name} for number, name in enumerate(CLASSES, 1)}
SIZE = 64  # pixels, height and width

_SENSOR = get_sensor("sentinel2_l1c")
_FILE_SENSOR = dataclasses.replace(
    _SENSOR,
    bands=tuple(band for name in FILE_ORDER for band in _SENSOR.bands if band.name == name),
    mean=(),
    std=(),
    true_colour=None,
    false_colour=None,
)
_PICK = [FILE_ORDER.index(band.name) for band in _SENSOR.bands]
_NAME = re.compile(r"(?:.*/)?(\w+)/(\1_\d+)\.tif", re.IGNORECASE)
_LISTS = {
    "random": "eurosat-{}.txt",
    "spatial": "eurosat-spatial-{}.txt",
    "100": "eurosat-100-{}.txt",
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """EuroSAT, one sample per image."""

    TITLE: ClassVar[str] = "EuroSAT (all bands)"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "not stated; modified Copernicus Sentinel data"
    sensors: ClassVar = (_SENSOR,)
    archive: Archive
    splits: str = option(
        "none", "which of the archive's split lists to use", choices=("none", *_LISTS)
    )

    def items(self) -> list[Item]:
        images: dict[str, str] = {}
        for name in image_files(self.archive):
            image_id = _image_id(name)
            if image_id in images:
                raise ArchiveError(
                    name, f"is the same image as {images[image_id]}; remove one of them"
                )
            images[image_id] = name
        if not images:
            raise ArchiveError(
                ".",
                "contains no GeoTIFF; expected <Class>/<Class>_<number>.tif at any depth, from "
                "EuroSATallBands.zip",
            )
        splits = self._splits(images)
        return sorted_by_id(
            Item(image_id, image_id, (File("image", name),), splits.get(image_id))
            for image_id, name in images.items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        name = item.files[0].name
        with geotiff.open_tiff(files, "image") as dataset:
            check_count(name, dataset, len(FILE_ORDER), _SENSOR.title)
            geotiff.check_shape(name, dataset, SIZE, SIZE)
            sentinel2.check_offset(name, dataset, _SENSOR)
            remarks.note_classes("class", _CLASS_TABLE)
            return Sample(
                pixels=geotiff.read_bands(name, dataset, _FILE_SENSOR)[_PICK],
                sensor=_SENSOR.id,
                id=item.id,
                group=item.group,
                labels={"class": np.array(1 + CLASSES.index(item.id.split("/")[0]), np.int64)},
                **geotiff.georeference(dataset),
            )

    def _splits(self, images: Iterable[str]) -> dict[str, str]:
        """{image id: split} by the chosen lists.

        Raises ArchiveError where one of the three is missing, and like `split_lists`.
        """
        if self.splits == "none":
            return {}
        lists = {split: _LISTS[self.splits].format(split) for split in ("train", "val", "test")}
        absent = [name for name in lists.values() if not self.archive.exists(name)]
        if absent:
            raise ArchiveError(
                absent[0],
                f"no such list, which --splits {self.splits} needs; download it to the top folder, "
                "or give --splits none",
            )
        # torchgeo's lists name the images .jpg, like the RGB version of EuroSAT; later copies name
        # them .tif.
        suffix = (
            ".jpg"
            if any(line.endswith(".jpg") for line in text_lines(self.archive, lists["train"]))
            else ".tif"
        )
        ids = {f"{image_id.split('/')[1]}{suffix}": image_id for image_id in images}
        return {ids[line]: split for line, split in split_lists(self.archive, lists, ids).items()}


def _image_id(name: str) -> str:
    """ "<Class>/<Class>_<number>". Raises ArchiveError for a file that is not a EuroSAT image."""
    found = _NAME.fullmatch(name)
    if not found or found[1] not in CLASSES:
        raise ArchiveError(
            name,
            "is not a EuroSAT image, expected <Class>/<Class>_<number>.tif with a class of "
            f"{', '.join(CLASSES)}; move it away",
        )
    return f"{found[1]}/{found[2]}"
