"""The recipe of a config: from a Batch of digital numbers to Views, inside jit."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from eo_jax.augment import photometric, radiometry
from eo_jax.augment.chances import Uniforms, bernoulli, draw, randint
from eo_jax.augment.crops import Config, CropSet, check_sensor, crop_sets
from eo_jax.augment.differences import with_pixels
from eo_jax.augment.jitter import JITTERS
from eo_jax.augment.placement import (
    Placement,
    random_placement,
    render_labels,
    render_views,
    sampling_of,
    select_dates,
    whole_placement,
)
from eo_jax.schema import Batch, Views
from eo_jax.sensors import Sensor

__all__ = [
    "Config",
    "CropSet",
    "Normalisation",
    "Recipe",
    "crop_sets",
    "make_recipe",
    "normalisation",
]

# Draws of a crop set, each with a key of its own. A new one is appended, so that the others keep
# their keys.
_DRAWS = ("box", "flip", "gain", "chances", "noise", "bands")


@dataclasses.dataclass(frozen=True, eq=False)
class Normalisation:
    """Mean and standard deviation of a source in digital numbers, [c] each, and their origin."""

    mean: np.ndarray
    std: np.ndarray
    source: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The functions from batch to views.

    Attributes:
        train: (batch, key) -> augmented Views.
        evaluate: batch -> Views of the whole patch, without randomness.
    """

    train: Callable[[Batch, jax.Array], Views]
    evaluate: Callable[[Batch], Views]


def normalisation(
    statistics: str, sensor: Sensor, store_statistics: Mapping | None
) -> Normalisation:
    """The numbers of `config.augment.statistics`; ValueError where they do not exist, since there
    is no silent fall-back.
    """
    if statistics == "published":
        if not sensor.mean:
            raise ValueError(
                f"config.augment.statistics: nobody published statistics for {sensor.title}; use "
                "'store'"
            )
        return Normalisation(np.array(sensor.mean), np.array(sensor.std), sensor.statistics_source)
    if not store_statistics:
        raise ValueError(
            "config.augment.statistics: 'store', but the store's manifest has no statistics; "
            "convert it again"
        )
    mean, std = np.array(store_statistics["mean"], float), np.array(store_statistics["std"], float)
    dead = np.flatnonzero(~(std > 0))
    if len(dead):
        names = ", ".join(sensor.bands[i].name for i in dead[:5])
        way_out = (
            "use 'published'"
            if sensor.mean
            else "leave them out: config.data.sources.*.bands, or --drop-bad-bands of convert"
        )
        raise ValueError(
            f"config.augment.statistics: 'store', but {len(dead)} bands are constant there "
            f"({names} ...); {way_out}"
        )
    return Normalisation(mean, std, "training split of the store")


def make_recipe(config: Config, sources: Mapping[str, tuple[Sensor, Normalisation]]) -> Recipe:
    """The recipe of a config for {source: (sensor, normalisation)}; ValueError where a sensor does
    not support it.
    """
    crop_sets(config, sources)
    for name, (sensor, _) in sources.items():
        check_sensor(config, name, sensor)

    def train(batch: Batch, key: jax.Array) -> Views:
        views = {}
        # Numbered among all sources, not among those of this batch, so that a source's views depend
        # on no other source.
        for i, name in enumerate(sorted(sources)):
            if name in batch:
                views |= _train_views(
                    name,
                    with_pixels(batch[name]),
                    config.for_source(name),
                    *sources[name],
                    jax.random.fold_in(key, i),
                    config.sampling,
                )
        return views

    def evaluate(batch: Batch) -> Views:
        views = {}
        for name in sources:
            if name in batch:
                views |= _whole_views(
                    name,
                    with_pixels(batch[name]),
                    config.for_source(name)["global"],
                    *sources[name],
                    config.sampling,
                )
        return views

    return Recipe(train, evaluate)


def _train_views(
    source: str,
    fields: Mapping[str, Array],
    crops: Mapping[str, CropSet],
    sensor: Sensor,
    numbers: Normalisation,
    key: jax.Array,
    sampling: str,
) -> Views:
    views = {}
    for name, crop in crops.items():
        # The same key whatever other crop sets there are.
        set_key = key if name == "global" else jax.random.fold_in(key, zlib.crc32(name.encode()))
        keys = dict(zip(_DRAWS, jax.random.split(set_key, len(_DRAWS)), strict=True))
        uniforms = draw(keys["chances"], len(fields["pixels"]), crop.views)
        placement = random_placement(keys, uniforms, crop, fields["pixels"].shape)
        z, valid = _cropped(
            fields["pixels"], placement, crop, sensor, numbers, keys["gain"], sampling
        )
        z = _distorted(z, valid, crop, sensor, numbers, keys, uniforms)
        views |= _entries(f"{source}/{name}", fields, z, valid, placement, crop)
    return views


