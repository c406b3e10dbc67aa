"""Whether an objective learns: simulated patches whose class is in spatial structure, and how far a probe on trained features beats two baselines."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_objectives
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_jax import build, optim
from eo_jax.augment.views import Recipe, normalisation
from eo_jax.sensors import get_sensor
from eo_jax.step import init_state, make_train_step

SIDE, SIZE, LOCAL = 24, 16, 8  # pixels of a patch, of a global view, of a local one
TRAIN, PROBE, TEST, PER_CLASS = 1536, 500, 500, 10
STEPS, ROWS = 200, 48
ARRANGEMENTS = ("rows", "columns", "grid")
CLASSES = 2 * len(ARRANGEMENTS)
MIX, RELIEF, CLUTTER = 20.0, (0.2, 0.4), 0.55

# Reflectance in DN of vegetation, soil, built-up ground and water in the 12 bands of Sentinel-2 L2A, rounded.
COVERS = np.array(
    [
        [250, 300, 600, 400, 900, 2300, 2900, 3000, 3200, 3200, 1700, 800],
        [700, 900, 1300, 1700, 2000, 2200, 2400, 2500, 2700, 2700, 3300, 2700],
        [1100, 1300, 1500, 1700, 1800, 1900, 2000, 2100, 2200, 2200, 2400, 2200],
        [500, 500, 600, 450, 450, 420, 420, 400, 380, 350, 250, 200],
    ]
)
INFRARED = np.arange(12) >= 5


# --- simulated patches


@dataclasses.dataclass(frozen=True)
class Places:
    """Patches of the same places by two sensors, in the layout of a Batch, and their classes 1 to CLASSES."""

    s2: np.ndarray
    s1: np.ndarray
    label: np.ndarray


@functools.cache
def places(number: int, seed: int) -> Places:
    """`number` places, as many of each class, in random order: s2 uint16 [b, 1, 12, h, w] in DN, s1 float32 [b, 1, 2, h, w] in dB.

    A class is an arrangement of two kinds of ground, and whether the infrared bands go with the visible ones or against them. The spectrum of a
    place, its light and its contrast are drawn without regard to the class, and its pattern is scaled to mean 0 and standard deviation 1, so the
    mean and the standard deviation of a band say nothing.
    """
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(number) % CLASSES)
    pattern = standardised(arranged(rng, label % len(ARRANGEMENTS)))
    sign = np.where(label < len(ARRANGEMENTS), 1.0, -1.0)
    return Places(optical(rng, pattern, sign), radar(rng, pattern, sign), (label + 1).astype(np.int32))


def arranged(rng: np.random.Generator, arrangement: np.ndarray) -> np.ndarray:
    """Patterns [b, h, w] of stripes, across, down or both, of random width and place, nearly straight."""
    draw = lambda low, high: rng.uniform(low, high, (len(arrangement), 1, 1))  # noqa: E731
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    tilt = draw(-0.15, 0.15)
    wave = lambda along, across: np.sin(2 * np.pi * (along + tilt * across) / draw(4, 8) + draw(0, 2 * np.pi))  # noqa: E731
    rows, columns, grid = wave(y, x), wave(x, -y), wave(y, x) * wave(x, -y)
    chosen = np.choose(arrangement[:, None, None], [rows, columns, grid])
    return np.tanh(3 * chosen)


def standardised(field: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 of each patch."""
    field = field - field.mean((1, 2), keepdims=True)
    return field / field.std((1, 2), keepdims=True)


