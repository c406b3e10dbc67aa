"""Feature maps of a scene: what classifiers are fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from eo_jax.augment.radiometry import normalise
from eo_jax.averaging import likeness, mean_of_similar, mean_of_window
from eo_jax.evaluation.candidates import updated_statistics
from eo_jax.evaluation.few_label.protocol import WINDOW
from eo_jax.evaluation.few_label.scene import Scene
from eo_jax.trained_encoder import TrainedEncoder

COMPONENTS = 20
_AT_ONCE = 4096  # windows
_BATCHES, _BATCH = 30, 256  # that set the BatchNorm statistics of an untrained encoder


def windows(scene: Scene, view: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(digital numbers float32, valid mask) [n, c, view, view] around pixels, numbered row by row;
    the scene is mirrored at its borders.
    """
    half = view // 2
    around = ((0, 0), (half, half), (half, half))
    pixels, valid = (np.pad(array, around, "reflect") for array in (scene.pixels, scene.valid))
    rows, columns = np.divmod(numbers, scene.classes.shape[1])
    place = np.arange(view)
    at = (rows[:, None] + place)[:, :, None], (columns[:, None] + place)[:, None, :]
    found, mask = pixels[:, *at], valid[:, *at]
    return np.moveaxis(found, 0, 1).astype(np.float32), np.moveaxis(mask, 0, 1)


def encoded(trained: TrainedEncoder, scene: Scene) -> np.ndarray:
    """float32 [h, w, d]: the pooled feature of the window around each pixel."""
    height, width = scene.classes.shape
    parts = [trained.pooled(*batch) for batch in _batches(scene, trained.view)]
    return np.concatenate(parts)[: height * width].reshape(height, width, -1)


def _batches(scene: Scene, view: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All windows; the last batch is filled up, so that one size is compiled."""
    count = scene.classes.size
    size = min(_AT_ONCE, count)
    for first in range(0, count, size):
        yield windows(scene, view, np.minimum(np.arange(first, first + size), count - 1))


def untrained(trained: TrainedEncoder, scene: Scene, seed: int = 0) -> TrainedEncoder:
    """The encoder with initial weights, and BatchNorm statistics of the scene."""
    params, statistics = trained.encoder.network.init(jax.random.key(seed))
    random = np.random.default_rng(seed)
    if statistics:
        update = jax.jit(
            lambda statistics, pixels, valid: updated_statistics(
                trained, params, statistics, pixels, valid
            )
        )
        for _ in range(_BATCHES):
            chosen = random.integers(0, scene.classes.size, _BATCH)
            statistics = update(statistics, *windows(scene, trained.view, chosen))
    arrays = jax.device_get((params, statistics))
    return dataclasses.replace(
        trained, name=f"{trained.name}, untrained", params=arrays[0], statistics=arrays[1]
    )


def spectra(trained: TrainedEncoder, scene: Scene) -> np.ndarray:
    """float32 [h, w, c], normalised as the encoder reads them; 0 where there is no data."""
    pixels, valid = jnp.asarray(scene.pixels, jnp.float32), jnp.asarray(scene.valid)
    return np.moveaxis(np.asarray(normalise(pixels, valid, trained.mean, trained.std)), 0, -1)


def components(features: np.ndarray) -> np.ndarray:
    """The first principal components of all pixels [h, w, d], each with unit variance."""
    flat = features.reshape(-1, features.shape[-1])
    found = PCA(min(COMPONENTS, *flat.shape), whiten=True, random_state=0).fit_transform(flat)
    return found.reshape(*features.shape[:2], -1)


def standardised(features: np.ndarray) -> np.ndarray:
    """float32 [h * w, d], each channel with mean 0 and variance 1 over the scene."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    spread = flat.std(0)
    return ((flat - flat.mean(0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def averaged(found: np.ndarray, scene: Scene) -> np.ndarray:
    """Features [h, w, d], averaged over the similar pixels of the window of the protocol."""
    valid = scene.valid.any(0)
    return mean_of_similar(found, valid, WINDOW, likeness(found, valid))


def floors(trained: TrainedEncoder, scene: Scene) -> dict[str, np.ndarray]:
    """{name: features [h, w, d]} that cost no training."""
    valid, raw = scene.valid.any(0), spectra(trained, scene)
    mean = mean_of_window(raw, valid, WINDOW)
    initial = encoded(untrained(trained, scene), scene)
    similar = averaged(initial, scene)
    return {
        "spectrum": raw,
        "mean spectrum": mean,
        "principal components": components(raw),
        "principal components of the mean spectrum": components(mean),
        "untrained, mean": mean_of_window(initial, valid, WINDOW),
        "untrained, mean of similar": similar,
        "spectrum beside untrained, mean of similar": np.concatenate([raw, similar], axis=-1),
    }


def pretrained(trained: TrainedEncoder, scene: Scene) -> dict[str, np.ndarray]:
    """{name: features [h, w, d]} of the encoder."""
    valid, found = scene.valid.any(0), encoded(trained, scene)
    similar = averaged(found, scene)
    beside = np.concatenate([spectra(trained, scene), similar], axis=-1)
    return {
        "pretrained": found,
        "pretrained, mean": mean_of_window(found, valid, WINDOW),
        "pretrained, mean of similar": similar,
        "spectrum beside pretrained, mean of similar": beside,
    }
