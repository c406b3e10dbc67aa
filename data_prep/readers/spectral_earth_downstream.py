"""Reads the downstream tasks of SpectralEarth (arXiv 2408.08447): images with label maps.

    <root>/<task>/<sensor>/<location>/<scene>.tif     enmap: 202 bands, desis: 235, eo1: 198
    <root>/<task>/<product>/<location>/<scene>.tif    cdl, nlcd, corine, bdforet, bnetd, eurocrops
                                                      or treemap, on the same grid
    <root>/splits/<task>/{train,val,test}.txt         or <root>/<task>/splits/; one
                                                      <location>/<scene>.tif per line, from
                                                      data/splits of SpectralEarth's repository;
                                                      optional, but if there are lists, every image
                                                      must be in one

--task selects the task. Label "<product>": the codes of the map, whatever their size (those of
eurocrops exceed int32). Label `class`: the published task; the k-th code of its list becomes k,
from 1, and all others become 0, unlabelled; published code counts from 0 and ignores the number of
classes. For enmap_corine, `multilabel` instead: the classes in the map, of BigEarthNet's 19 or,
with --corine-classes 43, of the original 43. `product`
of a sample is its scene: the published lists are random, so most scenes of the test list are also
in the train list; remove the lists and split by blocks for scores that do not profit from that.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
import rasterio

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import identify
from data_prep.formats.dtype_rows import rows_by_dtype
from data_prep.formats.labels import PUBLISHED_CODES, read_labels
from data_prep.formats.listing import files_with_labels, image_files, sorted_by_id, split_lists
from data_prep.reader import Files, Item, option
from data_prep.readers import _corine
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

# {dtype: row} of each sensor folder. The dtype of EnMAP is published; those of DESIS and EO-1 are
# only known from statistics.
_ROWS = {
    "enmap": {"int16": get_sensor("enmap")},
    "desis": rows_by_dtype(get_sensor("desis"), "int16", "uint16", "float32"),
    "eo1": rows_by_dtype(get_sensor("eo1_hyperion"), "int16", "uint16", "float32"),
}
_SPLITS = ("train", "val", "test")


class Task(NamedTuple):
    """Folders of a task, and the codes of its classes in the published order; empty for multi-label
    tasks.
    """

    sensor: str
    product: str
    codes: tuple[int, ...] = ()


_EUROCROPS = (
    *(
        3301090205,
        3301010600,
        3301090303,
        3301010800,
        3301090301,
        3303060000,
        3303030600,
        3303050000,
    ),
    *(3303030100, 3301060500, 3301060300, 3303010000, 3301020000, 3301160000, 3301029900),
)
_TREEMAP = (
    *(184, 185, 221, 924, 105, 503, 520, 706, 801, 201, 264, 266),
    *(281, 301, 901, 406, 923, 142, 161, 602, 607, 608, 267, 371),
)
TASKS = {
    "enmap_cdl": Task("enmap", "cdl", (1, 2, 3, 4, 5, 6, 45, 54, 69, 72, 75, 76, 204, 210)),
    "enmap_nlcd": Task(
        "enmap", "nlcd", (11, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95)
    ),
    "enmap_corine": Task("enmap", "corine"),
    "enmap_bdforet": Task("enmap", "bdforet", (1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 14, 16)),
    "enmap_bnetd": Task("enmap", "bnetd", (1, 2, 3, 6, 9, 10, 13, 15, 16, 21)),
    "enmap_eurocrops": Task("enmap", "eurocrops", _EUROCROPS),
    "enmap_treemap": Task("enmap", "treemap", _TREEMAP),
    "desis_cdl": Task("desis", "cdl", (1, 2, 3, 5, 42, 43, 49, 54, 56, 68, 69, 75, 76, 204)),
    "eo1_cdl": Task("eo1", "cdl", (1, 2, 3, 4, 5, 6, 41, 42, 43, 54, 69, 75, 76, 204)),
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """One downstream task. Bands are in cube order."""

    TITLE: ClassVar[str] = "SpectralEarth downstream tasks"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "not stated by SpectralEarth; EnMAP and DESIS data (c) DLR"
    sensors: ClassVar = tuple(row for rows in _ROWS.values() for row in rows.values())
    archive: Archive
    task: str = option("", "downstream task; there is no default", choices=tuple(TASKS))
    corine_classes: str = option("19", "classes of enmap_corine", choices=tuple(_corine.GROUPS))

    def items(self) -> list[Item]:
        task = self._task()
        below, product = f"{self.task}/{task.sensor}", f"{self.task}/{task.product}"
        names = image_files(self.archive, below)
        if not names:
            raise ArchiveError(
                below,
                "no such folder, or no GeoTIFF in it; expected "
                f"<input>/{below}/<location>/<scene>.tif",
            )
        splits = split_lists(
            self.archive, self._lists(), (name.removeprefix(f"{below}/") for name in names)
        )
        return sorted_by_id(self._item(name, below, product, splits) for name in names)

    def read(self, item: Item, files: Files) -> Sample:
        task, name = self._task(), item.files[0].name
        with geotiff.open_tiff(files, "image") as dataset:
            sensor = _row(dataset, task)
            bands = identify(name, dataset, sensor)
            return Sample(
                pixels=geotiff.read_bands(name, dataset, sensor, bands=bands),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=item.id.split("/")[1],
                time=geotiff.acquisition_time(name, dataset),
                wavelengths_nm=bands.wavelengths_nm,
                labels=self._labels(
                    read_labels(name, dataset, files, task.product, PUBLISHED_CODES)
                ),
                **geotiff.georeference(dataset),
            )

    def _task(self) -> Task:
        if self.task not in TASKS:
            raise ArchiveError("--task", f"is {self.task!r}, expected one of {', '.join(TASKS)}")
        return TASKS[self.task]

    def _lists(self) -> dict[str, str]:
        """{split: name of its list}. Raises ArchiveError where both folders have lists."""
        locations = [
            {split: f"{folder}/{split}.txt" for split in _SPLITS}
            for folder in (f"splits/{self.task}", f"{self.task}/splits")
        ]
        found = [lists for lists in locations if any(map(self.archive.exists, lists.values()))]
        if len(found) > 1:
            raise ArchiveError(
                f"{self.task}/splits",
                f"has split lists, and so has splits/{self.task}; remove one of the two folders",
            )
        return found[0] if found else {}

    def _item(self, name: str, below: str, product: str, splits: dict[str, str]) -> Item:
        image = PurePosixPath(name.removeprefix(f"{below}/"))
        if len(image.parts) != 2:
            raise ArchiveError(
                name,
                f"is not at {below}/<location>/<scene>.tif; move it there, or out of {below}/",
            )
        files = files_with_labels(self.archive, name, below, {self._task().product: product})
        return Item(str(image.with_suffix("")), image.parts[0], files, splits.get(str(image)))

    def _labels(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        task = self._task()
        if task.codes:
            return {task.product: codes, "class": _positions(codes, task.codes)}
        return {
            task.product: codes,
            "multilabel": _corine.classes_present(codes, self.corine_classes),
        }


def _positions(codes: np.ndarray, listed: tuple[int, ...]) -> np.ndarray:
    """uint8 [h, w]: the position of each code in the list, from 1, or 0 for other codes."""
    positions = np.zeros(codes.shape, np.uint8)
    for position, code in enumerate(listed, 1):
        positions[codes == code] = position
    return positions


def _row(dataset: rasterio.DatasetReader, task: Task) -> Sensor:
    """The row of the file's dtype; without one, the first row, whose check reports the problem."""
    rows = _ROWS[task.sensor]
    return rows.get(dataset.dtypes[0]) or next(iter(rows.values()))
