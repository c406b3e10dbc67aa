"""The classes that a supervised run predicts: maps beside the truth, confusion matrix, accuracy per
class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eo_jax.evaluators.supervised import class_accuracies
from eo_jax.report import class_maps, pictures
from eo_jax.report.class_maps import title
from eo_jax.report.html_page import data_uri

PICTURE_PX = 192  # least width of a picture in the file


@dataclass(frozen=True)
class Example:
    """One sample with the truth and the prediction.

    Attributes:
        title: heading.
        image: uint8 [h, w, 3].
        truth, predicted: classes [h, w]; the truth is 0 where unlabelled. One class as [1, 1] where
            the sample has one.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """What a supervised run predicts for a split.

    Attributes:
        split, label: that were predicted.
        names: {class: name}, of those that have one.
        counts: int64 [k, k], truth by prediction, classes 1 to k.
        examples: to be drawn.
    """

    split: str
    label: str
    names: Mapping[int, str]
    counts: np.ndarray
    examples: Sequence[Example]


def section(found: Predictions | None) -> dict[str, Any] | None:
    """What the template shows; None where no classes are predicted."""
    if found is None:
        return None
    present = np.flatnonzero(found.counts.sum(0) + found.counts.sum(1)) + 1
    palette = class_maps.colours([*range(1, len(found.counts) + 1)])
    shown = {value: palette[value] for value in present.tolist()}
    return {
        "split": found.split,
        "label": found.label,
        "maps": any(example.truth.size > 1 for example in found.examples),
        "samples": [_sample(example, palette, found.names) for example in found.examples],
        "legend": class_maps.legend(shown, found.names),
        "classes": [title(value, found.names) for value in shown],
        "rows": [_row(value, present, found) for value in shown],
    }


def _row(value: int, present: np.ndarray, found: Predictions) -> dict[str, Any]:
    """One class: its accuracy, and how often it was predicted as each class."""
    counts = found.counts[value - 1]
    accuracy, support = class_accuracies(found.counts)[value - 1], int(counts.sum())
    return {
        "name": title(value, found.names),
        "support": f"{support:,}",
        "accuracy": f"{accuracy:.1%}" if support else "–",
        "cells": [
            {
                "text": f"{counts[other - 1]:,}",
                "percent": round(100 * counts[other - 1] / max(support, 1)),
                "right": bool(other == value),
            }
            for other in present.tolist()
        ],
    }


def _sample(
    example: Example, palette: class_maps.Colours, names: Mapping[int, str]
) -> dict[str, Any]:
    sources = {"image": example.image}
    if example.truth.size > 1:
        sources["truth"] = class_maps.paint(example.truth, palette)
        sources["prediction"] = class_maps.paint(example.predicted, palette)
    return {
        "title": example.title,
        "pictures": [
            {"caption": name, "alt": f"{name} of {example.title}", "source": _source(rgb)}
            for name, rgb in sources.items()
        ],
        "facts": _facts(example, names),
    }


def _facts(example: Example, names: Mapping[int, str]) -> str:
    known = example.truth > 0
    if example.truth.size > 1:
        right = (example.truth == example.predicted)[known]
        return f"{right.mean():.1%} of {len(right):,} pixels right" if len(right) else "unlabelled"
    truth, predicted = int(example.truth.item()), int(example.predicted.item())
    if truth == predicted:
        return f"✓ {title(truth, names)}"
    return f"✗ {title(predicted, names)}, truth: {title(truth, names) if truth else 'unlabelled'}"


def _source(rgb: np.ndarray) -> str:
    return data_uri(pictures.png(rgb, max(1, PICTURE_PX // rgb.shape[1])))
