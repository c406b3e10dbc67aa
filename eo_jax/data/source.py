"""One store opened for drawing: its locations, the draw of a row, and decoding it into a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from eo_jax.data import sample_cache
from eo_jax.data.differences import pixels_key
from eo_jax.data.index import Order, common_locations, group_samples
from eo_jax.data.store.index_file import kind_codes, kinds
from eo_jax.data.store.manifest import NO_TIME, PIXEL_SPLITS
from eo_jax.data.store.reader import open_store
from eo_jax.schema import TIME_ABSENT
from eo_jax.sensors import Sensor, get_sensor

_CHOICES = {"missing": ("repeat", "drop"), "draw": ("patch", "pixel"), "cache": ("none", "memory")}


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source: a store, and what is drawn from it.

    Attributes:
        store: folder or URL of the store.
        sensor: id of the sensor row whose samples are drawn, or path of a band table, a JSON file.
        split: "train", "val", ... or "all".
        label: name of the label that comes with the pixels; "" for none.
        dates: acquisitions of a location in one row of a batch (axis t).
        missing: "repeat" or "drop" locations with fewer dates.
        paired_with: the source whose locations and crops this one shows, row by row; "" for none.
        bands: names of the bands that are read, in the order of the sensor table; () for all. The
            sensor of the source has only these bands.
        cache: "none", or "memory": every sample is decoded once, when it is first needed, and kept.
        draw: what a row shows: a random crop of a "patch", or the window of config.data.crop pixels
            around one "pixel", see pixel_source.py: one with the label in this split, or without a
            label one with data. Needs cache="memory".
        labels_per_class: use this number of labelled pixels of each class, drawn by the run's seed,
            the classes in turn; 0 for all pixels in any order.
    """

    store: str
    sensor: str
    split: str = "train"
    label: str = ""
    dates: int = 1
    missing: str = "repeat"
    paired_with: str = ""
    bands: tuple[str, ...] = ()
    cache: str = "none"
    draw: str = "patch"
    labels_per_class: int = 0

    def __post_init__(self):
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"config.data.sources.*.{field}: {getattr(self, field)!r}; expected "
                    f"{' or '.join(map(repr, choices))}"
                )
        if self.dates < 1:
            raise ValueError(f"config.data.sources.*.dates: {self.dates}; expected at least 1")
        if isinstance(self.bands, str):
            raise ValueError(
                f"config.data.sources.*.bands: {self.bands!r}; expected names of bands, as in "
                "('B2', 'B3'), or () for all"
            )
        if self.labels_per_class < 0:
            raise ValueError(
                f"config.data.sources.*.labels_per_class: {self.labels_per_class}; expected at "
                "least 1, or 0 for all"
            )
        if self.draw == "pixel":
            self._check_pixels()
        elif self.labels_per_class:
            raise ValueError(
                f"config.data.sources.*.labels_per_class: {self.labels_per_class} with "
                f"draw={self.draw!r}; expected draw='pixel', or 0"
            )

    def _check_pixels(self) -> None:
        few_labels = self.labels_per_class > 0
        for field, wrong, expected in (
            ("cache", self.cache != "memory", "'memory', or each pixel would decode a scene"),
            ("dates", self.dates != 1, "1, since a pixel is drawn with its date"),
            ("labels_per_class", few_labels and not self.label, "a `label` as well, or 0"),
            (
                "labels_per_class",
                few_labels and self.paired_with,
                "0 for a paired source, which shows the pixels of another",
            ),
        ):
            if wrong:
                raise ValueError(
                    f"config.data.sources.*.{field}: {getattr(self, field)!r} with draw='pixel'; "
                    f"expected {expected}"
                )


def sensor_of(config: SourceConfig) -> Sensor:
    """The sensor that a source reads: a row of the sensor table, or some of its bands.

    Raises ValueError.
    """
    whole = get_sensor(config.sensor)
    try:
        return whole.select(config.bands) if config.bands else whole
    except ValueError as error:
        raise ValueError(f"config.data.sources.*.bands: {error}") from error


