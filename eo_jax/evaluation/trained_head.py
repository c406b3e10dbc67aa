"""A protocol for maps: a head trained on frozen dense features."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from eo_jax.evaluation import metrics
from eo_jax.evaluation.dense_heads import IGNORED, DenseHead, cross_entropy, enlarged
from eo_jax.evaluation.depths import ON_DEPTHS, Depths
from eo_jax.evaluation.features import Features, Featurizer
from eo_jax.evaluation.protocol import EvaluationProtocol
from eo_jax.evaluation.task import MAPS
from eo_jax.evaluation.training import Loop, Outputs, batches, fit, mean_error


@dataclasses.dataclass(frozen=True)
class TrainedHead(EvaluationProtocol):
    """A protocol for maps: a head trained by AdamW; of all validations, the best weights are kept.

    Attributes:
        head: class of the head; `several_depths` of it says that it takes features of `Depths`.
        epochs, batch: of training.
        lr, weight_decay: of AdamW.
        end_lr: at the end of a cosine schedule.
        drops: fractions of the steps at which the learning rate is divided by 10, in place of the
            cosine; () for the cosine.
        chosen_by: "loss", the least validation loss, or "miou", the best mIoU of the validation
            split.
        every: epochs between validations.
    """

    head: type[DenseHead]
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    end_lr: float = 0.0
    drops: tuple[float, ...] = ()
    chosen_by: str = "loss"
    every: int = 1

    kinds: ClassVar[tuple[str, ...]] = MAPS

    @property
    def needs_encoder(self) -> bool:
        """Where the head takes several depths."""
        return self.head.several_depths

    @property
    def title(self) -> str:
        """For tables."""
        at = " and ".join(f"{100 * part:g} %" for part in self.drops)
        schedule = f"divided by 10 at {at}" if at else "cosine"
        chosen = {"loss": "least validation loss", "miou": "best validation mIoU"}[self.chosen_by]
        depths = f" on {ON_DEPTHS}" if self.head.several_depths else ""
        return (
            f"{self.head.title}{depths}, AdamW, lr {self.lr:g} {schedule}, weight decay "
            f"{self.weight_decay:g}, {self.epochs} epochs, batch {self.batch}, {chosen}"
        )

    def seen(self, candidate: Featurizer) -> Featurizer:
        """The candidate as the head sees it."""
        return Depths(candidate) if self.head.several_depths else candidate

    def fit_maps(
        self, train: Features, val: Features, classes: int, patch: int, seed: int
    ) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
        """The predictor of the class [q, H, W] of features [q, h, w, d] and a size H, W.

        Args:
            train, val: `target` int [n, H, W], classes from 0, IGNORED elsewhere.
            patch: side in pixels of a feature.
        """
        loop = Loop(self.epochs, self.batch, self.every)
        head = self.head(train.x.shape[-1], classes, patch, rngs=nnx.Rngs(seed))
        optimizer = optax.adamw(
            self.schedule(loop.steps(len(train.x))), weight_decay=self.weight_decay
        )
        size = loop.of(len(train.x)).batch
        judges = {
            "loss": mean_error(_enlarged_error, val, size),
            "miou": functools.partial(_negative_miou, val, classes, size),
        }
        outputs = fit(head, _enlarged_error, optimizer, loop, train, judges[self.chosen_by], seed)

        def predict(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            return np.asarray(enlarged(outputs(x), size).argmax(-1))

        return predict

    def schedule(self, steps: int) -> optax.Schedule:
        """The learning rate at each of `steps`."""
        if self.drops:
            at = {int(part * steps): 0.1 for part in self.drops}
            return optax.piecewise_constant_schedule(self.lr, at)
        return optax.cosine_decay_schedule(self.lr, steps, self.end_lr / self.lr)


def _enlarged_error(outputs: Array, y: Array) -> Array:
    return cross_entropy(enlarged(outputs, y.shape[1:]), y)


def _negative_miou(val: Features, classes: int, size: int, outputs: Outputs) -> float:
    table = np.zeros((classes, classes))
    for x, y in batches(val, size, None):
        found = np.asarray(enlarged(outputs(x), y.shape[1:]).argmax(-1))
        counts = y != IGNORED
        table += metrics.confusion(y[counts], found[counts], classes)
    return -metrics.of_confusion(table)["miou"]
