"""A protocol for pooled features: a head trained on them by AdamW, as SpectralEarth does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.evaluation.features import Features
from eo_jax.evaluation.protocol import EvaluationProtocol, Labelled, Predictor
from eo_jax.evaluation.training import Loop, fit, mean_error

_TINY = 1e-12


class LinearLayer(nnx.Module):
    """A linear layer."""

    title: ClassVar[str] = "linear layer"
    kinds: ClassVar[tuple[str, ...]] = ("classification", "pixel", "multi_label")

    def __init__(self, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.last = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b k"]:
        return self.last(x)


class Perceptron(nnx.Module):
    """SpectralEarth's head for numbers: BatchNorm, hidden layers of 2048 and 1024 with ReLU and
    dropout 0.2, a linear layer.
    """

    title: ClassVar[str] = "BatchNorm and MLP of 2048 and 1024"
    kinds: ClassVar[tuple[str, ...]] = ("regression",)

    def __init__(self, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.first = nnx.Linear(width, 2048, rngs=rngs)
        self.second = nnx.Linear(2048, 1024, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(1024, outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b k"]:
        x = self.norm(x, use_running_average=not train)
        for layer in (self.first, self.second):
            x = self.dropout(jax.nn.relu(layer(x)), deterministic=not train)
        return self.last(x)


@dataclasses.dataclass(frozen=True)
class TrainedVectorHead(EvaluationProtocol):
    """A head trained by AdamW with a cosine schedule; the epoch with the least validation loss is
    kept. The loss is cross-entropy of classes, binary cross-entropy of labels, and the mean square
    of numbers that training mean and deviation standardise, which is their normalised MSE.

    Attributes:
        head: class of the head, which says for which kinds of tasks it is.
        epochs, batch: of training.
        lr, weight_decay: of AdamW.
        patience: epochs without a better validation loss that end training; 0 for none.
    """

    head: type[LinearLayer] | type[Perceptron]
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    patience: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `protocol.EvaluationProtocol`."""
        return self.head.kinds

    @property
    def title(self) -> str:
        """For tables."""
        stop = f" or {self.patience} without a better one" if self.patience else ""
        return (
            f"{self.head.title}, AdamW, lr {self.lr:g} cosine, weight decay "
            f"{self.weight_decay:g}, {self.epochs} epochs{stop}, batch {self.batch}, least "
            "validation loss, no augmentation"
        )

    def fit(self, kind: str, train: Labelled, val: Labelled, classes: int, seed: int) -> Predictor:
        """See `protocol.EvaluationProtocol`."""
        mean, std = 0.0, 1.0
        if kind == "regression":
            mean, std = train.y.mean(0), np.maximum(train.y.std(0), _TINY)
        given = [Features(part.x, (part.y - mean) / std) for part in (train, val)]
        if kind not in ("regression", "multi_label"):
            given = [Features(*part) for part in (train, val)]
        loop = Loop(self.epochs, self.batch, patience=self.patience)
        schedule = optax.cosine_decay_schedule(self.lr, loop.steps(len(train.x)))
        optimizer = optax.adamw(schedule, weight_decay=self.weight_decay)
        head = self.head(train.x.shape[1], classes, rngs=nnx.Rngs(seed))
        error = error_of(kind)
        judge = mean_error(error, given[1], self.batch)
        outputs = fit(head, error, optimizer, loop, given[0], judge, seed)
        answer = ANSWERS.get(kind, jax.nn.softmax)

        def predict(x: np.ndarray) -> np.ndarray:
            found = np.asarray(answer(outputs(x)), np.float64)
            return found * std + mean

        return predict


# {kind: what turns outputs into predictions}; softmax for all others
ANSWERS: dict[str, Callable[[Array], Array]] = {
    "multi_label": jax.nn.sigmoid,
    "regression": lambda outputs: outputs,
}


def error_of(kind: str) -> Callable[[Array, Array], Array]:
    """The mean loss of outputs [b, k] and targets: classes [b], or [b, k]."""
    if kind == "multi_label":
        return lambda outputs, y: optax.sigmoid_binary_cross_entropy(outputs, y).mean()
    if kind == "regression":
        return lambda outputs, y: jax.numpy.square(outputs - y).mean()
    return lambda outputs, y: optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
