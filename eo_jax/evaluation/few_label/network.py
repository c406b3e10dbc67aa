"""Encoder and linear classifier trained on a few labelled pixels: fine-tuned, or from scratch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eo_jax.augment.radiometry import brighten, normalise
from eo_jax.evaluation.few_label.features import averaged, encoded, windows
from eo_jax.evaluation.few_label.protocol import Draw
from eo_jax.evaluation.few_label.scene import Scene
from eo_jax.models.functional import TRAIN
from eo_jax.trained_encoder import TrainedEncoder

STEPS, LR, WEIGHT_DECAY = 100, 1e-3, 1e-2
_BRIGHTNESS = 0.1
_NEAR = 1  # pixels: a label is taken to hold for direct neighbours


class Network:
    """Trains one encoder on one draw of labels after another, with one compilation.

    Every step sees each labelled pixel once: itself or a direct neighbour, up to a tenth brighter
    or darker. Features are averaged over similar pixels before they are classified, as those of
    the other methods.

    Args:
        trained: gives the network and its initial weights.
    """

    def __init__(self, trained: TrainedEncoder, scene: Scene):
        self._trained, self._scene = trained, scene
        schedule = optax.cosine_decay_schedule(LR, STEPS)
        self._optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
        self._step = jax.jit(self._updated)

    def predict(self, draw: Draw, seed: int) -> np.ndarray:
        """The class of every pixel, [h * w], after training on the labels of a draw."""
        scene, codes, random = self._scene, self._scene.codes, np.random.default_rng(seed)
        target = np.searchsorted(codes, scene.classes.ravel()[draw.labelled])
        state = self._initial(len(codes))
        for _ in range(STEPS):
            near = moved(draw.labelled, scene.classes.shape, random)
            batch = windows(scene, self._trained.view, near)
            state = self._step(state, *batch, brightened(len(near), random), target)
        return codes[self._classified(state)]

    def _initial(self, classes: int) -> dict[str, Any]:
        width = self._trained.width
        head = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
        params = {"encoder": self._trained.params, "head": head}
        return {
            "params": jax.tree.map(jnp.asarray, params),
            "statistics": jax.tree.map(jnp.asarray, self._trained.statistics),
            "memory": self._optimizer.init(params),
        }

    def _updated(self, state, pixels, valid, factor, target) -> dict[str, Any]:
        (_, statistics), grads = jax.value_and_grad(self._loss, has_aux=True)(
            state["params"], state["statistics"], pixels, valid, factor, target
        )
        updates, memory = self._optimizer.update(grads, state["memory"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "statistics": statistics, "memory": memory}

    def _loss(self, params, statistics, pixels, valid, factor, target) -> tuple[jax.Array, Any]:
        features, statistics = shown(
            self._trained, params["encoder"], statistics, pixels, valid, factor
        )
        logits = _logits(params["head"], features)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        return losses.mean(), statistics

    def _classified(self, state: dict[str, Any]) -> np.ndarray:
        """The number of the class of every pixel."""
        weights = state["params"]["encoder"], state["statistics"]
        tuned = dataclasses.replace(self._trained, params=weights[0], statistics=weights[1])
        found = averaged(encoded(tuned, self._scene), self._scene)
        return np.asarray(_logits(state["params"]["head"], found)).argmax(-1).ravel()


def _logits(head: dict[str, Any], features: jax.Array) -> jax.Array:
    return features @ head["kernel"] + head["bias"]


def shown(
    trained: TrainedEncoder, params: Any, statistics: Any, pixels: Any, valid: Any, factor: Any
) -> tuple[jax.Array, Any]:
    """(features [m, d] of windows [m, c, H, W] made brighter by `factor`, new running statistics),
    while training.
    """
    bright = brighten(pixels, factor, trained.sensor)
    view = normalise(bright, valid, trained.mean, trained.std)
    features, statistics = trained.encoder.forward(
        params, statistics, jnp.moveaxis(view, 1, -1), jnp.moveaxis(valid, 1, -1), TRAIN
    )
    return features["pooled"], statistics


def brightened(count: int, random: np.random.Generator) -> np.ndarray:
    """Factors [count, 1, 1, 1] up to a tenth from 1."""
    factors = random.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS, (count, 1, 1, 1))
    return factors.astype(np.float32)


def moved(
    numbers: np.ndarray, shape: tuple[int, int], random: np.random.Generator, near: int = _NEAR
) -> np.ndarray:
    """The same pixels or neighbours up to `near` away, by chance, within the scene."""
    rows, columns = np.divmod(numbers, shape[1])
    step = random.integers(-near, near + 1, (2, len(numbers)))
    rows = np.clip(rows + step[0], 0, shape[0] - 1)
    return rows * shape[1] + np.clip(columns + step[1], 0, shape[1] - 1)