def smooth(rng: np.random.Generator, number: int) -> np.ndarray:
    """Waves [b, h, w] longer than a patch, in a random direction: mean 0, standard deviation 1."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    angle, phase, length = (rng.uniform(*span, (number, 1, 1)) for span in ((0, 2 * np.pi), (0, 2 * np.pi), (SIDE, 2 * SIDE)))
    return standardised(np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase))


def optical(rng: np.random.Generator, pattern: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """uint16 [b, 1, c, h, w]"""
    draw = lambda low, high: rng.uniform(low, high, (len(pattern), 1, 1, 1))  # noqa: E731
    ground = (rng.dirichlet(np.full(len(COVERS), MIX), len(pattern)) @ COVERS)[:, :, None, None]
    with_sign = np.where(INFRARED, sign[:, None], 1.0)[:, :, None, None]
    either = rng.choice([-1.0, 1.0], (len(pattern), 1, 1, 1))
    relief = draw(*RELIEF) * either * with_sign * pattern[:, None] + draw(0.05, 0.2) * smooth(rng, len(pattern))[:, None]
    clutter = CLUTTER * rng.standard_normal((len(pattern), 12, SIDE, SIDE))
    values = draw(0.9, 1.1) * ground * (1 + relief + clutter)
    return np.clip(values.round(), 1, 10_000).astype(np.uint16)[:, None]


def radar(rng: np.random.Generator, pattern: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """float32 [b, 1, c, h, w]"""
    draw = lambda low, high: rng.uniform(low, high, (len(pattern), 1, 1, 1))  # noqa: E731
    level = np.concatenate([draw(-16, -8), draw(-24, -16)], axis=1)
    with_sign = np.stack([np.ones_like(sign), sign], axis=1)[:, :, None, None]
    either = rng.choice([-1.0, 1.0], (len(pattern), 1, 1, 1))
    speckle = 1.5 * rng.standard_normal((len(pattern), 2, SIDE, SIDE))
    return (level + draw(1.5, 3) * either * with_sign * pattern[:, None] + speckle).astype(np.float32)[:, None]


# --- training


_CROP = {"size": SIZE, "scale": (0.4, 1.0), "ratio": (0.9, 1.1), "flips": "both"}
_DISTORTED = {"gain": (0.7, 1.4), "noise_std": 0.1}
TRUNK = {"size": "nano", "depth": 2}
OPTIM = {"lr": 1e-3, "warmup_steps": 20, "weight_decay": 0.05}
_HEAD, _PREDICTOR = {"projector": (128, 64)}, {"predictor": (128, 64)}
# {objective: its section, where the tiny one would not learn}
SECTIONS: dict[str, dict[str, Any]] = {
    "mae": {"decoder_width": 64, "decoder_heads": 4, "mask_ratio": 0.7},
    "data2vec": {"mask_ratio": 0.5},
    "dino": {"prototypes": 64, "hidden": 128, "bottleneck": 32, "momentum": 0.98},
    "swav": {"prototypes": 32, **_HEAD},
    "barlow_twins": {"projector": (128, 128)},
    "vicreg": {"projector": (128, 128)},
    "moco": {"queue": 480, "bn_group": 24, "momentum": 0.98, **_HEAD},
    "moco_v3": {"momentum": 0.98, **_HEAD, **_PREDICTOR},
    "simclr": _HEAD,
    "byol": {"momentum": 0.98, **_HEAD, **_PREDICTOR},
    "simsiam": {**_HEAD, "predictor": (32,)},
    "decur": {"common": 96, "projector": (128, 128)},
    "clip": _HEAD,
    "semi_supervised": {"classes": CLASSES, **_HEAD},
    "supervised": {"outputs": CLASSES},
}


def config_of(name: str) -> Any:
    config = tiny_objectives.config_of(name, rows=ROWS)
    distorted = {} if name in tiny_objectives.TOKENS_ONLY else _DISTORTED  # they would be asked to predict the distortion
    for crop_set, crop in config.augment.crops.items():
        crop.update(_CROP | distorted | ({"size": LOCAL, "scale": (0.1, 0.3)} if crop_set == "local" else {}))
    if "s1" in config.data.sources:
        config.augment.crops["s1/global"] = config.augment.crops["global"].to_dict() | {"gain": (1.0, 1.0)}
    config.model.trunk.update(TRUNK)
    config.optim.update(OPTIM)
    config.objective.update(SECTIONS[name])
    config.run.steps = STEPS
    return build.complete(config)


class Learner:
    """An objective with its compiled train step, the same for all seeds."""

    def __init__(self, config):
        self.experiment = build.experiment(config)
        self.objective = self.experiment.objective
        shapes = jax.eval_shape(self.objective.init, jax.random.key(0))[0]
        self.optimizer = optim.make_optimizer(self.experiment.optim, shapes, self.experiment.run.steps)
        known = places(TRAIN, 0)
        self.recipe = build.recipe(self.experiment, {s: statistics(e.sensor, known) for s, e in self.experiment.encoders.items()})
        self._step = jax.jit(self._train_step, donate_argnums=0)
        self._features = jax.jit(self._features_of)

    def _train_step(self, state, batch, seed):
        return make_train_step(self.objective, self.optimizer, self.recipe.train, seed=seed, steps=self.experiment.run.steps, accum=1)(state, batch)

    def _features_of(self, params, carry, pixels):
        weights = next(iter(self.objective.encoders(params, carry).values()))
        views = self.recipe.evaluate({weights["source"]: {"pixels": pixels}})
        name = f"{weights['source']}/global"
        return self.objective.features(weights, views[name][:, 0], views[f"{name}/valid"][:, 0])["pooled"]

    def init(self, seed):
        return jax.jit(lambda: init_state(self.objective, self.optimizer, seed))()

    def train(self, seed, steps=None):
        state, rng = self.init(seed), np.random.default_rng(seed)
        known = places(TRAIN, 1000 + seed)
        losses = []
        for n in range(steps or self.experiment.run.steps):
            state, metrics = self._step(state, batch_of(self.experiment, known, rng), seed)
            losses.append(metrics)
        self.log = losses
        return state

    def features(self, state, where):
        return np.concatenate([np.asarray(self._features(state["params"], state["carry"], where.s2[i : i + 100])) for i in range(0, len(where.label), 100)])


def statistics(sensor, known):
    pixels = known.s1 if sensor.id.startswith("sentinel1") else known.s2
    found = {"mean": pixels.mean((0, 1, 3, 4)), "std": pixels.std((0, 1, 3, 4))}
    return normalisation("store", sensor, found)


def batch_of(experiment, known: Places, rng) -> dict:
    rows = rng.choice(len(known.label), ROWS, replace=False)
    support = rng.choice(labelled_rows(known), ROWS)
    batch = {}
    for source, encoder in experiment.encoders.items():
        of = support if source in experiment.objective.labelled else rows
        pixels = known.s1 if source == "s1" else known.s2
        batch[source] = {"pixels": pixels[of]}
        if source in experiment.objective.labelled:
            batch[source]["label"] = known.label[of][:, None]
    return batch


def labelled_rows(known: Places) -> np.ndarray:
    return np.concatenate([np.flatnonzero(known.label == k)[:PER_CLASS] for k in range(1, CLASSES + 1)])


# --- the probe


def accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of test samples that a logistic regression on the training samples gets right."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, tol=1e-3, max_iter=1000))
    return float(probe.fit(*train).score(*test))


def moments(where: Places) -> np.ndarray:
    """Mean and standard deviation of each band of each patch, [b, 2c]."""
    return np.concatenate([where.s2.mean((1, 3, 4)), where.s2.std((1, 3, 4))], axis=1)
