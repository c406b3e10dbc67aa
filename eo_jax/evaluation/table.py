"""The table of an evaluation: rows on disk, CSV and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data.store.files import write_atomically
from eo_jax.evaluation.floors import FLOORS, IMAGE_STATISTICS
from eo_jax.evaluation.row import Row
from eo_jax.evaluation.task import LOWER_IS_BETTER
from eo_jax.report.html_page import data_uri, render
from eo_jax.report.pictures import png

_ROWS, _CSV, _PAGE = "rows.json", "table.csv", "table.html"
_COLUMNS = (
    "candidate",
    "task",
    "protocol",
    "fraction",
    "seed",
    "fitted",
    "tested",
    "score",
    "value",
    "low",
    "high",
    "below_imagestats",
)
# Okabe-Ito's colours and grey for classes; 0 is black.
_COLOURS = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (150, 150, 150),
    ],
    np.uint8,
)


class Table:
    """Rows by what they are of: those that exist are not judged again.

    Args:
        folder: of the evaluation; its table.csv and table.html are written with every row.
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
        """Adds a row and writes the table.

        Args:
            about: what decides the row: features, store, task, protocol, fraction and seed.
            names: "candidate", "task", "protocol", "title" (of the
                protocol), "headline", "fraction" and "seed", for readers.
        """
        plain = {
            **names,
            "fitted": row.fitted,
            "tested": row.tested,
            "scores": {name: list(estimate) for name, estimate in row.scores.items()},
            "classes": list(row.classes),
            "confusion": None if row.confusion is None else row.confusion.tolist(),
            "maps": [_picture(*maps) for maps in row.shown],
        }
        self.rows[_key(about)] = plain
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = list(self.rows.values())
        write_atomically(self._folder / _ROWS, json.dumps(self.rows, indent=1).encode())
        write_atomically(self._folder / _CSV, _csv(rows).encode())
        write_atomically(self._folder / _PAGE, _page(rows).encode())


def _key(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def below_floor(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an encoder's row is worse than the statistics of its images by the headline: a likely
    mistake in normalisation, bands or units.
    """
    if row["candidate"] in FLOORS:
        return False
    same = ("task", "protocol", "fraction", "seed")
    headline = row["headline"]
    for floor in rows:
        if floor["candidate"] == IMAGE_STATISTICS and all(
            floor[name] == row[name] for name in same
        ):
            mine, its = (of["scores"][headline][0] for of in (row, floor))
            return mine > its if headline in LOWER_IS_BETTER else mine < its
    return False


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for score, (value, low, high) in row["scores"].items():
            found = {"score": score, "value": value, "low": low, "high": high}
            below = below_floor(row, rows)
            writer.writerow({**row, **found, "below_imagestats": int(below)})
    return text.getvalue()


def _page(rows: Sequence[Mapping[str, Any]]) -> str:
    tasks: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        shown = {**row, "below": below_floor(row, rows)}
        tasks.setdefault((row["task"], row["title"], row["fraction"]), []).append(shown)
    for group in tasks.values():
        headline = group[0]["headline"]
        sign = 1 if headline in LOWER_IS_BETTER else -1
        group.sort(key=lambda row: sign * row["scores"][row["headline"]][0])
    return render("eo_jax.evaluation", "table.html", title="Evaluation", tasks=tasks)


def _picture(truth: np.ndarray, guess: np.ndarray) -> str:
    """Truth and prediction side by side; unlabelled pixels are black in both."""
    gap = np.full((len(truth), 4), -1)
    both = np.concatenate([truth, gap, np.where(truth == 0, 0, guess)], axis=1).astype(int)
    rgb = _COLOURS[np.where(both > 0, 1 + (both - 1) % (len(_COLOURS) - 1), 0)]
    rgb[both < 0] = 255
    return data_uri(png(rgb, zoom=max(1, 192 // len(truth))))
