"""An encoder trained further by view assignment, with the labels of a draw as its support."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eo_jax.evaluation.few_label.features import averaged, encoded, windows
from eo_jax.evaluation.few_label.network import brightened, moved, shown
from eo_jax.evaluation.few_label.protocol import Draw
from eo_jax.evaluation.few_label.scene import Scene
from eo_jax.objectives.semi_supervised import smooth_labels, soft_labels, view_assignment_loss
from eo_jax.trained_encoder import TrainedEncoder

STEPS, LR, WEIGHT_DECAY = 150, 3e-4, 1e-4
TEMPERATURE, SHARPENING, SMOOTHING = 0.1, 0.25, 0.1
_UNLABELLED = 256  # pixels in a step, with two views each
_AT_ONCE = 16_384  # pixels that are compared with the support
_NEAR = 2  # pixels: both views of a pixel are from the 5 x 5 around it, as in pretraining


class ViewAssignment:
    """Trains an encoder on one draw of labels after another, with one compilation.

    The loss is that of `objectives.semi_supervised` (PAWS, arXiv 2104.13963) on features without a
    projector: two views of unlabelled pixels get soft labels from their similarity to the labelled
    ones, and have to agree. Classes are assigned alike to features that are averaged over similar
    pixels.

    Args:
        trained: gives the network and its initial weights.
    """

    def __init__(self, trained: TrainedEncoder, scene: Scene):
        self._trained, self._scene = trained, scene
        self._optimizer = optax.adamw(
            optax.cosine_decay_schedule(LR, STEPS), weight_decay=WEIGHT_DECAY
        )
        self._step = jax.jit(self._updated)

    def predict(self, draw: Draw, seed: int) -> np.ndarray:
        """The class of every pixel, [h * w], after training with the labels of a draw."""
        scene, random = self._scene, np.random.default_rng(seed)
        labels = self._labels(draw)
        params = jax.tree.map(jnp.asarray, self._trained.params)
        state = {
            "params": params,
            "statistics": jax.tree.map(jnp.asarray, self._trained.statistics),
            "memory": self._optimizer.init(params),
        }
        valid = np.flatnonzero(scene.valid.any(0))
        for _ in range(STEPS):
            pixels = random.choice(valid, _UNLABELLED)
            pair = [moved(pixels, scene.classes.shape, random, _NEAR) for _ in range(2)]
            support = moved(draw.labelled, scene.classes.shape, random)
            numbers = np.concatenate([*pair, support])
            batch = windows(scene, self._trained.view, numbers)
            state = self._step(state, *batch, brightened(len(numbers), random), labels)
        return scene.codes[self._assigned(state, draw, labels)]

    def _labels(self, draw: Draw) -> jax.Array:
        """Smoothed labels [m, k] of the support."""
        codes = self._scene.codes
        numbers = 1 + np.searchsorted(codes, self._scene.classes.ravel()[draw.labelled])
        return smooth_labels(jnp.asarray(numbers), len(codes), SMOOTHING)

    def _updated(self, state, pixels, valid, factor, labels) -> dict[str, Any]:
        grads, statistics = jax.grad(self._loss, has_aux=True)(
            state["params"], state["statistics"], pixels, valid, factor, labels
        )
        updates, memory = self._optimizer.update(grads, state["memory"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "statistics": statistics, "memory": memory}

    def _loss(self, params, statistics, pixels, valid, factor, labels) -> tuple[jax.Array, Any]:
        z, statistics = shown(self._trained, params, statistics, pixels, valid, factor)
        first, second, support = jnp.split(z, (_UNLABELLED, 2 * _UNLABELLED))
        p1, p2 = (soft_labels(view, support, labels, TEMPERATURE) for view in (first, second))
        return view_assignment_loss(p1, p2, SHARPENING), statistics

    def _assigned(self, state: dict[str, Any], draw: Draw, labels: jax.Array) -> np.ndarray:
        """The number of the class of every pixel."""
        tuned = dataclasses.replace(
            self._trained, params=state["params"], statistics=state["statistics"]
        )
        found = averaged(encoded(tuned, self._scene), self._scene)
        flat = found.reshape(-1, found.shape[-1])
        parts = np.array_split(flat, -(-len(flat) // _AT_ONCE))
        support = jnp.asarray(flat[draw.labelled])
        soft = (soft_labels(jnp.asarray(part), support, labels, TEMPERATURE) for part in parts)
        return np.concatenate([np.asarray(part).argmax(-1) for part in soft])
