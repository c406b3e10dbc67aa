"""One row of the table: an encoder or a floor, on a task, by a protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eo_jax.evaluation import metrics, trivial, verdict
from eo_jax.evaluation.dense_heads import IGNORED
from eo_jax.evaluation.features import Features, Featurizer, features_of
from eo_jax.evaluation.protocol import EvaluationProtocol, Labelled
from eo_jax.evaluation.reading import TaskData
from eo_jax.evaluation.task import MAPS, Task
from eo_jax.evaluation.tokens import token_majority
from eo_jax.evaluation.verdict import Verdict

_MOST_TOKENS = 10_000  # for fitting, drawn by the seed
_HELD_OUT = 0.2
_MOST_POINTS = 300  # of numbers, for a picture
_CODED = (*MAPS, "classification", "pixel")


class Row(NamedTuple):
    """The outcome.

    Attributes:
        verdict: scores with intervals, whole and by class.
        fitted, tested: number of samples, or tokens, that the protocol was fitted on; of test
            samples or images.
        classes: codes as stored, in the order of `confusion`; () for numbers and several labels.
        confusion: [k, k], true classes in rows; None without classes.
        shown: up to four (truth, prediction) maps [H, W] of codes.
        pairs: (truth, prediction) [n, d] of numbers, of the first test samples; None for classes.
        trivial: the headline of a prediction that looks at no image.
    """

    verdict: Verdict
    fitted: int
    tested: int
    classes: tuple[int, ...] = ()
    confusion: np.ndarray | None = None
    shown: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    pairs: tuple[np.ndarray, np.ndarray] | None = None
    trivial: float = np.nan


def judge(
    featurizer: Featurizer,
    data: TaskData,
    protocol: EvaluationProtocol,
    folder: Path,
    *,
    fraction: float = 1.0,
    seed: int = 0,
) -> Row:
    """Fits the protocol on training features, chooses on validation, scores on test features.

    Args:
        folder: where features are kept.
        fraction: of the training windows, drawn without replacement by `seed`.

    Raises ValueError where a split is missing or has nothing to learn from.
    """
    task = data.task
    shown = protocol.seen(featurizer)

    def split(name: str) -> Features:
        return features_of(shown, data, name, protocol.resize, folder)

    train, test = split(task.train), split(task.test)
    train, val = _divided(train, split(task.val) if task.val else None, fraction, seed)
    classes = _classes(task, train, val, test)
    row = _judged(data, protocol, (train, val, test), classes, featurizer, seed)
    return row._replace(trivial=trivial.score(task, train.target, test.target, classes))


def _judged(
    data: TaskData,
    protocol: EvaluationProtocol,
    parts: tuple[Features, Features, Features],
    classes: tuple[int, ...],
    featurizer: Featurizer,
    seed: int,
) -> Row:
    task, (train, val, test) = data.task, parts
    if hasattr(protocol, "fine_tune"):
        return _judge_tuned(task, protocol, parts, classes, featurizer, seed)
    if hasattr(protocol, "fit_maps"):
        return _judge_maps(task, protocol, parts, classes, featurizer.patch, seed)
    known, chosen = (_labelled(task, part, classes, seed) for part in (train, val))
    for name, part in ((task.train, known), (task.val or task.train, chosen)):
        if not len(part.x):
            raise ValueError(f"{data.store}: nothing in split {name!r} has label {task.label!r}")
    predict = protocol.fit(task.kind, known, chosen, len(classes), seed)
    return _scored(task, predict, test, classes, known, seed)


def _judge_maps(
    task: Task,
    protocol: Any,
    parts: tuple[Features, Features, Features],
    classes: tuple[int, ...],
    patch: int,
    seed: int,
) -> Row:
    """A row of a head that is trained on maps."""
    train, val = (part._replace(target=_numbered(part.target, classes)) for part in parts[:2])
    predict = protocol.fit_maps(train, val, len(classes), patch, seed)

    def guess(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return predict(x[None], size)[0]

    return _scored_maps(task, guess, parts[2], classes, len(train.x), seed)


def _judge_tuned(
    task: Task,
    protocol: Any,
    parts: tuple[Features, Features, Features],
    classes: tuple[int, ...],
    candidate: Any,
    seed: int,
) -> Row:
    """A row of an encoder that is trained further."""
    train, val, test = parts
    if task.kind == "regression":
        mean, std = train.target.mean(0), np.maximum(train.target.std(0), 1e-12)
        given = [part._replace(target=(part.target - mean) / std) for part in (train, val)]
    elif task.kind == "multi_label":
        given = [part._replace(target=part.target.astype(np.float32)) for part in (train, val)]
    else:
        given = [part._replace(target=_numbered(part.target, classes)) for part in (train, val)]
        if task.kind not in MAPS:
            given = [_part(part, np.flatnonzero(part.target != IGNORED)) for part in given]
    tune = protocol.fine_tune(candidate, task.kind, *given, len(classes), seed)
    fitted = len(given[0].x)
    if task.kind in MAPS:
        return _scored_maps(task, lambda x, size: tune(x[None])[0], test, classes, fitted, seed)

    def predict(x: np.ndarray) -> np.ndarray:
        found = np.concatenate([tune(x[i : i + 64]) for i in range(0, len(x), 64)])
        return found * std + mean if task.kind == "regression" else found

    known = Labelled(np.empty((fitted, 0)), np.asarray(train.target, np.float64))
    return _scored(task, predict, test, classes, known, seed)


def _numbered(target: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Classes from 0, IGNORED elsewhere."""
    return np.where(np.isin(target, classes), np.searchsorted(classes, target), IGNORED)


