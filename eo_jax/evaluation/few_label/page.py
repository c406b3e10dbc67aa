"""The page of the benchmark: tables, curves, the spread over draws, and maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from eo_jax.data.store.files import write_atomically
from eo_jax.evaluation.few_label import protocol
from eo_jax.evaluation.few_label.methods import (
    FINE_TUNED,
    FLOOR,
    FROM_SCRATCH,
    HEADLINE,
    METHODS,
    Method,
    Predictors,
)
from eo_jax.evaluation.few_label.results import Row, margin
from eo_jax.evaluation.few_label.scene import Scene
from eo_jax.report import class_maps, pictures
from eo_jax.report.html_page import data_uri, render

NAME = "few_label.html"
_MAP_LABELS = 10  # per class, of draw 0 of "blocks"
_MAP_SIDE = 240  # pixels of the page
# Methods whose maps and curves are drawn; tables have all.
_SHOWN = (
    Method("spectrum", "SVM", FLOOR),
    Method("mean spectrum", "SVM", FLOOR),
    Method("untrained, mean of similar", "logistic regression", FLOOR),
    FROM_SCRATCH,
    FINE_TUNED,
    HEADLINE,
)
_COLOURS = ("#999999", "#e69f00", "#56b4e9", "#cc79a7", pictures.GREEN, pictures.BLUE)
_DASHES = (":", "--", "-.", ":", "--", "-")


class Drawn(NamedTuple):
    """Pictures of a scene.

    Attributes:
        maps: [(title, PNG as a data URI)], truth first.
        legend: colour and text of each class.
    """

    maps: list[tuple[str, str]]
    legend: list[class_maps.Entry]


def drawn(scene: Scene, predictors: Predictors) -> Drawn:
    """The map of each method that is shown, fitted on the labels of one draw."""
    palette = class_maps.colours(scene.codes.tolist())
    zoom = max(1, _MAP_SIDE // max(scene.classes.shape))
    draw = protocol.draws(scene.classes, _MAP_LABELS, "blocks")[0]

    def picture(classes: np.ndarray) -> str:
        return data_uri(pictures.png(class_maps.paint(classes, palette), zoom))

    truth = [("labels", picture(scene.classes))]
    found = [
        (method.name, picture(predictors.of(method)(draw, 0).reshape(scene.classes.shape)))
        for method in _SHOWN
    ]
    return Drawn(truth + found, class_maps.legend(palette, scene.names))


def write(folder: Path, rows: Iterable[Row], scenes: dict[str, Drawn]) -> None:
    """Writes the page of all rows."""
    rows = list(rows)
    sections = {
        name: {
            "tables": [_table(_of(rows, name), split) for split in protocol.SPLITS],
            "curves": [_curves(_of(rows, name), name, split) for split in protocol.SPLITS],
            "spread": _spread(_of(rows, name), name),
            "drawn": scenes.get(name),
        }
        for name in sorted({row["scene"] for row in rows})
    }
    text = render(
        "eo_jax.evaluation.few_label",
        "few_label.html",
        title="Few labels",
        scenes=sections,
        headline=HEADLINE.name,
        protocol=protocol,
        map_labels=_MAP_LABELS,
    )
    write_atomically(folder / NAME, text.encode())


def _of(rows: Sequence[Row], scene: str) -> list[Row]:
    return [row for row in rows if row["scene"] == scene]


def _table(rows: Sequence[Row], split: str) -> dict[str, Any]:
    """Methods in rows and numbers of labels in columns: mean and spread over draws, in percent."""
    counts = sorted({row["labels"] for row in rows if row["split"] == split})
    cells = {
        (row["method"], row["labels"]): (
            100 * np.mean(row["accuracy"]),
            100 * np.std(row["accuracy"], ddof=1),
        )
        for row in rows
        if row["split"] == split
    }
    best = {
        (kind, count): max(
            (
                cells[row["method"], count][0]
                for row in rows
                if (row["split"], row["labels"], row["kind"]) == (split, count, kind)
            ),
            default=None,
        )
        for kind in {row["kind"] for row in rows}
        for count in counts
    }
    lines = [
        (method, [cells.get((method.name, count)) for count in counts])
        for method in METHODS
        if any((method.name, count) in cells for count in counts)
    ]
    margins = [margin(rows, split, count) for count in counts]
    return {"split": split, "counts": counts, "lines": lines, "best": best, "margins": margins}


def _curves(rows: Sequence[Row], scene: str, split: str) -> Markup:
    """Accuracy over the number of labels."""
    with mpl.rc_context(pictures.STYLE):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot(
            xlabel="labels per class", ylabel="overall accuracy, %", title=split
        )
        for method, colour, dash in zip(_SHOWN, _COLOURS, _DASHES, strict=True):
            points = sorted(
                (row["labels"], 100 * np.mean(row["accuracy"]))
                for row in rows
                if (row["method"], row["split"]) == (method.name, split)
            )
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    dash,
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=method.name,
                )
        axes.set_xscale("log")
        counts = sorted({row["labels"] for row in rows})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        if axes.lines:
            axes.legend(fontsize=7)
        return pictures.svg(figure, f"{scene}, {split}: accuracy over labels per class")


def _spread(rows: Sequence[Row], scene: str) -> Markup:
    """The accuracy of every draw with blocks, a line for each method, at the label count nearest
    to 5.
    """
    counts = {row["labels"] for row in rows if row["split"] == "blocks"}
    count = min(counts, key=lambda labels: abs(labels - 5), default=0)
    with mpl.rc_context(pictures.STYLE):
        figure = Figure(figsize=(5.2, 2.4), layout="constrained")
        axes = figure.add_subplot(
            xlabel="overall accuracy, %", title=f"every draw, blocks, {count} labels per class"
        )
        shown = [
            (method.name, row["accuracy"], colour)
            for method, colour in zip(_SHOWN, _COLOURS, strict=True)
            for row in rows
            if (row["method"], row["split"], row["labels"]) == (method.name, "blocks", count)
        ]
        for line, (_, values, colour) in enumerate(shown):
            percent = 100 * np.asarray(values)
            axes.plot(percent, np.full(len(percent), line), "o", color=colour, alpha=0.6, ms=4)
            axes.plot([percent.mean()], [line], "|", color=pictures.INK, ms=14)
        axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
        axes.margins(y=0.15)
        return pictures.svg(figure, f"{scene}: accuracy of every draw")
