"""Heads that are trained on frozen dense features to predict maps of classes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from eo_jax.evaluation.features import Features

IGNORED = -1


class LinearHead(nnx.Module):
    """A linear layer per token, then bilinear interpolation to the labels."""

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        self.last = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        return self.last(x)


class ConvHead(nnx.Module):
    """SpectralEarth's head for transformers: for every factor of two of the patch, bilinear
    enlargement, a 3 x 3 convolution, BatchNorm and ReLU; the last convolution gives the classes.
    """

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        steps = max(1, round(math.log2(patch)))
        widths = [width, *(max(128 >> i, 16) for i in range(steps - 1)), classes]
        self.convs = nnx.List(
            [nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nnx.List([nnx.BatchNorm(b, momentum=0.9, rngs=rngs) for b in widths[1:-1]])
        self.factor = 2 if patch > 1 else 1

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        for i, conv in enumerate(self.convs):
            x = conv(enlarged(x, (x.shape[1] * self.factor, x.shape[2] * self.factor)))
            if i < len(self.norms):
                x = jax.nn.relu(self.norms[i](x, use_running_average=not train))
        return x


class FcnHead(nnx.Module):
    """SpectralEarth's head for ResNets: a 3 x 3 convolution to an eighth of the channels without
    bias, BatchNorm, ReLU, a 1 x 1 convolution.
    """

    def __init__(self, width: int, classes: int, patch: int, *, rngs: nnx.Rngs):
        inner = max(width // 8, 1)
        self.conv = nnx.Conv(width, inner, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(inner, momentum=0.9, rngs=rngs)
        self.last = nnx.Conv(inner, classes, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w k"]:
        return self.last(jax.nn.relu(self.norm(self.conv(x), use_running_average=not train)))


def enlarged(x: Float[Array, "b h w k"], size: tuple[int, int]) -> Float[Array, "b H W k"]:
    """Bilinear interpolation."""
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), "linear")


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A protocol for maps: a head trained by AdamW with a cosine schedule; the epoch with the least
    validation loss is kept.

    Attributes:
        head: class of the head.
        epochs, batch: of training.
        lr, weight_decay: of AdamW.
        end_lr: at the end of the schedule.
        resize: see `protocol.EvaluationProtocol`.
    """

    head: Callable[..., nnx.Module]
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    end_lr: float = 0.0
    resize: int = 0

    @property
    def title(self) -> str:
        """For tables."""
        return (
            f"{self.head.__name__}, AdamW, lr {self.lr:g}, weight decay {self.weight_decay:g}, "
            f"{self.epochs} epochs, batch {self.batch}"
        )

    def fit_maps(
        self, train: Features, val: Features, classes: int, patch: int, seed: int
    ) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
        """The predictor of the class [q, H, W] of features [q, h, w, d] and a size H, W.

        Args:
            train, val: `target` int [n, H, W], classes from 0, IGNORED elsewhere.
            patch: side in pixels of a feature.
        """
        width, batch = train.x.shape[-1], min(self.batch, len(train.x))
        head = self.head(width, classes, patch, rngs=nnx.Rngs(seed))
        graph, params, rest = nnx.split(head, nnx.Param, ...)
        per_epoch = max(1, len(train.x) // batch)
        schedule = optax.cosine_decay_schedule(
            self.lr, self.epochs * per_epoch, self.end_lr / self.lr
        )
        optimizer = optax.adamw(schedule, weight_decay=self.weight_decay)

        def loss(params, rest, x, y):
            module = nnx.merge(graph, params, rest, copy=True)
            found = cross_entropy(enlarged(module(x, True), y.shape[1:]), y)
            return found, nnx.split(module, nnx.Param, ...)[2]

        @jax.jit
        def step(params, rest, state, x, y):
            grads, rest = jax.grad(loss, has_aux=True)(params, rest, x, y)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), rest, state

        @jax.jit
        def logits(params, rest, x):
            return nnx.merge(graph, params, rest, copy=True)(x, False)

        @jax.jit
        def validation(params, rest, x, y):
            return cross_entropy(enlarged(logits(params, rest, x), y.shape[1:]), y)

        state, best, kept = optimizer.init(params), np.inf, (params, rest)
        random = np.random.default_rng(seed)
        for _ in range(self.epochs):
            for x, y in batches(train, batch, random):
                params, rest, state = step(params, rest, state, x, y)
            found = np.mean(
                [float(validation(params, rest, x, y)) for x, y in batches(val, batch, None)]
            )
            if found < best:
                best, kept = found, (params, rest)

        def predict(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            found = enlarged(logits(*kept, jnp.asarray(x, jnp.float32)), size)
            return np.asarray(found.argmax(-1))

        return predict


def batches(
    features: Features, size: int, random: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one size in random order, the rest left out; all in order without `random`."""
    order = np.arange(len(features.x)) if random is None else random.permutation(len(features.x))
    last = len(order) if random is None else len(order) // size * size
    for first in range(0, last, size):
        chosen = np.sort(order[first : first + size])
        yield np.asarray(features.x[chosen], np.float32), features.target[chosen]


def cross_entropy(logits: Float[Array, "b h w k"], y: Int[Array, "b h w"]) -> Float[Array, ""]:
    """Mean over the pixels with a class."""
    counts = y != IGNORED
    found = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, y, 0))
    return jnp.where(counts, found, 0.0).sum() / jnp.maximum(counts.sum(), 1)