def _divided(
    train: Features, val: Features | None, fraction: float, seed: int
) -> tuple[Features, Features]:
    """(the part of `train` that is used, `val` or a fifth of that part)."""
    order = np.random.default_rng(seed).permutation(len(train.x))
    order = order[: max(2, round(fraction * len(order)))]
    if val is None:
        held = max(1, round(_HELD_OUT * len(order)))
        val, order = _part(train, order[:held]), order[held:]
    return _part(train, order), val


def _part(features: Features, numbers: np.ndarray) -> Features:
    numbers = np.sort(numbers)
    return Features(features.x[numbers], features.target[numbers])


def _classes(task: Task, *parts: Features) -> tuple[int, ...]:
    """The codes that occur and count; for others, the number of labels or values."""
    if task.kind not in _CODED:
        return tuple(range(parts[0].target.shape[1]))
    codes = np.unique(np.concatenate([np.unique(part.target) for part in parts]))
    return tuple(int(code) for code in codes if code not in (0, *task.ignored))


def _labelled(task: Task, part: Features, classes: tuple[int, ...], seed: int) -> Labelled:
    """Rows that a protocol takes: windows, or tokens with the majority of their labelled pixels."""
    x, target = part
    if task.kind not in _CODED:
        return Labelled(np.asarray(x), target.astype(np.float64))
    if task.kind in MAPS:
        counted = np.where(np.isin(target, classes), target, 0)
        target = token_majority(counted, x.shape[1:3]).ravel()
        x = np.asarray(x).reshape(-1, x.shape[-1])
    rows = np.flatnonzero(np.isin(target, classes))
    if len(rows) > _MOST_TOKENS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_TOKENS, replace=False))
    return Labelled(np.asarray(x[rows]), np.searchsorted(classes, target[rows]))


def _scored(
    task: Task, predict: Any, test: Features, classes: tuple[int, ...], known: Labelled, seed: int
) -> Row:
    if task.kind in MAPS:

        def guess(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            tokens = predict(x.reshape(-1, x.shape[-1])).argmax(1).reshape(x.shape[:2])
            return _enlarged(tokens, size)

        return _scored_maps(task, guess, test, classes, len(known.x), seed)
    truth = _labelled(task, test, classes, seed) if task.kind in _CODED else Labelled(*test)
    predicted = predict(truth.x)
    counts = len(known.x), len(truth.x)
    if task.kind == "multi_label":
        return Row(verdict.of_labels(predicted, truth.y, seed), *counts)
    if task.kind == "regression":
        mean = known.y.mean(0)
        found = verdict.of_numbers(predicted, truth.y, mean, seed)
        return Row(found, *counts, pairs=(truth.y[:_MOST_POINTS], predicted[:_MOST_POINTS]))
    found = verdict.of_classes(predicted, truth.y, seed)
    table = metrics.confusion(truth.y, predicted.argmax(1), len(classes))
    return Row(found, *counts, classes, table)


def _scored_maps(
    task: Task, predict: Any, test: Features, classes: tuple[int, ...], fitted: int, seed: int
) -> Row:
    """The row of `predict`, features [h, w, d] and a size -> classes [H, W] from 0."""
    tables, shown = np.zeros((len(test.x), len(classes), len(classes))), []
    for image, (x, truth) in enumerate(zip(*test, strict=True)):
        guess = predict(np.asarray(x), truth.shape)
        counts = np.isin(truth, classes)
        coded = np.searchsorted(classes, truth[counts])
        tables[image] = metrics.confusion(coded, guess[counts], len(classes))
        if len(shown) < 4 and counts.any():
            shown.append((truth, np.asarray(classes)[guess]))
    found = verdict.of_maps(tables, task, seed)
    return Row(found, fitted, len(test.x), classes, tables.sum(0), tuple(shown))


def _enlarged(tokens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of every pixel, that of the token in which its centre lies."""
    rows, columns = (
        ((np.arange(side) + 0.5) * count / side).astype(int)
        for side, count in zip(size, tokens.shape, strict=True)
    )
    return tokens[np.ix_(rows, columns)]