class Draw(NamedTuple):
    """What one row shows: acquisitions of a location in random order, the same crop of each.

    Attributes:
        samples: int64 [t], numbers of samples of the store.
        top, left: of the crop, in pixels; negative for a window that crosses the scene's border.
        location: its number among the locations of the source.
    """

    samples: np.ndarray
    top: int
    left: int
    location: int


# (sample, pixels [c, crop, crop], label, which is None where none was asked for)
Window = tuple[int, np.ndarray, np.ndarray | None]


class Windows(NamedTuple):
    """What evaluation shows of a source.

    Attributes:
        count: their number.
        read: numbers -> windows; a sample is decoded once where the numbers ascend.
    """

    count: int
    read: Callable[[Iterable[int]], Iterator[Window]]


class Source:
    """A store opened for drawing.

    Attributes:
        sensor: the bands that are read.
        store_sensor: the sensor of the store's samples, with all bands.
        groups: the locations of the split.
        dtype: that of a batch's pixels.
    """

    unit = "locations"  # what `locations` counts

    def __init__(self, name: str, config: SourceConfig, crop: int, seed: int = 0):
        self.name, self.config, self.crop, self.seed = name, config, crop, seed
        self.store_sensor, self.sensor = get_sensor(config.sensor), sensor_of(config)
        self.store = open_store(config.store)
        self.groups = group_samples(
            self.store, config.split, config.dates, config.missing, self.store_sensor.id
        )
        self._check()
        # The common dtype, for archives that mix int16 and float32 tiles.
        all_kinds = kinds(self.store.index)
        used = np.flatnonzero(np.bincount(kind_codes(self.store.index)[self.groups.members]))
        dtypes = {all_kinds[kind][1] for kind in used.tolist()}
        self.dtype = np.result_type(*sorted(dtypes))
        self._has_one_dtype = len(dtypes) == 1
        some_bands = self.sensor.bands if config.bands else ()
        self._bands = tuple(map(self.store_sensor.bands.index, some_bands))
        self._cache = None
        if config.cache == "memory":
            self._cache = sample_cache.cache_of(self.store, self._bands)
            where = f"config.data.sources.{name}.cache"
            self._cache.reserve(self.store, self.groups.members, where)

    def _check(self) -> None:
        index, members = self.store.index, self.groups.members
        bands = len(self.store_sensor.bands)
        # Per kind of pixels, since shapes of all samples would be read in random order.
        shapes, kind = np.array([shape for *_, shape in kinds(index)]), kind_codes(index)[members]
        for column, fits, expected in (
            ("shape", (shapes[:, 0] == bands)[kind], f"{bands} bands"),
            (
                "shape",
                (shapes[:, 1:].min(1) >= self.crop)[kind],
                f"at least {self.crop} x {self.crop} pixels (config.data.crop)",
            ),
            (
                "time",
                index["time"][members] < 2**31,
                "a time before 2038, since int32 seconds hold no later one",
            ),
        ):
            if not fits.all():
                bad = members[np.flatnonzero(~fits)[0]]
                raise ValueError(
                    f"{self.store.path}: {int((~fits).sum())} samples do not fit source "
                    f"{self.name!r}; first: {index['id'][bad]} has {column} "
                    f"{index[column][bad].tolist()}, expected {expected}"
                )

        labels = self.store.manifest.get("labels", {})
        if self.config.label and self.config.label not in labels:
            names = ", ".join(labels) or "none"
            raise ValueError(
                f"{self.store.path}: no label {self.config.label!r} "
                f"(config.data.sources.{self.name}.label); there is {names}"
            )
        if self.config.label:
            self._check_classes(labels[self.config.label])

    def _check_classes(self, label: dict[str, Any]) -> None:
        """Raises ValueError for class maps with values below 0, which are never classes."""
        counts = label.get("values") if label.get("shape") == "map" else None
        negative = sorted(int(value) for value in counts or {} if int(value) < 0)
        if negative:
            raise ValueError(
                f"{self.store.path}: label {self.config.label!r} has the values "
                f"{', '.join(map(str, negative[:5]))}, expected classes from 1 and 0 for "
                f"unlabelled; convert again with --label-nodata {negative[0]}"
            )

    def reopen(self) -> None:
        """Closes the store's files: a reader that once failed to open its file fails for ever."""
        self.store = copy(self.store)

    @property
    def statistics(self) -> dict[str, np.ndarray] | None:
        """{"mean", "std"} [c] of the store's training split, for the bands that are read.

        None where its manifest has none.
        """
        found = self.store.manifest.get("statistics", {}).get(self.store_sensor.id)
        chosen = list(self._bands) or slice(None)
        return found and {name: np.array(found[name], float)[chosen] for name in ("mean", "std")}

    @property
    def can_prefetch(self) -> bool:
        """Whether samples are read whole, so that requests to a network can start ahead."""
        return not (self._bands or self._cache)

    @property
    def stored_field(self) -> str:
        """The field of a batch that needs the least decoding: differences where the store has them.

        "pixels" where a batch shows other numbers than the store has: some of the bands, samples
        from memory, a dtype that other samples need.
        """
        if self._bands or self._cache or not self._has_one_dtype:
            return "pixels"
        return pixels_key(self.store.difference_bands(int(self.groups.members[0])))

    # ------------------------------------------------------------------------------------- drawing

    @property
    def locations(self) -> int:
        """The number of locations that are drawn."""
        return len(self.groups)

    def order(self) -> Order:
        """The location at each position."""
        return Order(self.locations, self.seed)

    def draw(self, location: int, rng: np.random.Generator) -> Draw:
        """Dates of a location, and a crop that fits into all of them."""
        samples = self.dates(location, rng)
        sides = self.store.index["shape"][samples, 1:].min(0).tolist()
        top, left = (int(rng.integers(0, side - self.crop + 1)) for side in sides)
        return Draw(samples, top, left, location)

    def dates(self, location: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [t], samples of a location in random order, repeated where it has fewer dates."""
        return np.resize(rng.permutation(self.groups.samples(location)), self.config.dates)

    # ------------------------------------------------------------------------------------ decoding

    def pixels_shape(self, rows: int) -> tuple[int, int, int, int, int]:
        """[b, t, c, h, w] of a batch."""
        return (rows, self.config.dates, len(self.sensor.bands), self.crop, self.crop)

    def new_batch(self, pixels: np.ndarray, field: str = "pixels") -> dict[str, np.ndarray]:
        """A batch of this source on `pixels` [b, t, c, h, w], whose rows `decode_into` fills.

        `field` is "pixels", or the `stored_field`.
        """
        rows, dates = pixels.shape[:2]
        return {
            **self._empty_label(rows),
            field: pixels,
            "time": np.full((rows, dates), TIME_ABSENT, np.int32),
            "lonlat": np.full((rows, 2), np.nan, np.float32),
            "position": np.empty(rows, np.int64),
        }

    def _empty_label(self, rows: int) -> dict[str, np.ndarray]:
        """{"label": zeros}, [b, t, h, w] of maps or [b, t, ...] of whole patches; {} without."""
        if not self.config.label:
            return {}
        about = self.store.manifest["labels"][self.config.label]
        shape = (self.crop, self.crop) if about["shape"] == "map" else tuple(about["shape"])
        return {"label": np.zeros((rows, self.config.dates, *shape), about["dtype"])}

    def decode_into(self, batch: dict[str, np.ndarray], row: int, t: int, draw: Draw) -> None:
        """Decodes date t of a draw into a row of a batch of this source. Raises RecordError."""
        i = int(draw.samples[t])
        rows = slice(draw.top, draw.top + self.crop)
        columns = slice(draw.left, draw.left + self.crop)
        if "pixels" in batch:
            self._read_into(i, batch["pixels"][row, t], rows, columns)
        else:
            out = batch[self.stored_field][row, t]
            self.store.read_differences_into(i, out, rows, columns)
        self.put_metadata(batch, row, t, i)
        if self.config.label:
            labels = self._cache.arrays(self.store, i)[1] if self._cache else self.store.labels(i)
            label = self.label(i, labels, self.config.label)
            batch["label"][row, t] = _crop_label(label, rows, columns)

    def _read_into(self, i: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        if self._cache:
            np.copyto(out, self._cache.arrays(self.store, i)[0][:, rows, columns])
        elif self._bands:
            out[:] = self.store.pixels(i, list(self._bands), rows, columns)
        else:
            self.store.read_into(i, out, rows, columns)

    def put_metadata(self, batch: dict[str, np.ndarray], row: int, t: int, i: int) -> None:
        """Writes time and lon-lat of sample i, where the index has them, into a batch."""
        index = self.store.index
        if index["time"][i] != NO_TIME:
            batch["time"][row, t] = index["time"][i]
        if not np.isnan(index["lonlat"][i]).any():
            batch["lonlat"][row] = index["lonlat"][i]

    def arrays(self, i: int) -> sample_cache.Arrays:
        """All pixels [c, h, w] of sample i in the bands that are read, and its labels.

        Raises RecordError.
        """
        if self._cache:
            return self._cache.arrays(self.store, i)
        return sample_cache.read_arrays(self.store, i, self._bands)

    def label(self, i: int, labels: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """A label of sample i; where it is split by pixel, 0 outside this source's split."""
        sample = f"sample {self.store.index['id'][i]}"
        if name not in labels:
            names = ", ".join(labels) or "none"
            raise ValueError(
                f"{sample}: no label {name!r}; it has {names}. Convert with --labels {name}"
            )
        array, split = labels[name], labels.get(f"{name}.split")
        if array.ndim != 2:
            return array
        sides = tuple(self.store.index["shape"][i, 1:].tolist())
        if array.shape != sides:
            raise ValueError(
                f"{sample}: label {name!r} is {array.shape}, its pixels are {sides}; convert it "
                "again"
            )
        if split is not None and self.config.split in PIXEL_SPLITS:
            array = np.where(split == PIXEL_SPLITS.index(self.config.split), array, 0)
        return array

    # ---------------------------------------------------------------------------------- evaluation

    def windows(self, label: str) -> Windows:
        """The non-overlapping crops of each sample, with the label of that name, "" for none."""
        samples = np.sort(self.groups.members)
        sides = self.store.index["shape"][samples, 1:]
        before = np.concatenate([[0], np.cumsum((sides // self.crop).prod(1))])

        def read(numbers: Iterable[int]) -> Iterator[Window]:
            decoded = None
            for number in numbers:
                at = int(np.searchsorted(before, number, side="right")) - 1
                i = int(samples[at])
                if i != decoded:
                    pixels, labels = self.arrays(i)
                    whole = self.label(i, labels, label) if label else None
                    decoded, crops = i, _crops(pixels.shape[1:], self.crop)
                rows, columns = crops[number - before[at]]
                part = None if whole is None else _crop_label(whole, rows, columns)
                yield i, pixels[:, rows, columns], part

        return Windows(int(before[-1]), read)

    def label_windows(self, label: str) -> Iterator[np.ndarray]:
        """The labels of `windows`, without reading pixels."""
        for i in np.sort(self.groups.members).tolist():
            whole = self.label(i, self.store.labels(i), label)
            for rows, columns in _crops(self.store.index["shape"][i, 1:].tolist(), self.crop):
                yield _crop_label(whole, rows, columns)


def _crop_label(label: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A crop of a map; the label of a whole patch is returned as it is."""
    return label[rows, columns] if label.ndim == 2 else label


def _crops(sides: tuple[int, int], crop: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the non-overlapping crops, centred in the patch."""
    rows, columns = (
        [slice(at, at + crop) for at in range(side % crop // 2, side - crop + 1, crop)]
        for side in sides
    )
    return [(row, column) for row in rows for column in columns]


def keep_common_locations(sources: Sequence[Source]) -> None:
    """Restricts a source and those paired with it to the locations they share, in one order.

    Raises ValueError where there is none.
    """
    if len(sources) > 1:
        groups = common_locations([(source.store, source.groups) for source in sources])
        for source, common in zip(sources, groups, strict=True):
            source.groups = common


def draw_together(
    sources: Sequence[Source], location: int, rng: np.random.Generator
) -> list[tuple[Source, Draw]]:
    """The draw of each source at a location.

    The first source decides on the crop; all draw their own dates, one after the other.
    """
    leader, *paired = sources
    draw = leader.draw(location, rng)
    return [
        (leader, draw),
        *((source, draw._replace(samples=source.dates(draw.location, rng))) for source in paired),
    ]
