"""Features with their classes, and scores of predicted classes, for evaluators with labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import cohen_kappa_score

from eo_jax.data.pixel_source import sample_per_class
from eo_jax.evaluation.tokens import UNLABELLED, token_majority
from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.metric import Card, Metric, Verdict

# The scores of `scores`, and the number of classes that they cover.
METRICS = {
    "accuracy": Metric("Overall accuracy"),
    "average_accuracy": Metric("Average accuracy"),
    "kappa": Metric("Cohen's kappa"),
    "majority_accuracy": Metric("Overall accuracy of the most common class"),
    "test_classes": Metric("Classes in the test split"),
}


def labelled_features(
    context: Context, weights: Weights, split: str, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """(features [m, d], classes [m]) of everything that is labelled in a split.

    A label map [h, w] gives one row per token: its dense feature, and the most common class of its
    labelled pixels. A label of the whole patch, or the class of a window's centre, goes with pooled
    features. Label 0 means unlabelled.
    """
    xs, ys = [], []
    for batch in context.batches(split, label):
        real = batch[context.source]["position"] >= 0
        x, y = _pair(context.features(weights, batch), batch[context.source]["label"], real)
        xs.append(x)
        ys.append(y)
    return np.concatenate(xs), np.concatenate(ys)


def training_part(
    context: Context, x: np.ndarray, y: np.ndarray, labels_per_class: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The part of (features [m, d], classes [m]) that a classifier is fitted on: `labels_per_class`
    of each class, drawn by the run's seed; 0 means all.

    For pixels, these are the ones that a source with the same `labels_per_class` trains on. Raises
    ValueError, beginning with `where`, for a class that has fewer.
    """
    if not labels_per_class:
        return x, y
    chosen = sample_per_class(y, labels_per_class, context.seed, where).ravel()
    return x[chosen], y[chosen]


def check_labels_per_class(
    context: Context, split: str, label: str, labels_per_class: int, where: str
) -> None:
    """Raises ValueError, beginning with `where`, for a class with fewer labels than will be drawn:
    before the run, not at its end. Reads the labels of the split, or nothing where all are used.
    """
    if labels_per_class:
        grid = context.grid
        windows = context.label_windows(split, label)
        classes = np.concatenate([_classes(window, grid) for window in windows])
        used = classes[classes != UNLABELLED]
        sample_per_class(used, labels_per_class, context.seed, where)


def _classes(window: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """[m], the class of each token of a map, or of a patch."""
    if window.ndim == 0:
        return window[None]
    return token_majority(window[None], grid).ravel()


def _pair(
    features: dict[str, np.ndarray], label: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(features [m, d], classes [m]) of the labelled tokens or patches of a batch."""
    if label.ndim == 1:
        x, y = features["pooled"], label
        keep = real & (y != UNLABELLED)
    else:
        dense = features["dense"]
        x, y = dense.reshape(-1, dense.shape[-1]), token_majority(label, dense.shape[1:3]).ravel()
        keep = np.repeat(real, dense.shape[1] * dense.shape[2]) & (y != UNLABELLED)
    return x[keep], y[keep]


def over_majority(scores: Mapping[str, float]) -> tuple[Verdict, str]:
    """Whether an overall accuracy is above that of always answering the most common class, and what
    this means; ("", "") for scores of runs that did not log it.
    """
    if "majority_accuracy" not in scores:
        return "", ""
    if scores["accuracy"] > scores["majority_accuracy"]:
        return "better", "better than always answering the most common class"
    return "worse", (
        "no better than always answering the most common class: the classes are not told apart yet"
    )


def not_scored(label: str) -> Card:
    """The card of a classifier whose test split has fewer than two classes."""
    note = "the held-out patches have fewer than two classes; hold out more of them"
    return Card(label, "not scored", note)


def scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The scores of classes [q] that papers on hyperspectral scenes report.

    "accuracy" is the overall one, "average_accuracy" the mean over the classes of the fraction that
    is right, "kappa" Cohen's, "majority_accuracy" that of always answering the most common class.
    """
    right = predicted == truth
    return {
        "accuracy": float(right.mean()),
        "average_accuracy": float(
            np.mean([right[truth == code].mean() for code in np.unique(truth)])
        ),
        "kappa": float(cohen_kappa_score(truth, predicted)),
        "majority_accuracy": float(np.unique(truth, return_counts=True)[1].max() / len(truth)),
    }
