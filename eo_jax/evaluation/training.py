"""The loop that trains a head on features that stay as they are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from eo_jax.evaluation.features import Features
from eo_jax.evaluation.progress import epochs

Outputs = Callable[[Any], jax.Array]  # features of a batch -> outputs of a head
Error = Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, targets) -> mean loss


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long a head is trained, and when it is looked at.

    Attributes:
        epochs: passes over the training features.
        batch: samples in a step; the rest of an epoch is left out.
        every: epochs between two validations; there is always one after the last epoch.
        patience: validations in a row without a better one that end training; 0 for none.
    """

    epochs: int
    batch: int
    every: int = 1
    patience: int = 0

    def of(self, samples: int) -> Loop:
        """The same with batches that `samples` fill."""
        return dataclasses.replace(self, batch=min(self.batch, samples))

    def steps(self, samples: int) -> int:
        """Number of all steps."""
        return self.epochs * (samples // self.of(samples).batch)


def fit(
    head: nnx.Module,
    error: Error,
    optimizer: optax.GradientTransformation,
    loop: Loop,
    train: Features,
    judge: Callable[[Outputs], float],
    seed: int,
) -> Outputs:
    """The outputs, in evaluation mode, of the head (features, train: bool) -> outputs, with the
    weights of the validation that `judge` gives the least number.
    """
    graph, params, rest = nnx.split(head, nnx.Param, ...)

    def loss(params, rest, x, y):
        module = nnx.merge(graph, params, rest, copy=True)
        found = error(module(x, True), y)
        return found, nnx.split(module, nnx.Param, ...)[2]

    @jax.jit
    def step(params, rest, state, x, y):
        grads, rest = jax.grad(loss, has_aux=True)(params, rest, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    @jax.jit
    def outputs(params, rest, x):
        return nnx.merge(graph, params, rest, copy=True)(jnp.asarray(x, jnp.float32), False)

    state, kept, best, worse = optimizer.init(params), (params, rest), np.inf, 0
    loop, random = loop.of(len(train.x)), np.random.default_rng(seed)
    for epoch in epochs(f"{loop.epochs} epochs of a head", loop.epochs):
        for x, y in batches(train, loop.batch, random):
            params, rest, state = step(params, rest, state, x, y)
        if epoch % loop.every and epoch < loop.epochs:
            continue
        found = judge(functools.partial(outputs, params, rest))
        worse = 0 if found < best else worse + 1
        if found < best:
            best, kept = found, (params, rest)
        if worse and worse == loop.patience:
            break
    return functools.partial(outputs, *kept)


def mean_error(error: Error, val: Features, batch: int) -> Callable[[Outputs], float]:
    """A judge: the mean of the validation batches' errors."""
    compiled = jax.jit(error)

    def judge(outputs: Outputs) -> float:
        return np.mean([float(compiled(outputs(x), y)) for x, y in batches(val, batch, None)])

    return judge


def batches(
    features: Features, size: int, random: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one size in random order, the rest left out; all in order without `random`."""
    order = np.arange(len(features.x)) if random is None else random.permutation(len(features.x))
    last = len(order) if random is None else len(order) // size * size
    for first in range(0, last, size):
        chosen = np.sort(order[first : first + size])
        yield np.asarray(features.x[chosen], np.float32), features.target[chosen]
