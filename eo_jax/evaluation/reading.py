"""Images and targets of a split, as a task sees them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eo_jax.data.pipeline import in_order
from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import Source, SourceConfig, crops_of
from eo_jax.data.store.reader import open_store
from eo_jax.evaluation.task import HEADLINES, MAPS, Task, find_task
from eo_jax.exchange import matching
from eo_jax.sensors import Sensor


class Read(NamedTuple):
    """A batch of a split.

    Attributes:
        pixels: [b, c, H, W] digital numbers.
        valid: bool, of the same shape.
        target: [b] classes, [b, k] numbers, or [b, H, W] maps, as stored.
    """

    pixels: np.ndarray
    valid: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class TaskData:
    """A store as a task's data.

    Attributes:
        task: what is read of it.
        store: folder or URL.
        sensor: id of the row that is read.
        crop: side in pixels of the windows: non-overlapping crops of samples, or around pixels.
        content: content hash of the store.
        batch_size: windows that are read at once.
    """

    task: Task
    store: str
    sensor: str
    crop: int
    content: str
    batch_size: int = 16

    def read(self, split: str) -> Iterator[Read]:
        """Every window of a split once. Raises ValueError for a store without that label."""
        source = self._open(split)
        if self.task.kind == "change":
            yield from _pairs(source, self.task.label, self.batch_size)
            return
        for batch in in_order(source, self.batch_size, self.task.label):
            fields = batch[source.name]
            real = fields["position"] >= 0
            yield _read(source.sensor, fields["pixels"][real, 0], fields["label"][real])

    def _open(self, split: str) -> Source:
        pixel = self.task.kind == "pixel"
        config = SourceConfig(
            store=self.store,
            sensor=self.sensor,
            split=split,
            draw="pixel" if pixel else "patch",
            cache="memory" if pixel else "none",
            label=self.task.label if pixel else "",
        )
        return open_source("evaluated", config, self.crop, 0)


@functools.cache
def statistics_of(data: TaskData) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation), float32 [c] each, of the valid digital numbers of every band in
    the training split; (0, 1) for a band without any, and a deviation of 1 for a constant band.
    """
    count, total, squares = 0, 0, 0
    for batch in data.read(data.task.train):
        pixels, valid = (np.moveaxis(part, -3, 0) for part in (batch.pixels, batch.valid))
        pixels, valid = (part.reshape(len(part), -1) for part in (pixels, valid))
        values = np.where(valid, pixels, 0).astype(np.float64)
        count = count + valid.sum(1)
        total = total + values.sum(1)
        squares = squares + np.square(values).sum(1)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - np.square(mean), 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _read(sensor: Sensor, pixels: np.ndarray, target: np.ndarray) -> Read:
    return Read(pixels.astype(np.float32), ~sensor.missing(pixels), target)


def _pairs(source: Source, label: str, batch_size: int) -> Iterator[Read]:
    """Windows [b, 2, c, H, W] of the two dates of every location, the earlier one first."""
    groups = source.groups
    windows = (
        (np.stack([pixels[:, rows, columns] for pixels, _ in dates]), dates[1][1][rows, columns])
        for first, last in itertools.pairwise(groups.starts.tolist())
        for dates in [_two_dates(source, groups.members[first:last], label)]
        for rows, columns in crops_of(dates[0][0].shape[1:], source.crop)
    )
    while batch := list(itertools.islice(windows, batch_size)):
        pixels, target = (np.stack(arrays) for arrays in zip(*batch, strict=True))
        yield _read(source.sensor, pixels, target)


def _two_dates(
    source: Source, members: np.ndarray, label: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(pixels [c, h, w], map [h, w])] of both dates. Raises ValueError for another number."""
    if len(members) != 2:
        name = source.store.index["group"][members[0]]
        raise ValueError(
            f"{source.store.path}: location {name!r} has {len(members)} dates, change needs 2"
        )
    found = []
    for i in sorted(members.tolist(), key=lambda i: source.store.index["time"][i]):
        pixels, labels = source.arrays(i)
        found.append((pixels, source.label(i, labels, label)))
    return found


def asked_task(name: str, store: str) -> Task:
    """The task of that name, or of KIND:LABEL in a store, with splits train, val and test, or train
    and val. Raises ValueError.
    """
    kind, _, label = name.partition(":")
    if not label:
        return find_task(name)
    if kind not in HEADLINES:
        raise ValueError(f"--task: {name!r}; expected a kind of {', '.join(HEADLINES)}")
    splits = open_store(store).manifest.get("splits", {})
    own = Task(f"{label} of {Path(store).name}", kind, label, "")
    if "test" in splits or kind == "pixel":
        return own
    return dataclasses.replace(own, val="", test="val")


def data_of(task: Task, store: str, sensor: Sensor, multiple: int = 1, crop: int = 0) -> TaskData:
    """The data of a task in a store.

    Args:
        sensor: what the encoder reads; the store must hold the same.
        crop: side of windows; 0 for the largest multiple of `multiple` in the smallest sample.

    Raises ValueError for a store that is not one of this task or sensor.
    """
    opened = open_store(store)
    labels = opened.manifest.get("labels", {})
    if task.label not in labels:
        raise ValueError(
            f"{store}: no label {task.label!r}; there is {', '.join(labels) or 'none'}. Convert "
            f"with `python -m data_prep convert {task.convert}`"
        )
    _check_sensor(opened.manifest.get("sensors", {}), sensor, store)
    sides = opened.index["shape"][opened.index["sensor"] == sensor.id, 1:]
    crop = crop or int(sides.min()) // multiple * multiple
    if not 0 < crop <= sides.min():
        raise ValueError(
            f"{store}: a sample of {sides.min()} pixels; the encoder takes {crop or multiple} at "
            "least: convert with a larger --patch-size, or use weights with smaller patches"
        )
    return TaskData(task, store, sensor.id, crop, opened.content_hash)


def _check_sensor(rows: dict, sensor: Sensor, store: str) -> None:
    """Raises ValueError where the store's numbers mean something else than the encoder's."""
    if sensor.id not in rows:
        raise ValueError(
            f"{store}: has the sensors {', '.join(rows) or 'none'}; the encoder reads "
            f"{sensor.id!r}: convert to that, or use weights for these"
        )
    found = Sensor.from_row(rows[sensor.id])
    try:
        matching.band_order(sensor, [band.name for band in found.bands], None)
        matching.check_product(
            sensor, found.id, found.dtype, found.scales, found.offsets, found.nodata
        )
    except ValueError as error:
        raise ValueError(f"{store}: {error}") from error
    if found.nodata is None and sensor.nodata is not None:
        raise ValueError(
            f"{store}: has no no-data value, and the encoder's is {sensor.nodata:g}, which may be "
            "data here; use weights for this store's row"
        )


def is_per_patch(task: Task) -> bool:
    """Whether a target is one for the whole window, so that pooled features go with it."""
    return task.kind not in MAPS
