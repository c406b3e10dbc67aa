"""One store opened for drawing: its places, what a row shows of a place, and how that is decoded into a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from eo_jax.data.index import common_places, group_samples
from eo_jax.data.stores import NO_TIME, PIXEL_SPLITS, open_store
from eo_jax.schema import TIME_ABSENT
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
        follows: the source whose places, in its order, and whose crops this one shows, row by row; "" for none.
    """

    store: str
    sensor: str
    split: str = "train"
    label: str = ""
    dates: int = 1
    missing: str = "repeat"
    follows: str = ""

    def __post_init__(self):
        if self.missing not in ("repeat", "drop"):
            raise ValueError(f"config.data.sources.*.missing: {self.missing!r}; expected 'repeat' or 'drop'")
        if self.dates < 1:
            raise ValueError(f"config.data.sources.*.dates: {self.dates}; expected at least 1")


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

    def reopen(self) -> None:
        """Forgets the open files of the store: a reader that once failed to open its file fails for good."""
        self.store = copy(self.store)

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

    def dates(self, place: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [t], samples of `dates` acquisitions of a place in random order, in turn where it has fewer."""
        return np.resize(rng.permutation(self.groups.samples(place)), self.config.dates)

    def draw(self, place: int, rng: np.random.Generator) -> Draw:
        """Dates of a place, and a crop that fits into all of them."""
        samples = self.dates(place, rng)
        sides = self.store.index["shape"][samples, 1:].min(0).tolist()
        return Draw(samples, *(int(rng.integers(0, side - self.crop + 1)) for side in sides))

    def put(self, batch: dict[str, np.ndarray], row: int, t: int, draw: Draw) -> None:
        """Decodes date t of what a row shows into a batch of this source. Raises RecordError."""
        i = int(draw.samples[t])
        rows, columns = slice(draw.top, draw.top + self.crop), slice(draw.left, draw.left + self.crop)
        self.store.read_into(i, batch["pixels"][row, t], rows, columns)
        self.put_metadata(batch, row, t, i)
        if self.config.label:
            batch["label"][row, t] = self.label(i, self.store.labels(i), self.config.label, draw.top, draw.left)

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


def pair(family: Sequence[Source]) -> None:
    """Leaves to a source and its followers the places that all of them have, in one order. Raises ValueError where there is none."""
    if len(family) > 1:
        groups = common_places([(source.store, source.groups) for source in family])
        for source, common in zip(family, groups, strict=True):
            source.groups = common


def draw_together(family: Sequence[Source], place: int, rng: np.random.Generator) -> list[tuple[Source, Draw]]:
    """What each source shows of a place: the first decides on the crop, all draw dates of their own, one after the other."""
    leader, *followers = family
    draw = leader.draw(place, rng)
    return [(leader, draw), *((follower, draw._replace(samples=follower.dates(place, rng))) for follower in followers)]
