"""Recipes: named functions that turn a Batch of digital numbers into Views, inside jit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.augment import geometry, radiometry
from eo_jax.schema import Batch, Views
from eo_jax.sensors import Sensor

# A resampled value counts as data where at least this share of its interpolation weight lay on data.
_VALID_WEIGHT = 0.999


@dataclasses.dataclass(frozen=True)
class Config:
    """How views are made.

    Attributes:
        recipe: one view "global" of one date, random resized crop; "crop_flip" adds flips up-down and left-right (MAE, SpectralEarth),
            "crop_d4" all eight symmetries of the square: there is no up in an image taken from above.
        size: side of the view in pixels.
        scale: range of the crop's share of the patch's area.
        ratio: range of the crop's columns / rows.
        gain: range of a random factor on the physical values of a whole view, as illumination and topography give; (1, 1) for none.
        statistics: mean and standard deviation for normalisation: "published" (the sensor table) or "store" (this store's training split).
    """

    recipe: str = "crop_flip"
    size: int = 128
    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    gain: tuple[float, float] = (1.0, 1.0)
    statistics: str = "published"

    def __post_init__(self):
        for field, allowed in (("recipe", tuple(_RECIPES)), ("statistics", ("published", "store"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"config.augment.{field}: {getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"config.augment.scale: {self.scale}; expected 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"config.augment.ratio: {self.ratio}; expected 0 < low <= high")
        if not 0 < self.gain[0] <= self.gain[1]:
            raise ValueError(f"config.augment.gain: {self.gain}; expected 0 < low <= high")


@dataclasses.dataclass(frozen=True, eq=False)
class Normalisation:
    """Mean and standard deviation of a source in digital numbers, [c] each, and who says so."""

    mean: np.ndarray
    std: np.ndarray
    source: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a recipe gives.

    Attributes:
        train: (batch, key) -> Views, augmented.
        evaluate: batch -> Views of the whole patch, nothing random.
    """

    train: Callable[[Batch, jax.Array], Views]
    evaluate: Callable[[Batch], Views]


def normalisation(statistics: str, sensor: Sensor, store_statistics: Mapping | None) -> Normalisation:
    """The numbers of `config.augment.statistics`; ValueError where they do not exist: there is no silent fall-back."""
    if statistics == "published":
        if not sensor.mean:
            raise ValueError(f"config.augment.statistics: nobody published statistics for {sensor.title}; use 'store'")
        return Normalisation(np.array(sensor.mean), np.array(sensor.std), sensor.statistics_source)
    if not store_statistics:
        raise ValueError("config.augment.statistics: 'store', but the store's manifest has no statistics; convert it again")
    mean, std = np.array(store_statistics["mean"], float), np.array(store_statistics["std"], float)
    dead = np.flatnonzero(~(std > 0))
    if len(dead):
        names = ", ".join(sensor.bands[i].name for i in dead[:5])
        raise ValueError(f"config.augment.statistics: 'store', but {len(dead)} bands are constant there ({names} ...); use 'published'")
    return Normalisation(mean, std, "training split of the store")


def crop_sets(recipe: str) -> Mapping[str, int]:
    """{crop set: number of views} that a recipe gives of every source."""
    return _CROP_SETS[recipe]


def make_recipe(config: Config, sources: Mapping[str, tuple[Sensor, Normalisation]]) -> Recipe:
    """The recipe of a config for {source: (sensor, normalisation)}."""
    return _RECIPES[config.recipe](config, sources)


def crop_flip(config: Config, sources: Mapping[str, tuple[Sensor, Normalisation]]) -> Recipe:
    """MAE's augmentation (He et al. 2022; SpectralEarth): random resized crop and flips of one date."""
    return _crop_and_turn(config, sources, np.array([0.5, 0.5, 0.0]))


def crop_d4(config: Config, sources: Mapping[str, tuple[Sensor, Normalisation]]) -> Recipe:
    """The same with all eight symmetries of the square."""
    return _crop_and_turn(config, sources, np.array([0.5, 0.5, 0.5]))


_RECIPES = {"crop_flip": crop_flip, "crop_d4": crop_d4}
_CROP_SETS = {"crop_flip": {"global": 1}, "crop_d4": {"global": 1}}


def _crop_and_turn(config: Config, sources: Mapping[str, tuple[Sensor, Normalisation]], flip_odds: np.ndarray) -> Recipe:
    """One view of one date; `flip_odds` [3]: up-down, left-right, diagonal."""

    def view(batch: Batch, source: str, gain: jax.Array, boxes: jax.Array, flips: jax.Array) -> Views:
        sensor, numbers = sources[source]
        x, valid = radiometry.normalise(batch[source]["pixels"][:, 0], gain, numbers.mean, numbers.std, sensor.nodata)
        return _crop(f"{source}/global", x, valid, boxes, flips, config.size)

    def train(batch: Batch, key: jax.Array) -> Views:
        views = {}
        for i, source in enumerate(sorted(sources)):
            b, _, _, height, width = batch[source]["pixels"].shape
            box_key, flip_key, gain_key = jax.random.split(jax.random.fold_in(key, i), 3)
            gain = jax.random.uniform(gain_key, (b,), minval=config.gain[0], maxval=config.gain[1])
            boxes = geometry.random_boxes(box_key, b, height, width, config.scale, config.ratio)
            views |= view(batch, source, gain, boxes, jax.random.bernoulli(flip_key, flip_odds, (b, 3)))
        return views

    def evaluate(batch: Batch) -> Views:
        views = {}
        for source in sources:
            b, _, _, height, width = batch[source]["pixels"].shape
            views |= view(batch, source, jnp.ones(b), geometry.whole_boxes(b, height, width), jnp.zeros((b, 3), bool))
        return views

    return Recipe(train, evaluate)


def _crop(name: str, x: jax.Array, valid: jax.Array, boxes: jax.Array, flips: jax.Array, size: int) -> Views:
    """Both entries of one view [b, 1, H, W, c]. No-data (0 in `x`) takes no part in the interpolation."""
    weight = geometry.crop_resize_flip(valid.astype(jnp.float32), boxes, flips, size)
    value = geometry.crop_resize_flip(x, boxes, flips, size) / jnp.maximum(weight, _VALID_WEIGHT)
    is_valid = weight >= _VALID_WEIGHT
    return {name: jnp.where(is_valid, value, 0.0)[:, None], f"{name}/valid": is_valid[:, None]}
