"""The classes that a supervised objective predicts itself, compared with the labels of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from eo_jax.evaluators import labelled
from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.metric import Card
from eo_jax.schema import Batch

METRICS = labelled.METRICS


def cards(scores: Mapping[str, float]) -> list[Card]:
    """Its overall accuracy, compared with that of one answer for everything."""
    if "accuracy" not in scores:
        return [labelled.not_scored("Classifier")]
    note = f"average accuracy {scores['average_accuracy']:.1%}, kappa {scores['kappa']:.3f}"
    verdict = labelled.over_majority(scores)
    return [Card("Classifier", f"{scores['accuracy']:.1%}", note, *verdict)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Overall and average accuracy and kappa of the classes that the objective's own classifier
    predicts. Label 0 means unlabelled.

    A label map is scored pixel by pixel for segmentation, each with the prediction of the cell that
    contains it, and by its centre for classification.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        label: name of the label in the store; "" for the one that the source trains on.
        test_split: that is scored.
    """

    every: int = 0
    label: str = ""
    test_split: str = "val"


class Evaluator:
    """See Config. Needs an objective whose preview has logits: supervised, with a task of
    classes.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def check(self) -> None:
        """Raises ValueError where the store has no such split or label, or the objective predicts
        no classes.
        """
        self.context.check("supervised", (self.config.test_split,), self._label)
        if "logits" not in self.context.preview_names:
            raise ValueError(
                "config.evals.supervised: the objective predicts no classes; use the objective "
                "supervised with task 'classification' or 'segmentation', or the evaluators knn "
                "and linear_probe"
            )

    def __call__(self, weights: Weights) -> dict[str, float]:
        counts = confusion(predictions(self.context, weights, self.config.test_split, self._label))
        return scores(counts)

    @property
    def _label(self) -> str:
        return self.config.label or self.context.data.sources[self.context.source].label


class Predicted(NamedTuple):
    """The classes of the rows of a batch that are not padding.

    Attributes:
        batch: that they are of.
        rows: int [r], the rows.
        classes, truth: int64 [r], or [r, H, W] where every pixel has a class; truth is 0 where
            unlabelled.
        outputs: number k of classes that can be predicted, 1 to k.
    """

    batch: Batch
    rows: np.ndarray
    classes: np.ndarray
    truth: np.ndarray
    outputs: int


def predictions(context: Context, weights: Weights, split: str, label: str) -> Iterator[Predicted]:
    """The predicted and the true classes of a split, batch by batch."""
    for batch in context.batches(split, label):
        fields = batch[context.source]
        rows = np.flatnonzero(fields["position"] >= 0)
        logits = context.preview(weights, batch, 0)["logits"]
        classes, truth = 1 + logits.argmax(-1)[rows], fields["label"][rows].astype(np.int64)
        if classes.ndim > 1:
            classes = to_pixels(classes, truth.shape[1:])
        else:
            truth = _centre(truth)
        yield Predicted(batch, rows, classes, truth, logits.shape[-1])


def to_pixels(classes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Classes of cells [r, h, w] as those of the pixels in them, [r, H, W]."""
    row, column = (
        np.arange(pixels) * cells // pixels
        for pixels, cells in zip(size, classes.shape[1:], strict=True)
    )
    return classes[:, row[:, None], column]


def _centre(truth: np.ndarray) -> np.ndarray:
    return truth if truth.ndim == 1 else truth[:, truth.shape[1] // 2, truth.shape[2] // 2]


def confusion(predicted: Iterator[Predicted]) -> np.ndarray:
    """int64 [k, k]: how often class i + 1 was predicted as class j + 1, over all labelled
    entries.
    """
    return sum(map(counts_of, predicted))


def counts_of(part: Predicted) -> np.ndarray:
    """int64 [k, k], the confusion matrix of some predictions: truth by prediction."""
    known, k = part.truth > 0, part.outputs
    code = (part.truth[known] - 1) * k + part.classes[known] - 1
    return np.bincount(code, minlength=k * k).reshape(k, k)


def scores(counts: np.ndarray) -> dict[str, float]:
    """The scores of a confusion matrix [k, k]; only `test_classes` for fewer than two classes."""
    support, answered, total = counts.sum(1), counts.sum(0), counts.sum()
    present = support > 0
    if present.sum() < 2:
        return {"test_classes": int(present.sum())}
    accuracy = counts.trace() / total
    chance = float(support @ answered) / float(total) ** 2
    return {
        "accuracy": float(accuracy),
        "average_accuracy": float(class_accuracies(counts)[present].mean()),
        "kappa": float((accuracy - chance) / (1 - chance)) if chance < 1 else 0.0,
        "majority_accuracy": float(support.max() / total),
        "test_classes": int(present.sum()),
    }


def class_accuracies(counts: np.ndarray) -> np.ndarray:
    """float64 [k]: the fraction of each class that is right; NaN for a class that is absent."""
    support = counts.sum(1)
    return np.where(support > 0, counts.diagonal() / np.maximum(support, 1), np.nan)
