"""A linear classifier on frozen features, beside the same classifier on the untrained encoder."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_jax.evaluators.base import Context, Weights

_UNLABELLED = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Overall accuracy of a multinomial logistic regression, fitted on one split and scored on another.

    A label map [h, w] is probed token by token (dense features, the majority class of each token's labelled pixels); a label of the whole
    patch on pooled features. Label 0 means unlabelled. Where the test split has fewer than two classes nothing is scored, and `test_classes` alone
    is returned.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        label: name of the label in the store.
        train_split, test_split: where it is fitted and scored.
        max_samples: at most so many fitted on, evenly spaced in store order.
        regularisation: inverse strength C of an L2 penalty. 10 is next to none, as published probes have it (SGD without decay): features of
            trained encoders have few strong and many weak directions, and a penalty would hide what the weak ones hold.
    """

    every: int = 0
    label: str = "landuse"
    train_split: str = "train"
    test_split: str = "val"
    max_samples: int = 8000
    regularisation: float = 10.0


class Evaluator:
    """See Config. The untrained encoder is probed once and remembered."""

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context
        self._untrained: float | None = None

    def __call__(self, weights: Weights) -> dict[str, float]:
        test = self._features(weights, self.config.test_split)
        classes = len(np.unique(test[1]))
        if classes < 2:
            return {"test_classes": classes}  # a score on one class would say nothing, and a run should not end in an error for it
        if self._untrained is None:
            untrained = self.context.untrained()
            self._untrained = self._accuracy(untrained, *self._features(untrained, self.config.test_split))
        accuracy = self._accuracy(weights, *test)
        return {"accuracy": accuracy, "untrained_accuracy": self._untrained, "gain": accuracy - self._untrained, "test_classes": classes}

    def _accuracy(self, weights: Weights, test_x: np.ndarray, test_y: np.ndarray) -> float:
        x, y = self._features(weights, self.config.train_split)
        if len(np.unique(y)) < 2:
            raise ValueError(
                f"config.evals.linear_probe.label: {self.config.label!r} has fewer than two classes in split {self.config.train_split!r}; "
                f"choose another label or split"
            )
        spaced = np.unique(np.linspace(0, len(y) - 1, min(len(y), self.config.max_samples)).astype(int))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=self.config.regularisation, tol=1e-3, max_iter=1000))
        probe.fit(x[spaced], y[spaced])
        return float(probe.score(test_x, test_y))

    def _features(self, weights: Weights, split: str) -> tuple[np.ndarray, np.ndarray]:
        xs, ys = [], []
        for batch in self.context.batches(split, self.config.label):
            real = batch[self.context.source]["position"] >= 0
            features = self.context.features(weights, batch)
            x, y = _pair(features, batch[self.context.source]["label"], real)
            xs.append(x)
            ys.append(y)
        return np.concatenate(xs), np.concatenate(ys)


def _pair(features: dict[str, np.ndarray], label: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features [m, d], classes [m]) of the labelled tokens or patches of a batch."""
    if label.ndim == 1:
        x, y = features["pooled"], label
        keep = real & (y != _UNLABELLED)
    else:
        dense = features["dense"]
        x, y = dense.reshape(-1, dense.shape[-1]), token_majority(label, dense.shape[1:3]).ravel()
        keep = np.repeat(real, dense.shape[1] * dense.shape[2]) & (y != _UNLABELLED)
    return x[keep], y[keep]


def token_majority(label: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The commonest class among the labelled pixels of each token, [b, H, W] -> [b, h, w]; 0 where a token has none."""
    b, height, width = label.shape
    tokens = label.reshape(b, grid[0], height // grid[0], grid[1], width // grid[1]).transpose(0, 1, 3, 2, 4).reshape(b, *grid, -1)
    classes = np.unique(label)
    classes = classes[classes != _UNLABELLED]
    if not len(classes):
        return np.zeros((b, *grid), label.dtype)
    counts = np.stack([(tokens == code).sum(-1) for code in classes], axis=-1)
    return np.where(counts.max(-1) > 0, classes[counts.argmax(-1)], _UNLABELLED)
