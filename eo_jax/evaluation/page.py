"""The page of an evaluation: comparison, curves, and every row with its classes and pictures."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from eo_jax.evaluation import charts, compare
from eo_jax.evaluation.compare import Plain
from eo_jax.report.html_page import render as render_template


class Cell(NamedTuple):
    """A candidate on a task, over seeds.

    Attributes:
        value: of the headline, as text.
        interval: of it.
        best: whether none is better.
        below: whether it is below the statistics of the images.
        difference: from the baseline, as text; "" for itself and where test samples differ.
        meaning: "better" or "worse" where the interval of the difference leaves out 0.
    """

    value: str
    interval: str
    best: bool
    below: bool
    difference: str
    meaning: str


class Matrix(NamedTuple):
    """Candidates x tasks by one protocol; a cell is None where there is no row."""

    protocol: str
    baseline: str
    tasks: Sequence[Mapping[str, str]]
    rows: Mapping[str, Sequence[Cell | None]]


def render(rows: Sequence[Plain], baseline: str) -> str:
    """The HTML of all rows, see `table.Table.add`."""
    shown = [
        {
            **row,
            "below": compare.below_floor(row, rows),
            "name": _named(row, rows),
            "points": Markup(row["points"]),  # ours, see `charts`
        }
        for row in rows
    ]
    return render_template(
        "eo_jax.evaluation",
        "table.html",
        title="Evaluation",
        number=number,
        matrices=[_matrix(part, baseline) for part in _parts(shown, "title")],
        tasks=[_task(part) for part in _parts(shown, "name", "title")],
    )


def _parts(rows: Iterable[Plain], *names: str) -> list[list[Plain]]:
    """Rows that are alike in some fields, in the order in which they came."""
    found: dict[Hashable, list[Plain]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())


def _named(row: Plain, rows: Iterable[Plain]) -> str:
    """The task, with store and split where several stores have it."""
    if len({other["store"] for other in rows if other["task"] == row["task"]}) == 1:
        return row["task"]
    return f"{row['task']}, {row['store']}, split {row['split']}"


# ------------------------------------------------------------------ comparison


def _matrix(rows: Sequence[Plain], baseline: str) -> Matrix:
    baseline = compare.chosen_baseline(rows, baseline)
    columns = [_most_fitted(part) for part in _parts(rows, "name")]
    cells = [_column(column, baseline) for column in columns]
    candidates = dict.fromkeys(row["candidate"] for row in rows)
    tasks = [
        {
            "name": column[0]["name"],
            "headline": column[0]["headline"],
            "trivial": number(column[0]["trivial"]),
        }
        for column in columns
    ]
    by_candidate = {name: [column.get(name) for column in cells] for name in candidates}
    return Matrix(rows[0]["title"], baseline, tasks, by_candidate)


def _most_fitted(rows: Sequence[Plain]) -> list[Plain]:
    """The rows of the largest part of the training split."""
    most = max(row["fraction"] for row in rows)
    return [row for row in rows if row["fraction"] == most]


def _column(rows: Sequence[Plain], baseline: str) -> dict[str, Cell]:
    """{candidate: Cell} of one task."""
    by_candidate = {part[0]["candidate"]: part for part in _parts(rows, "candidate")}
    estimates = {name: compare.over_seeds(part) for name, part in by_candidate.items()}
    better = compare.sign(rows[0])
    best = max(better * estimate.value for estimate in estimates.values())
    cells = {}
    for name, estimate in estimates.items():
        text, meaning = "", ""
        if name != baseline and baseline in by_candidate:
            text, meaning = _difference(by_candidate[name], by_candidate[baseline])
        cells[name] = Cell(
            number(estimate.value),
            f"{number(estimate.low)} to {number(estimate.high)}",
            better * estimate.value == best,
            any(row["below"] for row in by_candidate[name]),
            text,
            meaning,
        )
    return cells


def _difference(rows: Sequence[Plain], baseline: Sequence[Plain]) -> tuple[str, str]:
    """(text, meaning) of `compare.difference`."""
    found = compare.difference(rows, baseline)
    if found is None:
        return "", ""
    text = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    if found.low <= 0 <= found.high:
        return text, ""
    return text, "better" if (found.value > 0) == (compare.sign(rows[0]) > 0) else "worse"


# ------------------------------------------------------------------ one task


def _task(rows: Sequence[Plain]) -> dict[str, Any]:
    """What the page shows of one task by one protocol."""
    first, parts = rows[0], _parts(rows, "fraction")
    tables = [
        sorted(part, key=lambda row: -compare.sign(row) * compare.headline(row)) for part in parts
    ]
    return {
        "name": first["name"],
        "protocol": first["title"],
        "headline": first["headline"],
        "curves": _curves(rows) if len(parts) > 1 else None,
        "several_seeds": len({row["seed"] for row in rows}) > 1,
        "tables": sorted(tables, key=lambda part: -part[0]["fraction"]),
    }


def _curves(rows: Sequence[Plain]) -> Markup:
    lines: dict[str, dict[float, Any]] = {}
    for part in _parts(rows, "candidate", "fraction"):
        points = lines.setdefault(part[0]["candidate"], {})
        points[part[0]["fraction"]] = compare.over_seeds(part)
    headline = rows[0]["headline"]
    label = f"{rows[0]['name']}: {headline} over the fraction of the training split"
    return charts.fraction_curves(lines, headline, label)


def number(value: float) -> str:
    """A score as text: three decimals, or four digits where it is large; a dash for NaN."""
    if value != value:
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
