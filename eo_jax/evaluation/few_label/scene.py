"""A scene of a store, whole, with its labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import SourceConfig
from eo_jax.data.store.reader import open_store
from eo_jax.evaluation.few_label import protocol
from eo_jax.sensors import Sensor


class Scene(NamedTuple):
    """A scene.

    Attributes:
        store: its folder or URL.
        content: content hash of the store.
        sensor: the row of its bands.
        pixels: [c, h, w] digital numbers.
        valid: bool, of the same shape.
        classes: int64 [h, w]; 0 where there is no label, and where a class has too few to count.
        names: {class: name}, where the store has names.
    """

    store: str
    content: str
    sensor: Sensor
    pixels: np.ndarray
    valid: np.ndarray
    classes: np.ndarray
    names: dict[int, str]

    @property
    def codes(self) -> np.ndarray:
        """The classes that count, in order."""
        return np.unique(self.classes[self.classes > 0])


def read_scene(store: str, label: str) -> Scene:
    """The scene of a store. Raises ValueError unless it has one sample with a label map."""
    opened = open_store(store)
    if len(opened.index["id"]) != 1:
        raise ValueError(
            f"{store}: has {len(opened.index['id'])} samples, expected one whole scene; convert it "
            "with `data_prep convert hsi-scene` and without --patch-size"
        )
    about = opened.manifest.get("labels", {})
    if label not in about:
        raise ValueError(
            f"{store}: no label {label!r}; there is {', '.join(about) or 'none'}: give --label, or "
            "convert with --ground-truth"
        )
    sensor = str(opened.index["sensor"][0])
    config = SourceConfig(store=store, sensor=sensor, split="all", draw="patch")
    source = open_source("scene", config, 1, 0)
    pixels, labels = source.arrays(0)
    classes = np.asarray(labels[label])
    if classes.ndim != 2:
        raise ValueError(f"{store}: label {label!r} is of the whole scene, expected a map")
    try:
        classes = protocol.counted(classes.astype(np.int64))
    except ValueError as error:
        raise ValueError(f"{store}: label {label!r} has {error}") from error
    names = about[label].get("classes", {})
    return Scene(
        store,
        opened.content_hash,
        source.sensor,
        np.asarray(pixels),
        ~source.sensor.missing(pixels),
        classes,
        {int(code): str(entry.get("name", "")) for code, entry in names.items()},
    )
