"""Moments of every band over the train split, and class counts of every label map.

Sums are kept as fractions, so the result does not depend on the order of shards, on workers or
interruptions. They are exact for integer pixels; for floats each sample adds its float64 sum.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np

from eo_jax.data import Store
from eo_jax.schema import Sample

MAX_CLASSES = 256
# All pixels of a scene whose labels are split by pixel may be used for training.
TRAINING = ("train", "pixel")


@dataclasses.dataclass
class BandSums:
    """Sums over the valid pixels of each band, as lists of length c; `pixels` is the number of
    valid and no-data pixels of one band.
    """

    pixels: int
    count: list[int]
    total: list[int | Fraction]
    squares: list[int | Fraction]
    minimum: list[float]
    maximum: list[float]

    @classmethod
    def of(cls, pixels: np.ndarray, missing: np.ndarray) -> BandSums:
        """The sums of one sample [c, h, w]; `missing`, bool [c, h, w], is True at no-data."""
        flat, gone = pixels.reshape(len(pixels), -1), missing.reshape(len(pixels), -1)
        if not gone.any() and _is_small(pixels) and flat.shape[1] <= _EXACT_PIXELS:
            return cls(flat.shape[1], *_integer_sums(flat))
        columns = [_sums(band[~holes]) for band, holes in zip(flat, gone, strict=True)]
        return cls(flat.shape[1], *(list(column) for column in zip(*columns, strict=True)))

    def add(self, other: BandSums) -> None:
        """Adds the sums of more pixels of the same bands."""
        self.pixels += other.pixels
        self.count = [a + b for a, b in zip(self.count, other.count, strict=True)]
        self.total = [a + b for a, b in zip(self.total, other.total, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]
        self.minimum = [min(a, b) for a, b in zip(self.minimum, other.minimum, strict=True)]
        self.maximum = [max(a, b) for a, b in zip(self.maximum, other.maximum, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "total": [str(f) for f in self.total],
            "squares": [str(f) for f in self.squares],
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BandSums:
        exact = {name: [Fraction(text) for text in fields[name]] for name in ("total", "squares")}
        return cls(**{**fields, **exact})

    def moments(self) -> dict[str, list]:
        """count, mean, std, min, max and nodata_share (keys of the manifest) of each band; None for
        a band without a valid pixel.
        """
        means = [
            Fraction(total) / n if n else None
            for total, n in zip(self.total, self.count, strict=True)
        ]
        columns = zip(self.squares, self.count, means, strict=True)
        variances = [
            None if mean is None else Fraction(squares) / n - mean**2
            for squares, n, mean in columns
        ]
        return {
            "count": self.count,
            "mean": [None if mean is None else float(mean) for mean in means],
            # Rounding of float sums can make a variance negative.
            "std": [
                None if variance is None else math.sqrt(max(variance, 0)) for variance in variances
            ],
            "min": [low if math.isfinite(low) else None for low in self.minimum],
            "max": [high if math.isfinite(high) else None for high in self.maximum],
            "nodata_share": [1 - n / self.pixels for n in self.count],
        }


# Float64 sums of squares of 16-bit integers are exact up to this number: 2^32 x 2^21 = 2^53.
_EXACT_PIXELS = 2**21
_BANDS_AT_ONCE = 8  # 8 bands of 128 x 128 pixels are 1 MB as float64, which fits into the cache


def _is_small(values: np.ndarray) -> bool:
    return values.dtype.kind in "bui" and values.itemsize <= 2


def _integer_sums(bands: np.ndarray) -> tuple[list, list, list, list, list]:
    """The `_sums` of small integer bands [c, n], several bands at a time, because this runs for
    every patch of an archive.
    """
    counts, totals, squares = [bands.shape[1]] * len(bands), [], []
    # Reused, because fresh pages would cost as much as the sums.
    buffer = np.empty((_BANDS_AT_ONCE, bands.shape[1]))
    for start in range(0, len(bands), _BANDS_AT_ONCE):
        part = bands[start : start + _BANDS_AT_ONCE]
        wide = buffer[: len(part)]
        np.copyto(wide, part)
        totals += map(int, np.add.reduce(wide, 1).tolist())
        squares += map(int, np.einsum("cn,cn->c", wide, wide).tolist())
    lowest, highest = (
        function(bands, 1).astype(float).tolist()
        for function in (np.minimum.reduce, np.maximum.reduce)
    )
    return counts, totals, squares, lowest, highest


def _sums(values: np.ndarray) -> tuple[int, int | Fraction, int | Fraction, float, float]:
    """Count, sum, sum of squares, minimum and maximum of values [n]; sums of small integers are
    plain integers, which are faster to add.
    """
    if not len(values):
        return 0, 0, 0, math.inf, -math.inf
    exact, step = (int, _EXACT_PIXELS) if _is_small(values) else (Fraction, len(values))
    total = squares = 0
    for start in range(0, len(values), step):
        part = values[start : start + step].astype(np.float64)
        total += exact(np.add.reduce(part).item())
        # Not np.dot: its threads cost more than they gain and change the last digit.
        squares += exact(np.einsum("n,n->", part, part).item())
    return len(values), total, squares, float(values.min()), float(values.max())


@dataclasses.dataclass
class Contents:
    """Band sums of the train split {sensor id: BandSums}, and label types and class counts of all
    splits {label: ...}.

    A type is (dtype, "map"), or (dtype, shape) for the label of a whole patch. `classes` is None
    for a label that is not of integers or has more than MAX_CLASSES values.
    """

    bands: dict[str, BandSums] = dataclasses.field(default_factory=dict)
    types: dict[str, list] = dataclasses.field(default_factory=dict)
    classes: dict[str, Counter[int] | None] = dataclasses.field(default_factory=dict)

    def add_sample(self, sample: Sample, split: str, missing: np.ndarray) -> None:
        """Adds one sample; `missing`, bool [c, h, w], is True at no-data."""
        labels = {name: _classes(np.asarray(label)) for name, label in sample.labels.items()}
        types = {name: _type(np.asarray(label), sample) for name, label in sample.labels.items()}
        bands = {sample.sensor: BandSums.of(sample.pixels, missing)} if split in TRAINING else {}
        self.add(Contents(bands, types, labels))

    def add(self, other: Contents) -> None:
        """Adds other contents. Raises ValueError where a label has two types."""
        for sensor, sums in other.bands.items():
            if sensor in self.bands:
                self.bands[sensor].add(sums)
            else:
                self.bands[sensor] = sums
        for name, kind in other.types.items():
            if self.types.setdefault(name, kind) != kind:
                one, two = (f"{dtype} {shape}" for dtype, shape in (self.types[name], kind))
                raise ValueError(
                    f"label {name!r} is {one} in some files, {two} in others; write it the same "
                    "way in all files"
                )
            self.classes[name] = _merge_counts(
                self.classes.get(name, Counter()), other.classes[name]
            )

    def to_json(self) -> dict[str, Any]:
        classes = {
            name: None if counts is None else list(counts.items())
            for name, counts in self.classes.items()
        }
        return {
            "bands": {sensor: sums.to_json() for sensor, sums in self.bands.items()},
            "types": self.types,
            "classes": classes,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Contents:
        bands = {sensor: BandSums.from_json(sums) for sensor, sums in fields["bands"].items()}
        classes = {
            name: None if counts is None else Counter(dict(map(tuple, counts)))
            for name, counts in fields["classes"].items()
        }
        return cls(bands, fields["types"], classes)

    def about(self) -> dict[str, Any]:
        """The manifest's `statistics` (train split only) and `labels` (all splits)."""
        labels = {
            name: {"dtype": dtype, "shape": shape, "values": _in_order(self.classes[name])}
            for name, (dtype, shape) in sorted(self.types.items())
        }
        return {
            "statistics": {sensor: sums.moments() for sensor, sums in sorted(self.bands.items())},
            "labels": labels,
        }


