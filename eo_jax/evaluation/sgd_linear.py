"""A linear layer trained by SGD, as in the linear classification of MoCo and SSL4EO-S12."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.metrics import accuracy_score, average_precision_score

from eo_jax.evaluation.protocol import EvaluationProtocol, Labelled, Predictor
from eo_jax.evaluation.vector_heads import ANSWERS, error_of

_INITIAL_STD = 0.01


@dataclasses.dataclass(frozen=True)
class SgdLinear(EvaluationProtocol):
    """A linear layer trained by SGD with momentum, without weight decay, with a cosine per epoch.
    Of several learning rates, the one with the best validation score after the last epoch is taken;
    of equal ones, the smallest.

    Attributes:
        lrs: learning rates, ascending.
        epochs, batch: of training; the rest of an epoch is left out.
        momentum: of SGD.
    """

    lrs: tuple[float, ...]
    epochs: int
    batch: int
    momentum: float = 0.9

    kinds: ClassVar[tuple[str, ...]] = (
        *("classification", "pixel", "multi_label"),
        *("segmentation", "change"),
    )

    @property
    def title(self) -> str:
        """For tables."""
        rates = ", ".join(f"{lr:g}" for lr in self.lrs)
        return (
            f"linear, SGD, momentum {self.momentum:g}, lr of {rates} by validation, cosine, no "
            f"weight decay, {self.epochs} epochs, batch {self.batch}, no augmentation"
        )

    def fit(self, kind: str, train: Labelled, val: Labelled, classes: int, seed: int) -> Predictor:
        """See `protocol.EvaluationProtocol`."""
        weights, biases = self.trained(kind, train, classes, seed)
        answer = ANSWERS.get(kind, jax.nn.softmax)

        def predict(number: int, x: np.ndarray) -> np.ndarray:
            logits = np.asarray(x, np.float64) @ weights[number] + biases[number]
            return np.asarray(answer(jnp.asarray(logits)), np.float64)

        def score(number: int) -> float:
            found = predict(number, val.x)
            if not np.isfinite(found).all():  # it diverged
                return -np.inf
            if kind == "multi_label":
                return average_precision_score(val.y > 0, found, average="micro")
            return accuracy_score(val.y, found.argmax(1))

        scores = [score(number) for number in range(len(self.lrs))]
        return functools.partial(predict, int(np.argmax(scores)))

    def trained(
        self, kind: str, train: Labelled, classes: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(weights [l, d, k], biases [l, k]) of every learning rate, trained side by side on the
        same batches: `seed` draws the weights of a normal distribution, then an order per epoch.
        """
        random = np.random.default_rng(seed)
        drawn = random.normal(0, _INITIAL_STD, (train.x.shape[1], classes))
        weights = jnp.tile(jnp.asarray(drawn, jnp.float32), (len(self.lrs), 1, 1))
        layer = weights, jnp.zeros((len(self.lrs), classes))
        state = layer, jax.tree.map(jnp.zeros_like, layer)
        size = min(self.batch, len(train.x))
        y = train.y.astype(np.float32 if kind == "multi_label" else np.int32)
        x, y = jnp.asarray(train.x, jnp.float32), jnp.asarray(y)
        epoch_of = jax.jit(functools.partial(_epoch, kind, self.momentum))
        for epoch in range(self.epochs):
            decay = 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            order = random.permutation(len(train.x))
            batches = order[: len(order) // size * size].reshape(-1, size)
            state = epoch_of(state, x, y, batches, decay * np.array(self.lrs, np.float32))
        return jax.device_get(state[0])


_Layer = tuple[Float[Array, "l d k"], Float[Array, "l k"]]


def _epoch(
    kind: str,
    momentum: float,
    state: tuple[_Layer, _Layer],
    x: Float[Array, "n d"],
    y: Array,
    batches: Int[Array, "s b"],
    lrs: Float[Array, " l"],
) -> tuple[_Layer, _Layer]:
    """(layers, velocities) after the batches, rows of x, with PyTorch's rule of momentum."""
    error = error_of(kind)

    def loss(layer: _Layer, rows: Array) -> Array:
        logits = jnp.einsum("bd,ldk->lbk", x[rows], layer[0]) + layer[1][:, None]
        return jax.vmap(error, (0, None))(logits, y[rows]).sum()

    def step(state, rows):
        layer, velocity = state
        gradient = jax.grad(loss)(layer, rows)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
        layer = jax.tree.map(
            lambda w, v: w - lrs.reshape(-1, *[1] * (w.ndim - 1)) * v, layer, velocity
        )
        return (layer, velocity), None

    return jax.lax.scan(step, state, batches)[0]