def _whole_views(
    source: str,
    fields: Mapping[str, Array],
    crop: CropSet,
    sensor: Sensor,
    numbers: Normalisation,
    sampling: str,
) -> Views:
    crop, placement = (
        CropSet(size=crop.size, interpolation=crop.interpolation),
        whole_placement(fields["pixels"].shape),
    )
    return _entries(
        f"{source}/global",
        fields,
        *_cropped(fields["pixels"], placement, crop, sensor, numbers, None, sampling),
        placement,
        crop,
    )


def _cropped(
    pixels: Array,
    placement: Placement,
    crop: CropSet,
    sensor: Sensor,
    numbers: Normalisation,
    gain_key: jax.Array | None,
    sampling: str,
) -> tuple[Array, Array]:
    """(views, valid masks) [b, v, H, W, c], with gain."""
    gain = None
    if gain_key is not None and tuple(crop.gain) != (1, 1):
        gain = jax.random.uniform(
            gain_key, (len(pixels), crop.views, 1, 1, 1), minval=crop.gain[0], maxval=crop.gain[1]
        )
    always_valid = sensor.nodata is None and not jnp.issubdtype(pixels.dtype, jnp.floating)

    def values(x: Array, gain: Array | None) -> tuple[Array, Array | None]:
        valid = radiometry.valid_values(x, sensor.nodata)
        x = x.astype(jnp.float32)
        if gain is not None:
            x = radiometry.brighten(x, gain, sensor)
        z = radiometry.normalise(x, valid, numbers.mean, numbers.std)
        return z, None if always_valid else valid

    selected = select_dates(pixels, placement.dates)
    return render_views(selected, gain, values, placement, crop, sampling_of(crop, sampling))


def _distorted(
    z: Array,
    valid: Array,
    crop: CropSet,
    sensor: Sensor,
    numbers: Normalisation,
    keys: Mapping[str, jax.Array],
    uniforms: Uniforms,
) -> Array:
    """Views with every distortion of values, in the published order.

    Blur, which comes between grayscale and solarise there, is part of the crop: it commutes with
    brightness and grayscale, and with contrast except for the weight of borders in the mean. It
    does not commute with the clipping of additive jitter.
    """

    def normalised(digital_numbers):
        return (np.asarray(digital_numbers) - numbers.mean) / numbers.std

    if any(crop.jitter_prob):
        z = JITTERS[crop.jitter](z, valid, crop, sensor, normalised, uniforms)
    if any(crop.grayscale_prob):
        z = photometric.grayscale(z, valid, bernoulli(uniforms["grey"], crop.grayscale_prob))
    if any(crop.solarise_prob):
        low, high = normalised(np.array(radiometry.physical_ranges(sensor)).T)
        z = photometric.solarise(
            z,
            valid,
            bernoulli(uniforms["solarise"], crop.solarise_prob),
            low,
            high,
            crop.solarise_threshold,
        )
    if crop.noise_std:
        z = photometric.add_noise(z, valid, keys["noise"], crop.noise_std)
    if any(crop.band_drop_prob):
        count = randint(uniforms["band_count"], *crop.band_drop)
        z = photometric.drop_bands(
            z,
            keys["bands"],
            jnp.where(bernoulli(uniforms["band_drop"], crop.band_drop_prob), count, 0),
        )
    return z


def _entries(
    name: str,
    fields: Mapping[str, Array],
    z: Array,
    valid: Array,
    placement: Placement,
    crop: CropSet,
) -> Views:
    """The Views of one crop set, with a label where the batch has one; a map is 0 (unlabelled)
    where a pixel has no valid band.
    """
    views = {name: z, f"{name}/valid": valid}
    if "label" not in fields:
        return views
    pixels, label = fields["pixels"], fields["label"]
    if label.shape[:2] != pixels.shape[:2]:
        raise ValueError(
            f"views {name!r}: label is {label.shape}, its pixels {pixels.shape}; expected [b, t, "
            "...] with the same b and t"
        )
    selected = select_dates(label, placement.dates)
    if label.shape[2:] == pixels.shape[3:]:
        selected = jnp.where(valid.any(-1), render_labels(selected, placement, crop), 0)
    else:
        selected = jnp.broadcast_to(selected, (len(label), crop.views, *label.shape[2:]))
    return views | {f"{name}/label": selected}
