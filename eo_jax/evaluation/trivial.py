"""The score of a prediction that looks at no image: what any row has to beat."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eo_jax.evaluation import metrics
from eo_jax.evaluation.task import Task


def score(task: Task, train: np.ndarray, test: np.ndarray, classes: tuple[int, ...]) -> float:
    """The headline of the most common class of the training split, of the rate of each label, of
    the mean of each number, or, for change, of calling every pixel changed.

    Args:
        train, test: targets [n], [n, k] or [n, H, W], as stored.
        classes: codes that count, or a number for each label or number.
    """
    mean = train.mean(0, dtype=np.float64)
    if task.kind == "regression":
        found = metrics.regression(
            np.broadcast_to(mean, test.shape), test, np.ones(len(test)), mean
        )
    elif task.kind == "multi_label":
        rates = np.broadcast_to(mean, test.shape)
        found = metrics.multi_label(rates, test > 0, np.ones(len(test)))
    else:
        seen, true = (_counts(part, classes) for part in (train, test))
        table = np.zeros((len(classes), len(classes)))
        table[:, -1 if task.kind == "change" else seen.argmax()] = true
        found = metrics.of_confusion(table)
        found |= metrics.of_change(table) if task.kind == "change" else {}
    return float(found[task.headline])


def _counts(target: np.ndarray, classes: Iterable[int]) -> np.ndarray:
    return np.array([np.count_nonzero(target == code) for code in classes])
