"""What protocols are made of: nearest neighbours and linear models on frozen features."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, average_precision_score, r2_score

from eo_jax.evaluation.neighbours import nearest
from eo_jax.evaluation.protocol import EvaluationProtocol, Labelled, Predictor

_CLASSES = ("classification", "segmentation", "pixel", "change")
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Neighbours(EvaluationProtocol):
    """k nearest neighbours among training features, exact.

    Attributes:
        k: number of neighbours.
        cosine: whether features are divided by their length first; else L2 as they are.
        temperature: votes weigh exp(cosine / temperature); 0: all alike.
    """

    k: int
    cosine: bool
    temperature: float = 0.0

    @property
    def title(self) -> str:
        """For tables."""
        distance = "cosine" if self.cosine else "L2"
        votes = f"exp(cos/{self.temperature:g})" if self.temperature else "equal votes"
        return f"kNN, k={self.k}, {distance}, {votes}"

    def fit(self, kind: str, train: Labelled, val: Labelled, classes: int, seed: int) -> Predictor:
        """See `protocol.EvaluationProtocol`; there is nothing to choose on `val`."""
        x, y = self._placed(train.x), train.y
        if kind in _CLASSES:
            y = np.eye(classes)[y]

        def predict(queries: np.ndarray) -> np.ndarray:
            asked = self._placed(queries)
            distances, indices = nearest(x, asked, self.k)
            weights = np.ones_like(distances)
            if self.temperature:  # the cosine of unit vectors is 1 - distance^2 / 2
                weights = np.exp((-np.square(distances) / 2) / self.temperature)
            weights /= weights.sum(1, keepdims=True)
            return np.einsum("qn,qnk->qk", weights, y[indices].astype(np.float64))

        return predict

    def _placed(self, x: np.ndarray) -> np.ndarray:
        if not self.cosine:
            return x
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY)


@dataclasses.dataclass(frozen=True)
class Linear(EvaluationProtocol):
    """Logistic or ridge regression by L-BFGS, with the penalty that is best on validation features,
    then fitted on training and validation features together.

    The loss is the mean cross-entropy + |W|^2 / (2 C n) without a penalty on the bias, for each
    label of several alone; ridge regression has the same penalty on squared errors. Of equal
    scores the smallest C wins.

    Attributes:
        grid: values of C, ascending.
        iterations: of L-BFGS while choosing; twice that in the last fit.
    """

    grid: Sequence[float]
    iterations: int = 2000

    @property
    def title(self) -> str:
        """For tables."""
        return (
            f"linear, L-BFGS ({self.iterations} steps), C of {len(self.grid)} values "
            f"{self.grid[0]:g} to {self.grid[-1]:g} by validation, no standardisation"
        )

    def fit(self, kind: str, train: Labelled, val: Labelled, classes: int, seed: int) -> Predictor:
        """See `protocol.EvaluationProtocol`."""
        if kind in _CLASSES:
            return _classifier(self, train, val, classes)
        if kind == "multi_label":
            return _labeller(self, train, val)
        return _regressor(self, train, val)


def _classifier(linear: Linear, train: Labelled, val: Labelled, classes: int) -> Predictor:
    def score(model: LogisticRegression) -> float:
        return accuracy_score(val.y, model.predict(val.x))

    if len(np.unique(train.y)) < 2:
        raise ValueError(
            "the training split has fewer than two classes; take another label or split"
        )
    model = _best(linear, train, train.with_rows_of(val), score)

    def predict(x: np.ndarray) -> np.ndarray:
        found = np.zeros((len(x), classes))
        found[:, model.classes_] = model.predict_proba(x)
        return found

    return predict


def _labeller(linear: Linear, train: Labelled, val: Labelled) -> Predictor:
    """A model per label with one C for all; a label of one value is predicted by its rate."""
    best, chosen = -np.inf, linear.grid[0]
    models = [_path(linear, Labelled(train.x, train.y[:, k])) for k in range(train.y.shape[1])]
    for c in linear.grid:
        scores = np.stack([next(model)(val.x) for model in models], axis=1)
        found = average_precision_score(val.y > 0, scores, average="micro")
        if found > best:
            best, chosen = found, c
    known = train.with_rows_of(val)
    last = dataclasses.replace(linear, grid=(chosen,), iterations=2 * linear.iterations)
    final = [next(_path(last, Labelled(known.x, known.y[:, k]))) for k in range(known.y.shape[1])]
    return lambda x: np.stack([predict(x) for predict in final], axis=1)


def _path(linear: Linear, train: Labelled):
    """Yields the probability function of one label for every C of the grid, each fit starting from
    the one before.
    """
    values = np.unique(train.y)
    if len(values) < 2:
        for _ in linear.grid:
            yield lambda x, rate=float(values[0]): np.full(len(x), rate)
        return
    for model in _models(linear, train):
        yield lambda x, model=model: model.predict_proba(x)[:, 1]


def _models(linear: Linear, train: Labelled):
    """Yields the model fitted with every C of the grid, one object that is fitted further."""
    model = LogisticRegression(max_iter=linear.iterations, tol=1e-5, warm_start=True)
    for c in linear.grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the limit is the protocol's
            yield model.set_params(C=c).fit(train.x, train.y)


def _best(linear: Linear, train: Labelled, known: Labelled, score) -> LogisticRegression:
    best, chosen = -np.inf, linear.grid[0]
    for c, model in zip(linear.grid, _models(linear, train), strict=True):
        found = score(model)
        if found > best:
            best, chosen = found, c
    last = dataclasses.replace(linear, grid=(chosen,), iterations=2 * linear.iterations)
    return next(_models(last, known))


def _regressor(linear: Linear, train: Labelled, val: Labelled) -> Predictor:
    # By SVD: features of neighbouring bands are nearly collinear.
    fits = {c: Ridge(1 / c, solver="svd").fit(train.x, train.y) for c in linear.grid}
    scores = {c: r2_score(val.y, fit.predict(val.x)) for c, fit in fits.items()}
    chosen = max(scores, key=scores.get)  # the first of equal ones
    known = train.with_rows_of(val)
    return Ridge(1 / chosen, solver="svd").fit(known.x, known.y).predict
