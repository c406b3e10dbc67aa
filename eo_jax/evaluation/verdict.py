"""From predictions to scores with intervals, by the kind of task."""

from __future__ import annotations

import numpy as np

from eo_jax.evaluation import metrics
from eo_jax.evaluation.intervals import Estimate, estimates
from eo_jax.evaluation.task import Task


def of_classes(
    probabilities: np.ndarray, truth: np.ndarray, seed: int
) -> tuple[dict[str, Estimate], np.ndarray]:
    """(scores, confusion matrix [k, k]) of probabilities [n, k] for classes [n] from 0."""
    classes, predicted = probabilities.shape[1], probabilities.argmax(1)

    def score(weights: np.ndarray) -> dict[str, float]:
        table = metrics.confusion(truth, predicted, classes, weights)
        error = metrics.calibration_error(probabilities, truth, weights)
        return metrics.of_confusion(table) | {"calibration_error": error}

    return estimates(score, len(truth), seed), metrics.confusion(truth, predicted, classes)


def of_maps(tables: np.ndarray, task: Task, seed: int) -> dict[str, Estimate]:
    """Scores of maps from the confusion matrix of each image [n, k, k]; images are resampled."""

    def score(weights: np.ndarray) -> dict[str, float]:
        table = np.einsum("n,nij->ij", weights, tables)
        found = metrics.of_confusion(table)
        return found | metrics.of_change(table) if task.kind == "change" else found

    return estimates(score, len(tables), seed)


def of_labels(scores: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, Estimate]:
    """Scores of several labels per sample, [n, k] each."""
    return estimates(
        lambda weights: metrics.multi_label(scores, truth > 0, weights), len(truth), seed
    )


def of_numbers(
    predicted: np.ndarray, truth: np.ndarray, train_mean: np.ndarray, seed: int
) -> dict[str, Estimate]:
    """Scores of numbers [n, k]."""
    return estimates(
        lambda weights: metrics.regression(predicted, truth, weights, train_mean),
        len(truth),
        seed,
    )
