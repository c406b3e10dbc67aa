"""Pictures of samples of any sensor, and of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from eo_jax.data import Store
from eo_jax.report import class_maps, composite, pictures
from eo_jax.report.composite import Composite
from eo_jax.sensors import Sensor

_MAX_PIXELS = 256  # of a picture's side; larger samples are subsampled
_MOST_MISSING = 0.5  # fraction of no-data from which on a band is not shown
_MOST_NAMES = 6  # of the classes of one patch


class LabelMap(NamedTuple):
    """A label map as a picture, uint8 [h, w, 3]; `note` has its range where it has no classes."""

    name: str
    rgb: np.ndarray
    note: str


class SamplePicture(NamedTuple):
    """One sample as a picture, uint8 [h, w, 3], its label maps, and the labels of the whole patch
    in words.
    """

    number: int
    rgb: np.ndarray
    maps: tuple[LabelMap, ...]
    labels: tuple[str, ...]


def good_bands(store: Store, sensor: Sensor) -> np.ndarray:
    """bool [c]: bands that vary and have data, by the statistics of the training split."""
    moments = store.manifest["statistics"].get(sensor.id)
    if not moments:
        return np.ones(len(sensor.bands), bool)
    std = np.array(moments["std"], float)
    missing = np.array(moments.get("nodata_share", [0] * len(std)), float)
    return (std > 0) & (missing < _MOST_MISSING)


def composite_of(store: Store, sensor: Sensor) -> Composite:
    """How the samples of a sensor of this store are shown."""
    return composite.composite(sensor, good_bands(store, sensor))


def label_colours(store: Store) -> dict[str, class_maps.Colours]:
    """{label: colours of its classes}; {} as colours where it does not have classes."""
    return {
        name: class_maps.colours(class_maps.values_of(about))
        for name, about in store.about("labels").items()
    }


def examples(store: Store, count: int) -> dict[str, list[SamplePicture]]:
    """{sensor id: pictures}: up to `count` samples, equally many of each sensor and at least one,
    evenly spaced, each with its own stretch.
    """
    sensors = np.unique(store.index["sensor"]).tolist()
    each = max(1, count // max(1, len(sensors)))
    return {name: _pictures(store, store.sensor(name), each) for name in sensors}


def _pictures(store: Store, sensor: Sensor, count: int) -> list[SamplePicture]:
    numbers = np.flatnonzero(store.index["sensor"] == sensor.id)
    spaced = np.linspace(0, len(numbers) - 1, count).round().astype(int)
    shown, palettes = composite_of(store, sensor), label_colours(store)
    return [
        _picture(store, i, sensor, shown, palettes) for i in numbers[np.unique(spaced)].tolist()
    ]


def _picture(
    store: Store,
    i: int,
    sensor: Sensor,
    shown: Composite,
    palettes: Mapping[str, class_maps.Colours],
) -> SamplePicture:
    image, valid = _image(store, i, sensor, shown)
    limits = pictures.percentile_limits([image], [valid])
    rgb = pictures.colour(image, (0, 1, 2), limits, valid)
    about = store.about("labels")
    found = store.labels(i) if about else {}
    labels = {name: np.asarray(found[name]) for name in sorted(about.keys() & found.keys())}
    maps = tuple(
        _label_map(name, label, palettes[name])
        for name, label in labels.items()
        if about[name]["shape"] == "map"
    )
    words = tuple(
        f"{name}: {_words(label, about[name])}"
        for name, label in labels.items()
        if about[name]["shape"] != "map"
    )
    return SamplePicture(i, rgb, maps, words)


def _image(store: Store, i: int, sensor: Sensor, shown: Composite) -> tuple[np.ndarray, np.ndarray]:
    """Red, green and blue [h, w, 3] in physical units, and the valid mask [h, w]."""
    bands = list(shown.bands)
    pixels = _thinned(store.pixels(i, bands))
    values = np.moveaxis(pixels, 0, -1) * sensor.scales[bands] + sensor.offsets[bands]
    return composite.red_green_blue(values, shown), ~sensor.missing(pixels).any(0)


def _thinned(array: np.ndarray) -> np.ndarray:
    """Every n-th row and column of [..., h, w], so that no side is above _MAX_PIXELS."""
    step = -(-max(array.shape[-2:]) // _MAX_PIXELS)
    return array[..., ::step, ::step]


def _label_map(name: str, label: np.ndarray, palette: class_maps.Colours) -> LabelMap:
    label = _thinned(label)
    if palette:
        return LabelMap(name, class_maps.paint(label, palette), "")
    finite = label[np.isfinite(label)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    rgb = pictures.heat(label.astype(float) - low, high - low)
    return LabelMap(name, pictures.hatch(rgb, ~np.isfinite(label)), f"{low:.4g} to {high:.4g}")


def _words(label: np.ndarray, about: Mapping[str, Any]) -> str:
    """The label of a whole patch: its class, the classes that are 1, or its values."""
    names = class_maps.names_of(about)
    if label.ndim == 0 and label.dtype.kind in "iu":
        return class_maps.title(int(label), names) if label else "unlabelled"
    flat = label.ravel()
    if names and np.isin(flat, (0, 1)).all():
        set_to_one = (np.flatnonzero(flat) + 1).tolist()
        return _cut([names.get(value, str(value)) for value in set_to_one]) or "none"
    return _cut([f"{value:.4g}" for value in flat.tolist()])


def _cut(words: list[str]) -> str:
    rest = len(words) - _MOST_NAMES
    return ", ".join(words[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
