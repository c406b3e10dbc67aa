"""Metrics over a whole test set. None is averaged over batches, which would depend on their size.

Every metric takes the weight of each unit (an image, or a sample), so that a bootstrap counts the
units that it has drawn. They equal scikit-learn's where it has them, with `sample_weight`.
"""

from __future__ import annotations

import numpy as np

_BINS = 15
_THRESHOLD = 0.5


def confusion(
    truth: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """[classes, classes] of codes from 0 [n]: true classes in rows, predicted in columns."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs, weights, classes**2).reshape(classes, classes)


def of_confusion(table: np.ndarray) -> dict[str, float]:
    """Scores of one label per pixel or sample, from a confusion matrix [k, k], maybe weighted.

    "accuracy" (overall, which is also micro F1), "average_accuracy" (mean recall of the classes in
    the truth), "kappa" (Cohen's), "macro_f1" and "miou" (means over the classes that occur in truth
    or prediction).
    """
    table = table.astype(np.float64)
    right, true, guessed, total = np.diag(table), table.sum(1), table.sum(0), table.sum()
    accuracy = right.sum() / total
    by_chance = (true * guessed).sum() / total**2
    present, occurs = true > 0, true + guessed > 0
    return {
        "accuracy": accuracy,
        "average_accuracy": (right[present] / true[present]).mean(),
        "kappa": (accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else np.nan,
        "macro_f1": (2 * right[occurs] / (true + guessed)[occurs]).mean(),
        "miou": iou(table)[occurs].mean(),
    }


def per_class(table: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [k] of each class of a confusion matrix [k, k], maybe weighted: "class_iou",
    "class_f1", "class_recall" (producer's accuracy) and "class_precision" (user's accuracy). NaN
    where a class does not occur, is never true, or is never predicted.
    """
    table = table.astype(np.float64)
    right, true, guessed = np.diag(table), table.sum(1), table.sum(0)
    return {
        "class_iou": iou(table),
        "class_f1": _ratio(2 * right, true + guessed),
        "class_recall": _ratio(right, true),
        "class_precision": _ratio(right, guessed),
    }


def of_change(table: np.ndarray) -> dict[str, float]:
    """ "f1", "precision" and "recall" of the second of two classes, the changed one."""
    right, guessed, true = table[1, 1], table[:, 1].sum(), table[1].sum()
    return {
        "f1": 2 * right / (guessed + true) if guessed + true else np.nan,
        "precision": right / guessed if guessed else np.nan,
        "recall": right / true if true else np.nan,
    }


def iou(table: np.ndarray) -> np.ndarray:
    """[k], intersection over union of each class of a confusion matrix; NaN if it never occurs."""
    right = np.diag(table).astype(np.float64)
    return _ratio(right, table.sum(0) + table.sum(1) - right)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole [k]; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """Expected calibration error in 15 bins (Guo et al. 2017, arXiv 1706.04599) of probabilities
    [n, k] for codes [n].
    """
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    difference = np.bincount(bins, weights * (right - sure), _BINS)
    return float(np.abs(difference).sum() / weights.sum())


def multi_label(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> dict[str, float | np.ndarray]:
    """Scores of several labels per sample: probabilities [n, k] and truth bool [n, k].

    "micro_map" takes all (sample, class) pairs as one problem; "macro_map" is the mean over classes
    with positives. F1 is at probability 0.5; a class that is neither true nor predicted is left out
    of "macro_f1". "class_average_precision" and "class_f1" are of each class [k].
    """
    labels = truth.shape[1]
    precision = np.array(
        [average_precision(scores[:, k], truth[:, k], weights) for k in range(labels)]
    )
    known = np.isfinite(precision)
    predicted = scores >= _THRESHOLD
    both = weights @ (predicted & truth)
    either = weights @ predicted + weights @ truth
    f1, occurs = _ratio(2 * both, either), either > 0
    return {
        "micro_map": average_precision(scores.ravel(), truth.ravel(), np.repeat(weights, labels)),
        "macro_map": precision[known].mean() if known.any() else np.nan,
        "micro_f1": 2 * both.sum() / either.sum() if occurs.any() else np.nan,
        "macro_f1": f1[occurs].mean() if occurs.any() else np.nan,
        "class_average_precision": precision,
        "class_f1": f1,
    }


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """Sum over thresholds of precision times the gain in recall; ties are one threshold.

    NaN without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], (weights * truth)[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found, seen = np.cumsum(positive)[ends], np.cumsum(weights[order])[ends]
    if not found[-1]:
        return np.nan
    precision = np.divide(found, seen, out=np.zeros(len(seen)), where=seen > 0)
    return float((np.diff(found, prepend=0) * precision).sum() / found[-1])


def regression(
    predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray, train_mean: np.ndarray
) -> dict[str, float | np.ndarray]:
    """Scores of numbers [n, d]: "rmse" and "r2", means over the d targets, and "normalised_mse",
    the mean over the targets of MSE / MSE of predicting the training mean [d] (Hyperview; lower is
    better, 1 is no skill). "target_rmse" and "target_r2" are of each target [d].
    """

    def mse(guess: np.ndarray) -> np.ndarray:
        return np.average(np.square(guess - truth), axis=0, weights=weights)

    error, mean = mse(predicted), np.average(truth, axis=0, weights=weights)
    rmse, r2 = np.sqrt(error), 1 - error / mse(mean)
    return {
        "rmse": rmse.mean(),
        "r2": r2.mean(),
        "normalised_mse": (error / mse(train_mean)).mean(),
        "target_rmse": rmse,
        "target_r2": r2,
    }