def raw_bytes(store: Store) -> int:
    """Bytes of the store's pixels, uncompressed."""
    widths = [np.dtype(str(name)).itemsize for name in store.index["dtype"]]
    return int(
        sum(
            math.prod(shape) * width
            for shape, width in zip(store.index["shape"].tolist(), widths, strict=True)
        )
    )


def stored_bytes(store: Store) -> int:
    """Bytes of the store's shards on disk."""
    return sum(
        file["bytes"]
        for shard in store.manifest["shards"]
        for file in [shard, *shard.get("pixels", [])]
    )


def _type(label: np.ndarray, sample: Sample) -> list:
    return [
        label.dtype.name,
        "map" if label.ndim == 2 and label.shape == sample.pixels.shape[1:] else list(label.shape),
    ]


def _classes(label: np.ndarray) -> Counter[int] | None:
    if label.dtype.kind not in "iu":
        return None
    values, counts = np.unique(label, return_counts=True)
    return (
        Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(values) <= MAX_CLASSES
        else None
    )


def _merge_counts(one: Counter[int] | None, other: Counter[int] | None) -> Counter[int] | None:
    if one is None or other is None:
        return None
    both = one + other
    return both if len(both) <= MAX_CLASSES else None


def _in_order(counts: Counter[int] | None) -> dict[str, int] | None:
    return None if counts is None else {str(value): counts[value] for value in sorted(counts)}
