"""From a store to Batches: row r of global batch n is a pure function of (seed, n, r), decoded in Grain's threads.

The only state is the number of the next batch, so a resumed run reads on exactly where the checkpoint was taken, whatever was prefetched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from eo_jax.data.index import Order, group_samples
from eo_jax.data.stores import PIXEL_SPLITS, open_store
from eo_jax.schema import TIME_ABSENT, Batch, Sample
from eo_jax.sensors import get_sensor


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source: a store, and what is drawn from it.

    Attributes:
        store: folder of the store.
        sensor: id of the sensor table row whose samples are drawn, or path of a band table, a JSON file.
        split: "train", "val", ... or "all".
        label: name of the label that comes with the pixels; "" for none.
        dates: acquisitions of a place in one row of a batch (axis t).
        missing: "repeat" or "drop" places with fewer dates.
    """

    store: str
    sensor: str
    split: str = "train"
    label: str = ""
    dates: int = 1
    missing: str = "repeat"

    def __post_init__(self):
        if self.missing not in ("repeat", "drop"):
            raise ValueError(f"config.data.sources.*.missing: {self.missing!r}; expected 'repeat' or 'drop'")
        if self.dates < 1:
            raise ValueError(f"config.data.sources.*.dates: {self.dates}; expected at least 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is read.

    Attributes:
        sources: {name: SourceConfig}.
        batch_size: rows of a global batch, over all processes.
        crop: side in pixels of the random crop that is read of each patch, before augmentation.
        threads: Grain threads that decode.
        prefetch: decoded batches held ready.
    """

    sources: Mapping[str, SourceConfig] = dataclasses.field(default_factory=dict)
    batch_size: int = 64
    crop: int = 128
    threads: int = 2
    prefetch: int = 2

    def __post_init__(self):
        for field in ("batch_size", "crop"):
            if getattr(self, field) < 1:
                raise ValueError(f"config.data.{field}: {getattr(self, field)}; expected at least 1")


class Source:
    """A store opened for drawing: its places and the shape of what a row holds."""

    def __init__(self, name: str, config: SourceConfig, crop: int):
        self.name, self.config, self.crop = name, config, crop
        self.store, self.sensor = open_store(config.store), get_sensor(config.sensor)
        self.groups = group_samples(self.store, config.split, config.dates, config.missing, self.sensor.id)
        self._check()
        # Archives that mix int16 and float32 tiles are read as what holds both.
        self.dtype = np.result_type(*np.unique(self.store.index["dtype"][self.groups.members]).tolist())
        self.bands = len(self.sensor.bands)

    def _check(self) -> None:
        index, members = self.store.index, self.groups.members
        bands = len(self.sensor.bands)
        for column, fits, expected in (
            ("shape", index["shape"][members, 0] == bands, f"{bands} bands"),
            ("shape", index["shape"][members, 1:].min(1) >= self.crop, f"at least {self.crop} x {self.crop} pixels (config.data.crop)"),
            ("time", index["time"][members] < 2**31, "a time before 2038, which int32 seconds hold"),
        ):
            if not fits.all():
                bad = members[np.flatnonzero(~fits)[0]]
                raise ValueError(
                    f"{self.store.path}: {int((~fits).sum())} samples do not fit source {self.name!r}; first: {index['id'][bad]} has "
                    f"{column} {index[column][bad].tolist()}, expected {expected}"
                )

        labels = self.store.manifest.get("labels", {})
        if self.config.label and self.config.label not in labels:
            there = ", ".join(labels) or "none"
            raise ValueError(f"{self.store.path}: no label {self.config.label!r} (config.data.sources.{self.name}.label); there is {there}")

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Arrays of a batch of this source, to be filled by `fill`."""
        dates = self.config.dates
        return {
            **self._empty_label(rows),
            "pixels": np.empty((rows, dates, self.bands, self.crop, self.crop), self.dtype),
            "time": np.full((rows, dates), TIME_ABSENT, np.int32),
            "lonlat": np.full((rows, 2), np.nan, np.float32),
            "position": np.empty(rows, np.int64),
        }

    def _empty_label(self, rows: int) -> dict[str, np.ndarray]:
        """{"label": [b, t, h, w] for a map, [b, t, ...] for what belongs to the whole patch}, zeros."""
        if not self.config.label:
            return {}
        about = self.store.manifest["labels"][self.config.label]
        shape = (self.crop, self.crop) if about["shape"] == "map" else tuple(about["shape"])
        return {"label": np.zeros((rows, self.config.dates, *shape), about["dtype"])}

    def fill(self, batch: dict[str, Any], row: int, place: int, rng: np.random.Generator) -> None:
        """One row: `dates` acquisitions of a place in random order, the same random crop of each."""
        samples = self.groups.samples(place)
        chosen = np.resize(rng.permutation(samples), self.config.dates)  # in turn, where a place has fewer dates
        sides = self.store.index["shape"][chosen, 1:].min(0)  # the crop has to fit into every date
        top, left = (int(rng.integers(0, side - self.crop + 1)) for side in sides)
        for t, i in enumerate(chosen):
            self.put(batch, row, t, self.store[i], top, left)

    def put(self, batch: dict[str, Any], row: int, t: int, sample: Sample, top: int, left: int) -> None:
        """A sample's crop into its place of a batch."""
        batch["pixels"][row, t] = sample.pixels[:, top : top + self.crop, left : left + self.crop]
        if self.config.label:
            batch["label"][row, t] = self.label(sample, self.config.label, top, left)
        if sample.time is not None:
            batch["time"][row, t] = sample.time
        if sample.lonlat is not None:
            batch["lonlat"][row] = sample.lonlat

    def label(self, sample: Sample, name: str, top: int, left: int) -> np.ndarray:
        """A label of a sample, cropped where it is a map; where it is split by pixel, 0 outside this source's split."""
        if name not in sample.labels:
            there = ", ".join(sample.labels) or "none"
            raise ValueError(f"sample {sample.id}: no label {name!r}; it has {there}. Convert with --labels {name}")
        array, split = sample.labels[name], sample.labels.get(f"{name}.split")
        if array.ndim != 2:
            return array
        if array.shape != sample.pixels.shape[1:]:
            raise ValueError(f"sample {sample.id}: label {name!r} is {array.shape}, its pixels are {sample.pixels.shape[1:]}; convert it again")
        if split is not None and self.config.split in PIXEL_SPLITS:
            array = np.where(split == PIXEL_SPLITS.index(self.config.split), array, 0)
        return array[top : top + self.crop, left : left + self.crop]


class Pipeline:
    """Batches of every source, for one of `processes` processes.

    Each process reads a contiguous block of the rows of each global batch, in mesh order.
    """

    def __init__(self, config: Config, seed: int, process: int = 0, processes: int = 1):
        if config.batch_size % processes:
            raise ValueError(f"config.data.batch_size: {config.batch_size} does not divide over {processes} processes")
        self.config, self.seed = config, seed
        self.sources = {name: Source(name, source, config.crop) for name, source in config.sources.items()}
        self._orders = {name: Order(len(source.groups), seed) for name, source in self.sources.items()}
        share = config.batch_size // processes
        self.rows = range(process * share, (process + 1) * share)

    def batch(self, n: int) -> Batch:
        """This process's rows of global batch n."""
        batch = {name: source.empty(len(self.rows)) for name, source in self.sources.items()}
        for local, r in enumerate(self.rows):
            position = n * self.config.batch_size + r
            for name, source in self.sources.items():
                rng = np.random.default_rng([self.seed, n, r])
                source.fill(batch[name], local, self._orders[name][position], rng)
                batch[name]["position"][local] = position
        return batch

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches first ... last - 1, decoded ahead in `threads` threads."""
        if first >= last:
            return iter(())
        dataset = grain.MapDataset.range(first, last).map(self.batch)
        # Grain's default buffer of 500 elements would be tens of gigabytes of whole batches.
        options = grain.ReadOptions(num_threads=self.config.threads, prefetch_buffer_size=self.config.prefetch)
        return iter(dataset.to_iter_dataset(options))


def in_order(source: Source, batch_size: int, label: str | None = None) -> Iterator[Batch]:
    """Every sample of a source once, in store order, cut into as many crops side by side as fit; for evaluation.

    `position` is the number of the sample. Shapes are static: the last batch is filled up with repeats of the last crop, whose `position` is -1.
    With `label`, the label array of that name is under "label", cropped alike where it is a map.
    """
    if source.config.dates != 1:
        raise ValueError(
            f"source {source.name!r}: evaluation takes one date at a time, this source draws {source.config.dates}; open it with dates=1"
        )
    batch, labels, row = source.empty(batch_size), [], 0
    for number in np.sort(source.groups.members):
        sample = source.store[int(number)]
        for top, left in _crops(sample, source.crop):
            source.put(batch, row, 0, sample, top, left)
            batch["position"][row] = number
            if label is not None:
                labels.append(source.label(sample, label, top, left))
            row += 1
            if row == batch_size:
                yield _labelled(source.name, batch, labels)
                batch, labels, row = source.empty(batch_size), [], 0
    if row:
        for array in batch.values():
            array[row:] = array[row - 1]
        batch["position"][row:] = -1
        yield _labelled(source.name, batch, labels + labels[-1:] * (batch_size - row))


def _crops(sample: Sample, crop: int) -> list[tuple[int, int]]:
    """Upper left corners of the crops that fit side by side, centred in the patch."""
    height, width = sample.pixels.shape[1:]
    tops, lefts = (range(side % crop // 2, side - crop + 1, crop) for side in (height, width))
    return [(top, left) for top in tops for left in lefts]


def _labelled(name: str, batch: dict[str, np.ndarray], labels: list[np.ndarray]) -> Batch:
    return {name: batch | ({"label": np.stack(labels)} if labels else {})}
