"""Reads GEO-Bench v1 (Lacoste et al. 2023, arXiv 2306.03831): one HDF5 file per sample.

    <root>/**/<task>/<sample>.hdf5             a dataset [h, w] per band, "<name>" or
                                               "<name>_<YYYY-MM-DD>"; "label" [h, w] in the
                                               segmentation tasks; the attribute "pickle"
    <root>/**/<task>/default_partition.json    {"train", "valid", "test": [samples]}

--task names the task (a folder) where there are several. --partition 0.10x_train reads that file in
place of the default one; a sample in none of its lists is left out.

Bands are read by their names, in the order of the sensor row, and never by position; names that
are wrong in the files are corrected (_geobench_tasks.py). Other datasets are not read: Sentinel-1
of m-so2sat, cloud probability, canopy height and the hyperspectral cube of m-NeonTree. Whole
numbers of another dtype are stored in that of the row; floats keep theirs.

Labels count from 1, 0 is unlabelled: `class`, `multilabel` uint8 [43], or the map `landcover`.
Those of the classification tasks are in the pickled attribute. It is never unpickled: its opcodes
for numbers, text and lists are read as data, and nothing that it names is imported or called
(formats/pickled.py). A label of another kind is refused. band_stats.json, label_map.json and
task_specs.pkl are not read. There are no coordinates: they are pickled objects.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import hdf5_products, pickled, remarks, resample
from data_prep.formats.dtype_rows import rows_by_dtype
from data_prep.formats.hdf5_products import Product
from data_prep.formats.listing import sorted_by_id
from data_prep.formats.times import utc_seconds
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers._geobench_tasks import TASKS, Task
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_UNLISTED = "unlisted"
_DTYPES = ("uint8", "int16", "uint16", "float32", "float64")
_DATED = re.compile(r"(?P<name>.+?)(?:_(?P<date>\d{4}-\d{2}-\d{2}))?\.?", re.ASCII)
# What repr writes of bytes, and nothing else.
_ESCAPE = r"""\\(?:x[0-9a-f]{2}|[\\'"nrt])"""
_BYTES = re.compile(rf"""b'(?:[^'\\\n]|{_ESCAPE})*'|b"(?:[^"\\\n]|{_ESCAPE})*\"""", re.ASCII)
_JSON_BYTES = 200_000_000
_MOST_SAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Reader:
    """GEO-Bench v1, one sample per file. Bands are in the order of the sensor row."""

    TITLE: ClassVar[str] = "GEO-Bench v1"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "that of each set; see the GEO-Bench paper, arXiv 2306.03831"
    sensors: ClassVar = tuple(
        {
            row.id: row
            for task in TASKS.values()
            for row in rows_by_dtype(task.sensor, *_DTYPES).values()
        }.values()
    )
    archive: Archive
    task: str = option("", "task, where the archive has several", choices=tuple(TASKS))
    partition: str = option(
        "default", "which lists: NAME_partition.json, such as 0.10x_train", metavar="NAME"
    )

    def items(self) -> list[Item]:
        folder = self._folder()
        name = f"{folder}{self.partition}_partition.json"
        splits = _partition(name, _json(self.archive, name))
        present = {
            file.removeprefix(folder).removesuffix(".hdf5"): file
            for file in self.archive.names((".hdf5",))
            if file.startswith(folder) and "/" not in file.removeprefix(folder)
        }
        absent = sorted(splits.keys() - present.keys())
        if absent:
            raise ArchiveError(
                name,
                f"lists {absent[0]}, the first of {len(absent)} samples without a file "
                f"{absent[0]}.hdf5; download the task again",
            )
        return sorted_by_id(
            Item(sample, sample, (File("image", file),), splits.get(sample, _UNLISTED))
            for sample, file in present.items()
        )

    def read(self, item: Item, files: Files) -> Sample:
        if item.split == _UNLISTED:
            raise SkipSample("in none of the lists of --partition")
        task = TASKS[self.task or PurePosixPath(item.files[0].name).parent.name]
        with hdf5_products.open_product(self.archive, files, "image") as product:
            keys = _keys(product)
            sensor, pixels = _pixels(product, task, keys)
            if task.kind == "map":
                labels = {"landcover": _map(product, task, keys, pixels.shape[1:])}
            elif task.kind == "multilabel":
                labels = {"multilabel": _multi_label(product, task)}
            else:
                labels = {"class": _class(product, task)}
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            time=_time(product.name, keys, task),
            labels=labels,
        )

    def _folder(self) -> str:
        """ "folder/" of the task, or ""."""
        suffix = f"{self.partition}_partition.json"
        found = {
            name.removesuffix(suffix)
            for name in self.archive.names((suffix,))
            if name.removesuffix(suffix)[-1:] in ("", "/")
        }
        named = {folder: folder.rstrip("/").rpartition("/")[2] for folder in found}
        wanted = [folder for folder in found if not self.task or named[folder] == self.task]
        if self.task and found == {""}:  # the folder of the task itself
            wanted = [""]
        if len(wanted) != 1:
            there = ", ".join(sorted(named[folder] or "one without a name" for folder in found))
            raise ArchiveError(
                suffix,
                f"is in the tasks {there or 'none'}, expected one of {', '.join(TASKS)}; give "
                "--task NAME, and the folder of the task or one above it",
            )
        name = self.task or named[wanted[0]]
        if name not in TASKS:
            raise ArchiveError(
                wanted[0] or suffix,
                f"is of no known task, expected a folder named one of {', '.join(TASKS)}; give "
                "--task NAME, or rename the folder",
            )
        return wanted[0]


# ------------------------------------------------------------------ lists


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name, _JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(name, f"is not JSON ({error}); download it again") from error


def _partition(name: str, lists: Any) -> dict[str, str]:
    """{sample: split}. Raises ArchiveError."""
    splits: dict[str, str] = {}
    if not isinstance(lists, dict) or set(lists) != set(_SPLITS):
        raise ArchiveError(name, f"has not the lists {', '.join(_SPLITS)}; download it again")
    for key, split in _SPLITS.items():
        samples = lists[key]
        is_list = isinstance(samples, list) and len(samples) <= _MOST_SAMPLES
        if not is_list or not all(isinstance(sample, str) for sample in samples):
            raise ArchiveError(name, f"{key} is not a list of names; download it again")
        for sample in samples:
            if splits.setdefault(sample, split) != split:
                raise ArchiveError(
                    name,
                    f"lists {sample[:100]} in {key} and in another list, expected one; download it "
                    "again",
                )
    return splits


# ------------------------------------------------------------------ pixels


def _keys(product: Product) -> dict[str, tuple[str, str | None]]:
    """{name without date: (dataset, date)}."""
    found: dict[str, tuple[str, str | None]] = {}
    for key in product.file:
        match = _DATED.fullmatch(key)
        if not match:
            continue
        if match["name"] in found:
            raise ArchiveError(
                product.name,
                f"has {match['name']} of two dates, expected one; the file is not of GEO-Bench v1",
            )
        found[match["name"]] = key, match["date"]
    return found


def _pixels(
    product: Product, task: Task, keys: dict[str, tuple[str, str | None]]
) -> tuple[Sensor, np.ndarray]:
    """(row, pixels [c, h, w]); coarser bands are enlarged to the grid of the finest."""
    bands = []
    for band in task.sensor.bands:
        name = task.names[band.name]
        if name not in keys:
            raise ArchiveError(
                product.name,
                f"has no band {name!r}, only {', '.join(sorted(keys)[:20])}; it is of another task",
            )
        dataset = hdf5_products.array(product, keys[name][0], (None, None))
        bands.append(hdf5_products.read(product, dataset, (slice(None), slice(None))))
    height, width = max(band.shape for band in bands)
    cube = np.stack([_enlarged(product, task, band, (height, width)) for band in bands])
    return _typed(product, task.sensor, cube)


def _enlarged(product: Product, task: Task, band: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if band.shape == shape:
        return band
    factor = shape[0] // band.shape[0]
    if tuple(side * factor for side in band.shape) != shape:
        raise ArchiveError(
            product.name,
            f"has bands of {band.shape} and {shape} pixels, expected one to be a multiple of the "
            "other; download it again",
        )
    remarks.note("coarser bands enlarged to the finest grid, bilinear")
    return resample.bilinear(band, factor, task.sensor.nodata)


def _typed(product: Product, sensor: Sensor, cube: np.ndarray) -> tuple[Sensor, np.ndarray]:
    """The cube in the dtype of the row where that holds every whole number, else in its own."""
    if cube.dtype.kind == "f" and not np.isfinite(cube).all():
        raise ArchiveError(
            product.name, "has values that are NaN or infinite; give --skip-bad, or fix the file"
        )
    if cube.dtype.kind in "iu" and np.dtype(sensor.dtype).kind in "iu":
        limits = np.iinfo(sensor.dtype)
        if cube.min() >= limits.min and cube.max() <= limits.max:
            return sensor, cube.astype(sensor.dtype)
    rows = rows_by_dtype(sensor, *_DTYPES)
    if cube.dtype.name not in rows:
        raise ArchiveError(
            product.name,
            f"has {cube.dtype} values from {cube.min()} to {cube.max()}, expected "
            f"{sensor.dtype} or one of {', '.join(_DTYPES)}; download it again",
        )
    return rows[cube.dtype.name], cube


def _time(name: str, keys: dict[str, tuple[str, str | None]], task: Task) -> int | None:
    """Of the bands that are read, if they have one date."""
    dates = {keys[task.names[band.name]][1] for band in task.sensor.bands}
    (date,) = dates if len(dates) == 1 else (None,)
    if date is None:
        return None
    try:
        return utc_seconds(date)
    except ValueError as error:
        raise ArchiveError(name, f"has a band of {date}, expected a date; fix its name") from error


# ------------------------------------------------------------------ labels


def _map(
    product: Product,
    task: Task,
    keys: dict[str, tuple[str, str | None]],
    shape: tuple[int, int],
) -> np.ndarray:
    """uint8 [h, w], classes from 1."""
    if "label" not in keys:
        raise ArchiveError(product.name, "has no dataset 'label'; download it again")
    dataset = hdf5_products.array(product, keys["label"][0], shape)
    codes = hdf5_products.read(product, dataset, (slice(None), slice(None)))
    wrong = ~np.isin(codes, np.arange(task.classes))
    if wrong.any():
        raise ArchiveError(
            product.name,
            f"label has the value {codes[wrong][0]}, expected 0 to {task.classes - 1}; is it of "
            "another task? Give its --task",
        )
    first = 0 if task.unlabelled == 0 else 1  # then 0 is unlabelled already
    stored = np.where(codes == task.unlabelled, 0, codes + first)
    return stored.astype(np.uint8)


def _class(product: Product, task: Task) -> np.ndarray:
    """int64 [], from 1."""
    found = _pickled(product, "its number")
    if found.shape or not 0 <= found < task.classes:
        raise ArchiveError(
            product.name,
            f"label is {found.tolist()}, expected a class from 0 to {task.classes - 1}; is it of "
            "another task? Give its --task",
        )
    return found + 1


def _multi_label(product: Product, task: Task) -> np.ndarray:
    """uint8 [k]."""
    found = _pickled(product, "0 and 1 per class")
    if found.shape != (task.classes,) or not np.isin(found, (0, 1)).all():
        raise ArchiveError(
            product.name,
            f"label is {str(found.tolist())[:60]}, expected {task.classes} times 0 or 1; is it of "
            "another task? Give its --task",
        )
    return found.astype(np.uint8)


def _pickled(product: Product, expected: str) -> np.ndarray:
    """The label of the attribute, int64 [] or [k], whose pickle is not loaded."""
    text = hdf5_products.text(product, "pickle")
    try:
        if len(text) > 4 * pickled.MAX_BYTES or not _BYTES.fullmatch(text):
            raise ValueError("not the text of bytes")
        found = pickled.read_dict(ast.literal_eval(text))
        if "label" not in found:
            raise ValueError("has no label")
        return pickled.integers(found["label"])
    except ValueError as error:
        raise ArchiveError(
            product.name,
            f"attribute 'pickle' has no label that can be read as data ({error}), expected "
            f"{expected}; it is not unpickled: download the file again, or convert the original "
            "set (docs/archives.md)",
        ) from error
