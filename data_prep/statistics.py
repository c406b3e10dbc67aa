"""What a store holds, in exact numbers: moments of every band over the train split, and the classes of every label map.

Sums are kept as fractions, so the result depends on no order: not on shards, workers or interruptions. For integer pixels they are exact;
for floats each sample adds its float64 sum.
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
from eo_jax.sensors import get_sensor

MOST_CLASSES = 256


@dataclasses.dataclass
class BandSums:
    """Sums over the valid pixels of each band, lists of length c; `pixels` counts valid and no-data pixels of one band."""

    pixels: int
    count: list[int]
    total: list[Fraction]
    squares: list[Fraction]
    minimum: list[float]
    maximum: list[float]

    @classmethod
    def of(cls, pixels: np.ndarray, nodata: int) -> BandSums:
        """The sums of one sample [c, h, w]."""
        wide = np.int64 if pixels.dtype.kind in "iu" and pixels.itemsize <= 2 else np.float64
        columns = [_sums(band[band != nodata].astype(wide)) for band in pixels]
        return cls(pixels[0].size, *(list(column) for column in zip(*columns, strict=True)))

    def add(self, other: BandSums) -> None:
        """Adds the sums of more pixels of the same bands."""
        self.pixels += other.pixels
        self.count = [a + b for a, b in zip(self.count, other.count, strict=True)]
        self.total = [a + b for a, b in zip(self.total, other.total, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]
        self.minimum = [min(a, b) for a, b in zip(self.minimum, other.minimum, strict=True)]
        self.maximum = [max(a, b) for a, b in zip(self.maximum, other.maximum, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"total": [str(f) for f in self.total], "squares": [str(f) for f in self.squares]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BandSums:
        exact = {name: [Fraction(text) for text in fields[name]] for name in ("total", "squares")}
        return cls(**{**fields, **exact})

    def moments(self) -> dict[str, list]:
        """count, mean, std, min, max and nodata_share of each band; None for a band without a valid pixel."""
        means = [total / n if n else None for total, n in zip(self.total, self.count, strict=True)]
        columns = zip(self.squares, self.count, means, strict=True)
        variances = [None if mean is None else squares / n - mean**2 for squares, n, mean in columns]
        return {
            "count": self.count,
            "mean": [None if mean is None else float(mean) for mean in means],
            "std": [None if variance is None else math.sqrt(max(variance, 0)) for variance in variances],  # rounding of float sums only
            "min": [low if math.isfinite(low) else None for low in self.minimum],
            "max": [high if math.isfinite(high) else None for high in self.maximum],
            "nodata_share": [1 - n / self.pixels for n in self.count],
        }


def _sums(values: np.ndarray) -> tuple[int, Fraction, Fraction, float, float]:
    """Count, sum, sum of squares, minimum and maximum of int64 or float64 values [n]."""
    if not len(values):
        return 0, Fraction(0), Fraction(0), math.inf, -math.inf
    return len(values), Fraction(values.sum().item()), Fraction(np.square(values).sum().item()), float(values.min()), float(values.max())


@dataclasses.dataclass
class Contents:
    """Band sums of the train split {sensor id: BandSums}, and label dtypes and class counts of all splits {label: ...}.

    `classes` holds None for a label that is no integer map or has more than MOST_CLASSES values.
    """

    bands: dict[str, BandSums] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    classes: dict[str, Counter[int] | None] = dataclasses.field(default_factory=dict)

    def add_sample(self, sample: Sample, split: str) -> None:
        """Counts one sample in."""
        labels = {name: _classes(np.asarray(label)) for name, label in sample.labels.items()}
        dtypes = {name: np.asarray(label).dtype.name for name, label in sample.labels.items()}
        bands = {sample.sensor: BandSums.of(sample.pixels, get_sensor(sample.sensor).nodata)} if split == "train" else {}
        self.add(Contents(bands, dtypes, labels))

    def add(self, other: Contents) -> None:
        """Counts other contents in. Raises ValueError where one label has two dtypes."""
        for sensor, sums in other.bands.items():
            if sensor in self.bands:
                self.bands[sensor].add(sums)
            else:
                self.bands[sensor] = sums
        for name, dtype in other.dtypes.items():
            if self.dtypes.setdefault(name, dtype) != dtype:
                raise ValueError(f"label {name!r} is {self.dtypes[name]} in some files, {dtype} in others; write all its maps in one type")
            self.classes[name] = _merged(self.classes.get(name, Counter()), other.classes[name])

    def to_json(self) -> dict[str, Any]:
        classes = {name: None if counts is None else list(counts.items()) for name, counts in self.classes.items()}
        return {"bands": {sensor: sums.to_json() for sensor, sums in self.bands.items()}, "dtypes": self.dtypes, "classes": classes}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Contents:
        bands = {sensor: BandSums.from_json(sums) for sensor, sums in fields["bands"].items()}
        classes = {name: None if counts is None else Counter(dict(map(tuple, counts))) for name, counts in fields["classes"].items()}
        return cls(bands, fields["dtypes"], classes)

    def about(self) -> dict[str, Any]:
        """The manifest's `statistics` (train split only) and `labels` (all splits)."""
        labels = {name: {"dtype": dtype, "values": _in_order(self.classes[name])} for name, dtype in sorted(self.dtypes.items())}
        return {"statistics": {sensor: sums.moments() for sensor, sums in sorted(self.bands.items())}, "labels": labels}


def raw_bytes(store: Store) -> int:
    """Bytes of the store's pixels, uncompressed."""
    widths = [np.dtype(str(name)).itemsize for name in store.index["dtype"]]
    return int(sum(math.prod(shape) * width for shape, width in zip(store.index["shape"].tolist(), widths, strict=True)))


def _classes(label: np.ndarray) -> Counter[int] | None:
    if label.dtype.kind not in "iu":
        return None
    values, counts = np.unique(label, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True))) if len(values) <= MOST_CLASSES else None


def _merged(one: Counter[int] | None, other: Counter[int] | None) -> Counter[int] | None:
    if one is None or other is None:
        return None
    both = one + other
    return both if len(both) <= MOST_CLASSES else None


def _in_order(counts: Counter[int] | None) -> dict[str, int] | None:
    return None if counts is None else {str(value): counts[value] for value in sorted(counts)}
