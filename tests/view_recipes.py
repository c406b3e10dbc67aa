"""Recipes of a sensor with three bands, compiled once for all tests that use them, and pixels for
it.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.augment import views
from eo_jax.augment.crops import Config, CropSet
from eo_jax.sensors import ENMAP

# Compiled in a third of the time; every recipe here runs once or twice.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
NODATA = -32768
MEAN, STD = np.array([1000.0, 1500.0, 2200.0]), np.array([300.0, 450.0, 700.0])
SENSOR = dataclasses.replace(
    ENMAP, id="three", bands=ENMAP.bands[:3], mean=tuple(MEAN), std=tuple(STD), nodata=NODATA
)
SIDE = 16
WHOLE = {"size": SIDE, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
UPRIGHT = {**WHOLE, "flips": "none"}


@functools.cache
def recipe_of(sources: tuple, crops: tuple) -> views.Recipe:
    """Compiled once for all tests that use it."""

    def numbers(sensor):
        return views.Normalisation(np.array(sensor.mean), np.array(sensor.std), "test")

    made = views.make_recipe(
        Config(crops=dict(crops)), {name: (sensor, numbers(sensor)) for name, sensor in sources}
    )
    return views.Recipe(jit(made.train), jit(made.evaluate))


def recipe(**fields) -> views.Recipe:
    """Of one source "three" with the one crop set "global"."""
    return recipe_of((("three", SENSOR),), (("global", CropSet(**fields)),))


def digital_numbers(count: int = 2, dates: int = 1) -> np.ndarray:
    return (
        np.random.default_rng(6).integers(200, 5000, (count, dates, 3, SIDE, SIDE)).astype(np.int16)
    )


def with_holes(count: int = 2) -> np.ndarray:
    """A block and a column without any data, and values of single bands."""
    pixels = digital_numbers(count)
    pixels[..., 3:7, 4:9] = NODATA
    pixels[..., 12] = NODATA
    pixels[np.random.default_rng(7).random(pixels.shape) < 0.05] = NODATA
    return pixels


def normalised(pixels: np.ndarray) -> np.ndarray:
    """[b, 1, c, h, w] -> [b, c, h, w]"""
    return np.where(
        pixels == NODATA, 0, (pixels.astype(float) - MEAN[:, None, None]) / STD[:, None, None]
    )[:, 0]


def batch(pixels: np.ndarray, **fields) -> dict:
    return {
        "three": {"pixels": jnp.asarray(pixels)}
        | {name: jnp.asarray(array) for name, array in fields.items()}
    }


def trained(pixels: np.ndarray, seed: int = 0, **fields) -> np.ndarray:
    """Views [b, v, H, W, c] in digital numbers, NaN where they are not valid."""
    made = recipe(**fields).train(batch(pixels), jax.random.key(seed))
    return np.where(
        made["three/global/valid"], np.asarray(made["three/global"]) * STD + MEAN, np.nan
    )
