"""A linear classifier on frozen features, compared with the same one on the untrained encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_jax.evaluators import labelled
from eo_jax.evaluators.base import Context, Weights
from eo_jax.evaluators.labelled import (
    check_labels_per_class,
    labelled_features,
    scores,
    training_part,
)
from eo_jax.monitor.metric import Card, Metric, Verdict

METRICS = {
    **labelled.METRICS,
    "untrained_accuracy": Metric("Overall accuracy of the untrained encoder"),
    "gain": Metric("Overall accuracy over the untrained encoder"),
}

_PER_CLASS = "config.evals.linear_probe.labels_per_class"


def cards(scores: Mapping[str, float]) -> list[Card]:
    """Its overall accuracy."""
    if "accuracy" not in scores:
        return [labelled.not_scored("Linear probe")]
    note = (
        f"untrained encoder {scores['untrained_accuracy']:.1%}, gain {100 * scores['gain']:+.1f} "
        "points"
    )
    return [Card("Linear probe", f"{scores['accuracy']:.1%}", note, *_verdict(scores))]


def _verdict(scores: Mapping[str, float]) -> tuple[Verdict, str]:
    """Compared with the untrained encoder, and with the most common class."""
    verdict, meaning = labelled.over_majority(scores)
    if verdict == "worse":
        return verdict, meaning
    if scores["gain"] > 0:
        return "better", "better than the same probe on the untrained encoder"
    return "worse", (
        "no better than the untrained encoder: training has not improved the features yet"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Overall and average accuracy and kappa of a multinomial logistic regression, fitted on one
    split and scored on another.

    A label map [h, w] is probed token by token (dense features, the majority class of each token's
    labelled pixels); a label of the whole patch on pooled features. Label 0 means unlabelled. Where
    the test split has fewer than two classes, only `test_classes` is returned.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        label: name of the label in the store.
        train_split, test_split: for fitting and scoring.
        max_samples: upper limit for fitting, evenly spaced in store order.
        labels_per_class: number of labelled samples per class for fitting, drawn by the run's seed;
            0 for all.
        regularisation: inverse strength C of an L2 penalty. 10 is almost no penalty, as in
            published probes (SGD without decay): features of trained encoders have few strong and
            many weak directions, and a penalty would hide the information in the weak ones.
    """

    every: int = 0
    label: str = "landuse"
    train_split: str = "train"
    test_split: str = "val"
    max_samples: int = 8000
    labels_per_class: int = 0
    regularisation: float = 10.0


class Evaluator:
    """See Config. The untrained encoder is probed once; its score is kept."""

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context
        self._untrained: float | None = None

    def check(self) -> None:
        """Raises ValueError where the store has no such split or label, or too few of a class."""
        config = self.config
        self.context.check("linear_probe", (config.train_split, config.test_split), config.label)
        check_labels_per_class(
            self.context, config.train_split, config.label, config.labels_per_class, _PER_CLASS
        )

    def __call__(self, weights: Weights) -> dict[str, float]:
        test = self._features_of(weights, self.config.test_split)
        classes = len(np.unique(test[1]))
        if classes < 2:  # a score on one class is meaningless, but no reason to end the run
            return {"test_classes": classes}
        if self._untrained is None:
            untrained = self.context.untrained()
            self._untrained = self._scores(
                untrained, *self._features_of(untrained, self.config.test_split)
            )["accuracy"]
        trained = self._scores(weights, *test)
        return {
            **trained,
            "untrained_accuracy": self._untrained,
            "gain": trained["accuracy"] - self._untrained,
            "test_classes": classes,
        }

    def _scores(self, weights: Weights, test_x: np.ndarray, test_y: np.ndarray) -> dict[str, float]:
        x, y = self._features_of(weights, self.config.train_split)
        if len(np.unique(y)) < 2:
            raise ValueError(
                f"config.evals.linear_probe.label: {self.config.label!r} has fewer than two "
                f"classes in split {self.config.train_split!r}; choose another label or split"
            )
        x, y = training_part(
            self.context,
            x,
            y,
            self.config.labels_per_class,
            _PER_CLASS,
        )
        spaced = np.unique(
            np.linspace(0, len(y) - 1, min(len(y), self.config.max_samples)).astype(int)
        )
        probe = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=self.config.regularisation, tol=1e-3, max_iter=1000),
        )
        probe.fit(x[spaced], y[spaced])
        return scores(probe.predict(test_x), test_y)

    def _features_of(self, weights: Weights, split: str) -> tuple[np.ndarray, np.ndarray]:
        return labelled_features(self.context, weights, split, self.config.label)
