"""Rows on disk, and what they say: means, spreads and margins."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from eo_jax.data.store.files import write_atomically
from eo_jax.evaluation.few_label.methods import FLOOR, HEADLINE

_ROWS, _CSV = "few_label.json", "few_label.csv"
_COLUMNS = ("scene", "method", "kind", "split", "labels", "draw")
_SCORES = ("accuracy", "average_accuracy", "kappa")
_INTERVAL = 0.95

# scene, method, kind, split, labels, and for each score a list of one number per draw
Row = Mapping[str, Any]


class Rows:
    """The rows of a folder, by what decides them."""

    def __init__(self, folder: Path):
        self._folder = folder
        path = folder / _ROWS
        self.found: dict[str, Row] = json.loads(path.read_bytes()) if path.exists() else {}

    def __contains__(self, about: Mapping[str, Any]) -> bool:
        return _key(about) in self.found

    def add(self, about: Mapping[str, Any], row: Row) -> None:
        """Adds a row and writes the file."""
        self.found[_key(about)] = row
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / _ROWS, json.dumps(self.found, indent=1).encode())
        write_atomically(self._folder / _CSV, _csv(self.found.values()).encode())


def _key(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *_SCORES])
    for row in rows:
        for draw, values in enumerate(zip(*(row[name] for name in _SCORES), strict=True)):
            writer.writerow([*(row[name] for name in _COLUMNS[:-1]), draw, *values])
    return text.getvalue()


class Margin(NamedTuple):
    """How far the headline method is above the best floor, in points of overall accuracy.

    Attributes:
        floor: name of the floor with the highest mean.
        floor_mean, mean: means over the draws of the floor and of the headline method, in percent.
        difference, low, high: mean and 95 % t interval of the paired difference over the draws.
    """

    floor: str
    floor_mean: float
    mean: float
    difference: float
    low: float
    high: float


def margin(rows: Sequence[Row], split: str, labels: int) -> Margin | None:
    """The margin in the rows of one scene; None where the headline method or floors are missing."""
    cell = [row for row in rows if (row["split"], row["labels"]) == (split, labels)]
    floors = [row for row in cell if row["kind"] == FLOOR]
    headline = [row for row in cell if row["method"] == HEADLINE.name]
    if not (floors and headline):
        return None
    best = max(floors, key=lambda row: np.mean(row["accuracy"]))
    mine, its = (100 * np.asarray(row["accuracy"]) for row in (headline[0], best))
    paired = mine - its
    half = stats.t.ppf(0.5 + _INTERVAL / 2, len(paired) - 1) * stats.sem(paired)
    mean = paired.mean()
    return Margin(best["method"], its.mean(), mine.mean(), mean, mean - half, mean + half)
