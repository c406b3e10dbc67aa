"""Protocols that train the encoder, too: fine-tuning, or from scratch with initial weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eo_jax.augment.radiometry import normalise
from eo_jax.evaluation.dense_heads import (
    ConvHead,
    DenseHead,
    FcnHead,
    LinearHead,
    cross_entropy,
    enlarged,
)
from eo_jax.evaluation.features import Features, Featurizer
from eo_jax.evaluation.pooled_encoder import pooled_width
from eo_jax.evaluation.progress import epochs
from eo_jax.evaluation.protocol import EvaluationProtocol
from eo_jax.evaluation.task import MAPS
from eo_jax.evaluation.training import batches
from eo_jax.evaluation.vector_heads import ANSWERS, LinearLayer, Perceptron, error_of
from eo_jax.models.functional import EVALUATE, Mode
from eo_jax.trained_encoder import TrainedEncoder

_WARM_UP = 0.05  # of all steps


class Pixels:
    """Windows themselves as a `features.Featurizer`: float32 [b, c, H, W], NaN without data, or
    [b, 2, c, H, W] of two dates.
    """

    patch = 1
    facts: Mapping[str, Any] = {"pixels": 1}

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, c, H, W]."""
        return np.where(valid, pixels, np.nan).astype(np.float32)

    dense = pooled

    @staticmethod
    def compared(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Both dates."""
        return np.stack([before, after], 1)


@dataclasses.dataclass(frozen=True)
class FineTuning(EvaluationProtocol):
    """Encoder and head trained together by AdamW, with warm-up and a cosine schedule, on windows
    that are flipped at random; the epoch with the least validation loss is kept.

    Pooled features get a linear layer, or `number_head` for numbers. Maps get SpectralEarth's
    heads: enlarging convolutions for transformers, FCN for others; where a feature is one pixel, a
    linear layer per token. Of two dates, a head sees the absolute difference of their features.
    BatchNorm is in training mode while it trains.

    Attributes:
        epochs, batch: of training.
        lr, weight_decay: of AdamW.
        number_head: class of the head for numbers.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    number_head: type[LinearLayer] | type[Perceptron] = LinearLayer

    @property
    def needs_encoder(self) -> bool:
        """It trains the encoder."""
        return True

    @property
    def title(self) -> str:
        """For tables."""
        return (
            f"encoder and head, AdamW, lr {self.lr:g} with warm-up and cosine, weight decay "
            f"{self.weight_decay:g}, {self.epochs} epochs, batch {self.batch}, flips"
        )

    def seen(self, candidate: Featurizer) -> Pixels:
        """Windows, whatever the candidate is, which is trained itself."""
        return Pixels()

    def fine_tune(
        self,
        trained: TrainedEncoder,
        kind: str,
        train: Features,
        val: Features,
        outputs: int,
        seed: int,
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The predictor of windows [q, c, H, W], or [q, 2, c, H, W] of two dates: probabilities, or
        numbers, [q, k]; for maps the classes [q, H, W].

        Args:
            train, val: of `Pixels`; `target` has classes from 0 (IGNORED in maps), 0 and 1, or
                standardised numbers.
            outputs: number k of classes, labels or numbers.
        """
        run = _Training(self, trained, kind, outputs, seed)
        steps = self.epochs * max(1, len(train.x) // min(self.batch, len(train.x)))
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.lr, int(_WARM_UP * steps), steps)
        optimizer = optax.adamw(schedule, weight_decay=self.weight_decay)
        state = run.initial()
        memory, random = optimizer.init(state["params"]), np.random.default_rng(seed)

        @jax.jit
        def step(state, memory, x, y):
            grads, statistics = jax.grad(run.loss, has_aux=True)(state["params"], state, x, y)
            updates, memory = optimizer.update(grads, memory, state["params"])
            return {"params": optax.apply_updates(state["params"], updates), **statistics}, memory

        validation = jax.jit(run.validation)
        best, kept, size = np.inf, state, min(self.batch, len(train.x))
        for _ in epochs(f"{self.epochs} epochs of encoder and head", self.epochs):
            for x, y in batches(train, size, random):
                state, memory = step(state, memory, *_flipped(x, y, kind, random))
            found = np.mean([float(validation(state, x, y)) for x, y in batches(val, size, None)])
            if found < best:
                best, kept = found, state
        predict = jax.jit(run.predict)
        return lambda x: np.asarray(predict(kept, x))


class _Training:
    """The functions of one training. A state is {"params", "statistics", "head"}: the weights of
    encoder and head, the running statistics of the encoder and those of the head.
    """

    def __init__(
        self, settings: FineTuning, trained: TrainedEncoder, kind: str, outputs: int, seed: int
    ):
        self.trained, self.kind = trained, kind
        rngs = nnx.Rngs(seed)
        if kind in MAPS:
            head = _map_head(trained)(trained.width, outputs, trained.patch, rngs=rngs)
        else:
            make = settings.number_head if kind == "regression" else LinearLayer
            head = make(pooled_width(trained.encoder), outputs, rngs=rngs)
        self.graph, self._head, self._rest = nnx.split(head, nnx.Param, ...)

    def initial(self) -> dict[str, Any]:
        params = {"encoder": self.trained.params, "head": self._head}
        state = {"params": params, "statistics": self.trained.statistics, "head": self._rest}
        return jax.tree.map(jnp.asarray, state)

    def loss(self, params, state, x, y) -> tuple[jax.Array, dict[str, Any]]:
        outputs, after = self._outputs(params, state, x, Mode("batch"))
        return _error(self.kind, outputs, y), after

    def validation(self, state, x, y) -> jax.Array:
        outputs, _ = self._outputs(state["params"], state, x, EVALUATE)
        return _error(self.kind, outputs, y)

    def predict(self, state, x) -> jax.Array:
        outputs, _ = self._outputs(state["params"], state, x, EVALUATE)
        if self.kind in MAPS:
            return outputs.argmax(-1)
        return ANSWERS.get(self.kind, jax.nn.softmax)(outputs)

    def _outputs(self, params, state, x, mode: Mode) -> tuple[jax.Array, dict[str, Any]]:
        features, statistics = self._features(params["encoder"], state["statistics"], x, mode)
        head = nnx.merge(self.graph, params["head"], state["head"], copy=True)
        outputs = head(features, mode is not EVALUATE)
        if self.kind in MAPS:
            outputs = enlarged(outputs, x.shape[-2:])
        rest = nnx.split(head, nnx.Param, ...)[2]
        return outputs, {"statistics": statistics, "head": rest}

    def _features(self, params, statistics, x, mode: Mode) -> tuple[jax.Array, Any]:
        """(float32 [b, d], or [b, h, w, d] for maps, new running statistics)."""
        trained, windows = self.trained, x.reshape(-1, *x.shape[-3:])
        valid = jnp.isfinite(windows)
        view = normalise(jnp.where(valid, windows, 0.0), valid, trained.mean, trained.std)
        features, statistics = trained.encoder.forward(
            params, statistics, jnp.moveaxis(view, 1, -1), jnp.moveaxis(valid, 1, -1), mode
        )
        found = features["dense" if self.kind in MAPS else "pooled"].astype(jnp.float32)
        if self.kind == "change":
            dates = found.reshape(len(x), 2, *found.shape[1:])
            found = jnp.abs(dates[:, 1] - dates[:, 0])
        return found, statistics


def _map_head(trained: TrainedEncoder) -> type[DenseHead]:
    if trained.patch == 1:
        return LinearHead
    return ConvHead if trained.encoder.kind == "tokens" else FcnHead


def _error(kind: str, outputs: jax.Array, y: jax.Array) -> jax.Array:
    return cross_entropy(outputs, y) if kind in MAPS else error_of(kind)(outputs, y)


def _flipped(
    x: np.ndarray, y: np.ndarray, kind: str, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch whose windows, and maps, are all flipped alike, by chance along either axis."""
    for axis in (-1, -2):
        if random.random() < 0.5:
            x = np.flip(x, axis)
            y = np.flip(y, axis) if kind in MAPS else y
    return x, y
