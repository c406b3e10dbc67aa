"""From a store to Batches: row r of global batch n is a pure function of (seed, n, r), decoded in Grain's threads.

The only state is the number of the next batch, so a resumed run reads on exactly where the checkpoint was taken, whatever was prefetched. What every
row shows is drawn first; then a batch is decoded whole into a buffer of a pool, which gets it back when nothing refers to the batch any more. Buffers
in use are what `prefetch` holds, plus the batches that the caller and the device hold, so peak memory is about prefetch + 4 batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from eo_jax.data.index import Order, group_samples
from eo_jax.data.slots import Pool
from eo_jax.data.stores import NO_TIME, PIXEL_SPLITS, open_store
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


class Draw(NamedTuple):
    """What one row shows: acquisitions of a place in random order, the same crop of each.

    Attributes:
        samples: int64 [t], numbers of samples of the store.
        top, left: of the crop, in pixels.
    """

    samples: np.ndarray
    top: int
    left: int


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

    def pixels_shape(self, rows: int) -> tuple[int, int, int, int, int]:
        """[b, t, c, h, w] of a batch."""
        return (rows, self.config.dates, self.bands, self.crop, self.crop)

    def around(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """A batch of this source on `pixels` [b, t, c, h, w], to be filled with `put_metadata` and with labels."""
        rows, dates = pixels.shape[:2]
        return {
            **self._empty_label(rows),
            "pixels": pixels,
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

    def draw(self, place: int, rng: np.random.Generator) -> Draw:
        """`dates` acquisitions of a place, in turn where it has fewer, and a crop that fits into all of them."""
        samples = np.resize(rng.permutation(self.groups.samples(place)), self.config.dates)
        sides = self.store.index["shape"][samples, 1:].min(0).tolist()
        return Draw(samples, *(int(rng.integers(0, side - self.crop + 1)) for side in sides))

    def decode(self, draws: Sequence[Draw], pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of all the draws, its pixels decoded into `pixels` [b, t, c, h, w]; `position` is left to the caller."""
        batch = self.around(pixels)
        for row, draw in enumerate(draws):
            rows, columns = slice(draw.top, draw.top + self.crop), slice(draw.left, draw.left + self.crop)
            for t, i in enumerate(draw.samples.tolist()):
                self.store.read_into(i, pixels[row, t], rows, columns)
                self.put_metadata(batch, row, t, i)
                if self.config.label:
                    batch["label"][row, t] = self.label(i, self.store.labels(i), self.config.label, draw.top, draw.left)
        return batch

    def put_metadata(self, batch: dict[str, np.ndarray], row: int, t: int, i: int) -> None:
        """Time and place of sample i, where the index has them."""
        index = self.store.index
        if index["time"][i] != NO_TIME:
            batch["time"][row, t] = index["time"][i]
        if not np.isnan(index["lonlat"][i]).any():
            batch["lonlat"][row] = index["lonlat"][i]

    def label(self, i: int, labels: Mapping[str, np.ndarray], name: str, top: int, left: int) -> np.ndarray:
        """A label of sample i, cropped where it is a map; where it is split by pixel, 0 outside this source's split."""
        sample = f"sample {self.store.index['id'][i]}"
        if name not in labels:
            there = ", ".join(labels) or "none"
            raise ValueError(f"{sample}: no label {name!r}; it has {there}. Convert with --labels {name}")
        array, split = labels[name], labels.get(f"{name}.split")
        if array.ndim != 2:
            return array
        sides = tuple(self.store.index["shape"][i, 1:].tolist())
        if array.shape != sides:
            raise ValueError(f"{sample}: label {name!r} is {array.shape}, its pixels are {sides}; convert it again")
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
        slots = config.threads + config.prefetch + 2  # being decoded, held ready, with the caller and on the device
        self._pools = {name: Pool(source.pixels_shape(share), source.dtype, slots) for name, source in self.sources.items()}

    def batch(self, n: int) -> Batch:
        """This process's rows of global batch n. Its memory is used again when nothing refers to it or to views of it any more."""
        first = n * self.config.batch_size
        positions = range(first + self.rows.start, first + self.rows.stop)
        batch = {}
        for name, source in self.sources.items():
            draws = [
                source.draw(self._orders[name][position], np.random.default_rng([self.seed, n, r]))
                for r, position in zip(self.rows, positions, strict=True)
            ]
            batch[name] = source.decode(draws, self._pools[name].take())
            batch[name]["position"][:] = positions
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
    empty = lambda: source.around(np.empty(source.pixels_shape(batch_size), source.dtype))  # noqa: E731
    batch, labels, row = empty(), [], 0
    for number in np.sort(source.groups.members).tolist():
        sample = source.store[number]
        for top, left in _crops(sample, source.crop):
            batch["pixels"][row, 0] = sample.pixels[:, top : top + source.crop, left : left + source.crop]
            batch["position"][row] = number
            source.put_metadata(batch, row, 0, number)
            if source.config.label:
                batch["label"][row, 0] = source.label(number, sample.labels, source.config.label, top, left)
            if label is not None:
                labels.append(source.label(number, sample.labels, label, top, left))
            row += 1
            if row == batch_size:
                yield _labelled(source.name, batch, labels)
                batch, labels, row = empty(), [], 0
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
