"""Runs the classifier of a supervised run over a split, for the report page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from eo_jax.data import Store
from eo_jax.data.source import Source
from eo_jax.evaluators import supervised
from eo_jax.evaluators.base import Context, Weights
from eo_jax.evaluators.supervised import Predicted
from eo_jax.report import class_maps, composite, pictures
from eo_jax.report.patches import Bands
from eo_jax.report.predictions import Example, Predictions
from eo_jax.sensors import Sensor

_MAPS, _CHIPS = 4, 12  # samples that are drawn: with a map each, or with one class each
_SPLITS = ("test", "val", "train")  # the first that has samples is shown


def predict(context: Context, weights: Weights, split: str, bands: Bands) -> Predictions | None:
    """The predictions for a split, "" for the first of _SPLITS that the store has; None for an
    objective that predicts no classes.
    """
    label = context.data.sources[context.source].label
    if not label or "logits" not in context.preview_names:
        return None
    source = _first_split(context, split)
    parts = supervised.predictions(context, weights, source.config.split, label)
    if source.config.draw == "pixel":
        counts, examples = _scenes(source, label, list(parts), bands)
    else:
        counts, examples = _patches(source, parts, bands)
    names = class_maps.names_of(source.store.manifest["labels"][label])
    return Predictions(source.config.split, label, names, counts, examples)


def _first_split(context: Context, split: str) -> Source:
    """The source opened for a split. Raises ValueError where it has none of them."""
    *others, last = (split,) if split else _SPLITS
    for name in others:
        try:
            return context.open_split(name)
        except ValueError:
            continue
    return context.open_split(last)


# ------------------------------------------------------------------ pixels of scenes


def _scenes(
    source: Source, label: str, parts: list[Predicted], bands: Bands
) -> tuple[np.ndarray, list[Example]]:
    """Confusion matrix, and the scenes with most predicted pixels as maps."""
    counts = supervised.confusion(iter(parts))
    where = source.candidates(label).where
    classes, truth = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("classes", "truth")
    )
    samples, pixels = np.unique(where[:, 1], return_counts=True)
    chosen = samples[np.argsort(-pixels, kind="stable")[:_MAPS]]
    examples = [
        Example(
            str(source.store.index["id"][i]),
            _image(source.arrays(i)[0], source.sensor, bands),
            _filled(source.store, i, where, truth),
            _filled(source.store, i, where, classes),
        )
        for i in sorted(chosen.tolist())
    ]
    return counts, examples


def _filled(store: Store, i: int, where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of the pixels of sample i as a map [h, w], 0 elsewhere."""
    filled = np.zeros(store.index["shape"][i, 1:], np.int64)
    inside = where[:, 1] == i
    filled[where[inside, 2], where[inside, 3]] = values[inside]
    return filled


# ------------------------------------------------------------------ patches


def _patches(
    source: Source, parts: Iterator[Predicted], bands: Bands
) -> tuple[np.ndarray, list[Example]]:
    """Confusion matrix, and evenly spaced samples with their first crop."""
    members = np.sort(source.groups.members)
    chosen: Mapping[int, list[Example]] = {}
    counts = 0
    for part in parts:
        counts = counts + supervised.counts_of(part)
        chosen = chosen or _spaced(members, _MAPS if part.truth.ndim > 1 else _CHIPS)
        fields = part.batch[source.name]
        for row, truth, classes in zip(part.rows, part.truth, part.classes, strict=True):
            position = int(fields["position"][row])
            if chosen.get(position) == []:
                name = str(source.store.index["id"][position])
                image = _image(fields["pixels"][row, 0], source.sensor, bands)
                maps = np.atleast_2d(truth), np.atleast_2d(classes)
                chosen[position].append(Example(name, image, *maps))
    return counts, [example for examples in chosen.values() for example in examples]


def _spaced(members: np.ndarray, count: int) -> dict[int, list[Example]]:
    """{sample: []} of up to `count` samples, evenly spaced."""
    numbers = np.unique(np.linspace(0, len(members) - 1, count).round().astype(int))
    return {int(i): [] for i in members[numbers]}


def _image(pixels: np.ndarray, sensor: Sensor, bands: Bands) -> np.ndarray:
    """Digital numbers [c, h, w] as a picture in the first composite of the sensor."""
    shown = bands.composites[0]
    chosen = list(shown.bands)
    values = np.moveaxis(pixels[chosen], 0, -1) * sensor.scales[chosen] + sensor.offsets[chosen]
    image = composite.red_green_blue(values, shown)
    valid = ~sensor.missing(pixels[chosen]).any(0)
    return pictures.colour(image, (0, 1, 2), pictures.percentile_limits([image], [valid]), valid)
