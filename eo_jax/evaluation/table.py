"""The table of an evaluation: rows on disk, as CSV and as a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data.store.files import write_atomically
from eo_jax.evaluation import charts, page
from eo_jax.evaluation.compare import below_floor
from eo_jax.evaluation.row import Row
from eo_jax.report import class_maps
from eo_jax.report.html_page import data_uri
from eo_jax.report.pictures import png

_ROWS, _CSV, _PAGE = "rows.json", "table.csv", "table.html"
_COLUMNS = (
    "candidate",
    "task",
    "store",
    "protocol",
    "fraction",
    "seed",
    "fitted",
    "tested",
    "class",
    "score",
    "value",
    "low",
    "high",
    "trivial",
    "below_imagestats",
)
_SIDE = 192  # pixels of a map on the page, at least


class Table:
    """Rows by what they are of: those that exist are not judged again.

    Args:
        folder: of the evaluation.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        path = folder / _ROWS
        self.rows: dict[str, dict[str, Any]] = (
            json.loads(path.read_bytes()) if path.exists() else {}
        )

    def __contains__(self, about: Mapping[str, Any]) -> bool:
        return _key(about) in self.rows

    def add(self, about: Mapping[str, Any], names: Mapping[str, Any], row: Row) -> None:
        """Adds a row and writes rows.json and table.csv.

        Args:
            about: what decides the row: features, store, task, protocol, fraction and seed.
            names: for readers: "candidate", "task", "store", "split" (how the store was split),
                "content" (of the store), "protocol", "title" (of the protocol), "headline",
                "fraction", "seed" and "classes" {code: name}.
        """
        self.rows[_key(about)] = {**names, **_plain(row, names)}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / _ROWS, json.dumps(self.rows, indent=1).encode())
        write_atomically(self._folder / _CSV, _csv([*self.rows.values()]).encode())

    def write_page(self, baseline: str = "") -> Path:
        """Writes table.html, in which rows are compared with the candidate `baseline`, by default
        the cheapest floor; its path.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _PAGE
        write_atomically(path, page.render([*self.rows.values()], baseline).encode())
        return path


def _key(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def _plain(row: Row, names: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome in plain JSON types; `by_class` has a column per score, in the order of
    `codes`.
    """
    by_class = row.verdict.by_class
    known = names["classes"]
    codes = row.classes or range(len(next(iter(by_class.values()), ())))
    titles = [class_maps.title(code, known) for code in codes]
    palette = class_maps.colours(row.classes)
    return {
        "fitted": row.fitted,
        "tested": row.tested,
        "trivial": row.trivial,
        "scores": {name: list(estimate) for name, estimate in row.verdict.scores.items()},
        "by_class": {name: [list(one) for one in column] for name, column in by_class.items()},
        "draws": np.asarray(row.verdict.draws.get(names["headline"], ())).tolist(),
        "classes": titles,
        "confusion": None if row.confusion is None else row.confusion.tolist(),
        "maps": [_pictures(*maps, palette) for maps in row.shown],
        "legend": [entry._asdict() for entry in class_maps.legend(palette, known)],
        "points": "" if row.pairs is None else charts.predicted_and_true(*row.pairs, titles),
    }


def _pictures(truth: np.ndarray, guess: np.ndarray, palette: class_maps.Colours) -> tuple[str, str]:
    """Truth and prediction; unlabelled pixels are striped in both."""
    zoom = max(1, _SIDE // len(truth))
    shown = truth, np.where(truth == class_maps.UNLABELLED, class_maps.UNLABELLED, guess)
    truth_uri, guess_uri = (data_uri(png(class_maps.paint(one, palette), zoom)) for one in shown)
    return truth_uri, guess_uri


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        below = int(below_floor(row, rows))
        for of, score, (value, low, high) in _estimates(row):
            found = {"class": of, "score": score, "value": value, "low": low, "high": high}
            of_headline = (of, score) == ("", row["headline"])
            found["trivial"] = row["trivial"] if of_headline else ""
            writer.writerow({**row, **found, "below_imagestats": below})
    return text.getvalue()


def _estimates(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[float]]]:
    """(class, score, estimate); the class is "" for the whole."""
    for score, estimate in row["scores"].items():
        yield "", score, estimate
    for score, column in row["by_class"].items():
        for of, estimate in zip(row["classes"], column, strict=True):
            yield of, score, estimate
