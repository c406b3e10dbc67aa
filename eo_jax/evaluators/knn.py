"""A nearest-neighbour classifier on frozen features: without training, so cheap enough to monitor a
run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from sklearn.neighbors import NearestNeighbors

from eo_jax.evaluators import labelled
from eo_jax.evaluators.base import Context, Weights
from eo_jax.evaluators.labelled import (
    check_labels_per_class,
    labelled_features,
    scores,
    training_part,
)
from eo_jax.monitor.metric import Card

METRICS = labelled.METRICS

_PER_CLASS = "config.evals.knn.labels_per_class"


def cards(scores: Mapping[str, float]) -> list[Card]:
    """Its overall accuracy."""
    if "accuracy" not in scores:
        return [labelled.not_scored("Nearest neighbours")]
    note = f"average accuracy {scores['average_accuracy']:.1%}, kappa {scores['kappa']:.3f}"
    return [
        Card(
            "Nearest neighbours", f"{scores['accuracy']:.1%}", note, *labelled.over_majority(scores)
        )
    ]


@dataclasses.dataclass(frozen=True)
class Config:
    """Accuracy and kappa of weighted k nearest neighbours by cosine similarity (Wu et al. 2018;
    DINO): votes have weight exp(similarity / temperature).

    Label 0 means unlabelled. Where the test split has fewer than two classes, only `test_classes`
    is returned.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        label: name of the label in the store.
        train_split, test_split: where neighbours and queries come from.
        neighbours: number k.
        temperature: of the votes.
        max_samples: upper limit per split, evenly spaced in store order.
        labels_per_class: number of labelled neighbours per class, drawn by the run's seed; 0 for
            all.
    """

    every: int = 0
    label: str = "landuse"
    train_split: str = "train"
    test_split: str = "val"
    neighbours: int = 20
    temperature: float = 0.07
    max_samples: int = 20_000
    labels_per_class: int = 0


class Evaluator:
    """See Config."""

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def check(self) -> None:
        """Raises ValueError where the store has no such split or label, or too few of a class."""
        config = self.config
        self.context.check("knn", (config.train_split, config.test_split), config.label)
        check_labels_per_class(
            self.context, config.train_split, config.label, config.labels_per_class, _PER_CLASS
        )

    def __call__(self, weights: Weights) -> dict[str, float]:
        test_x, test_y = self._spaced(
            *labelled_features(self.context, weights, self.config.test_split, self.config.label)
        )
        classes = len(np.unique(test_y))
        if classes < 2:
            return {"test_classes": classes}
        x, y = labelled_features(self.context, weights, self.config.train_split, self.config.label)
        x, y = self._spaced(
            *training_part(
                self.context,
                x,
                y,
                self.config.labels_per_class,
                _PER_CLASS,
            )
        )
        return {**scores(self.predict(x, y, test_x), test_y), "test_classes": classes}

    def predict(self, x: np.ndarray, y: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """The class of each query [q, d] by the neighbours among x [m, d] of classes y [m]."""
        index = NearestNeighbors(
            n_neighbors=min(self.config.neighbours, len(x)), algorithm="brute"
        ).fit(_unit(x))
        distance, nearest = index.kneighbors(_unit(queries))
        # The cosine of unit vectors is 1 - distance^2 / 2.
        votes = np.exp((1 - np.square(distance) / 2) / self.config.temperature)
        classes, code = np.unique(y, return_inverse=True)
        total = np.stack(
            [(votes * (code[nearest] == k)).sum(1) for k in range(len(classes))], axis=1
        )
        return classes[total.argmax(1)]

    def _spaced(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spaced = np.unique(
            np.linspace(0, len(y) - 1, min(len(y), self.config.max_samples)).astype(int)
        )
        return x[spaced], y[spaced]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
