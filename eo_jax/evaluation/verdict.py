"""From predictions to scores with intervals, by the kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eo_jax.evaluation import metrics
from eo_jax.evaluation.intervals import Estimate, Score, interval, resampled
from eo_jax.evaluation.task import Task


class Verdict(NamedTuple):
    """Scores of one candidate.

    Attributes:
        scores: {name: Estimate} of the whole.
        by_class: {name: [Estimate]}, one per class, label or target.
        draws: {name: float [200]}, the scores of the resamples.
    """

    scores: Mapping[str, Estimate]
    by_class: Mapping[str, Sequence[Estimate]]
    draws: Mapping[str, np.ndarray]


def of_classes(probabilities: np.ndarray, truth: np.ndarray, seed: int) -> Verdict:
    """The verdict on probabilities [n, k] for classes [n] from 0."""
    classes, predicted = probabilities.shape[1], probabilities.argmax(1)

    def score(weights: np.ndarray) -> dict[str, float | np.ndarray]:
        table = metrics.confusion(truth, predicted, classes, weights)
        error = metrics.calibration_error(probabilities, truth, weights)
        whole = metrics.of_confusion(table) | {"calibration_error": error}
        return whole | metrics.per_class(table)

    return _verdict(score, len(truth), seed)


def of_maps(tables: np.ndarray, task: Task, seed: int) -> Verdict:
    """The verdict on maps from the confusion matrix of each image [n, k, k], which is resampled."""

    def score(weights: np.ndarray) -> dict[str, float | np.ndarray]:
        table = np.einsum("n,nij->ij", weights, tables)
        found = metrics.of_confusion(table) | metrics.per_class(table)
        return found | metrics.of_change(table) if task.kind == "change" else found

    return _verdict(score, len(tables), seed)


def of_labels(scores: np.ndarray, truth: np.ndarray, seed: int) -> Verdict:
    """The verdict on several labels per sample, [n, k] each."""
    return _verdict(
        lambda weights: metrics.multi_label(scores, truth > 0, weights), len(truth), seed
    )


def of_numbers(
    predicted: np.ndarray, truth: np.ndarray, train_mean: np.ndarray, seed: int
) -> Verdict:
    """The verdict on numbers [n, k]."""
    return _verdict(
        lambda weights: metrics.regression(predicted, truth, weights, train_mean),
        len(truth),
        seed,
    )


def _verdict(score: Score, units: int, seed: int) -> Verdict:
    found = resampled(score, units, seed)
    whole = {name: one for name, one in found.items() if one.value.ndim == 0}
    by_class = {
        name: [interval(*pair) for pair in zip(one.value, one.draws.T, strict=True)]
        for name, one in found.items()
        if one.value.ndim
    }
    scores = {name: interval(*one) for name, one in whole.items()}
    return Verdict(scores, by_class, {name: one.draws for name, one in whole.items()})
