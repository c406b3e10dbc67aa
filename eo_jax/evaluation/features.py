"""Features of a split, computed once and kept by the content of store, weights and task."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from rich.console import Console
from rich.progress import Progress

from eo_jax.evaluation.reading import Read, TaskData, is_per_patch


class Features(NamedTuple):
    """Features and targets of a split.

    Attributes:
        x: float32 [n, d] of windows, or [n, h, w, d] of their tokens; maybe a map of a file.
        target: [n], [n, k] or [n, H, W], as stored.
    """

    x: np.ndarray
    target: np.ndarray


class Featurizer(Protocol):
    """What is judged: a trained encoder, or a floor.

    One that has `compared(before, after)` says what it gives of two dates; of all others it is
    `absolute_difference`.

    Attributes:
        facts: what decides its features, in plain JSON types.
        patch: side in pixels of one dense feature.
    """

    facts: Mapping[str, Any]
    patch: int

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, d] of digital numbers and valid mask [b, c, H, W]."""

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, d] of the same."""


def features_of(
    featurizer: Featurizer, data: TaskData, split: str, resize: int, folder: Path
) -> Features:
    """Features of a split, read from `folder` where the same were computed before.

    Args:
        resize: side in pixels that windows are resized to; 0 to leave them.
    """
    facts = {
        "features": featurizer.facts,
        "store": data.content,
        "task": [data.task.kind, data.task.label],
        "sensor": data.sensor,
        "crop": data.crop,
        "split": split,
        "resize": resize,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    kept = folder / key
    if not kept.is_dir():
        _write(kept, *_computed(featurizer, data, split, resize), facts)
    return Features(np.load(kept / "x.npy", mmap_mode="r"), np.load(kept / "target.npy"))


def _computed(
    featurizer: Featurizer, data: TaskData, split: str, resize: int
) -> tuple[np.ndarray, np.ndarray]:
    compute = featurizer.pooled if is_per_patch(data.task) else featurizer.dense
    compared = getattr(featurizer, "compared", absolute_difference)
    xs, targets = [], []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"features: {data.task.title}, {split}", total=None)
        for batch in data.read(split):
            size = data.batch_size
            found = [_padded(compute, date, resize, size) for date in dates_of(batch)]
            xs.append(compared(*found) if len(found) == 2 else found[0])
            targets.append(batch.target)
            progress.update(task, advance=len(batch.target))
    return np.concatenate(xs), np.concatenate(targets)


def absolute_difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What changed between the features of two dates."""
    return np.abs(after - before)


def dates_of(batch: Read) -> list[Read]:
    """A batch of windows, or of two dates [b, 2, c, H, W], as one of windows for each date."""
    if batch.pixels.ndim == 4:
        return [batch]
    return [Read(batch.pixels[:, t], batch.valid[:, t], batch.target) for t in (0, 1)]


def _padded(compute: Any, batch: Read, resize: int, size: int) -> np.ndarray:
    """Features of a batch; the last one is filled up to `size`, so that one size is compiled."""
    batch = resized(batch, resize) if resize else batch
    missing = size - len(batch.pixels)
    if not missing:
        return np.asarray(compute(batch.pixels, batch.valid))
    fill = [(0, missing), (0, 0), (0, 0), (0, 0)]
    found = compute(np.pad(batch.pixels, fill), np.pad(batch.valid, fill))
    return np.asarray(found)[: len(batch.pixels)]


def resized(batch: Read, side: int) -> Read:
    """Windows resized to `side` by bilinear interpolation of valid values.

    A value whose weights are mostly of no-data is no-data.
    """
    rows, columns = (_weights(size, side) for size in batch.pixels.shape[-2:])
    mask = batch.valid.astype(np.float32)

    def interpolate(values: np.ndarray) -> np.ndarray:
        return np.einsum("yh,bchw,xw->bcyx", rows, values, columns, optimize=True)

    weight = interpolate(mask)
    pixels = interpolate(np.where(batch.valid, batch.pixels, 0)) / np.maximum(weight, 1e-6)
    return Read(pixels.astype(np.float32), weight > 0.5, batch.target)


def _weights(size: int, side: int) -> np.ndarray:
    """float32 [side, size] of bilinear interpolation with pixel centres aligned, without smoothing,
    as torch.nn.functional.interpolate(align_corners=False).
    """
    at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))).astype(np.float32)


def _write(folder: Path, x: np.ndarray, target: np.ndarray, facts: Mapping[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir(parents=True)
    np.save(temporary / "x.npy", x)
    np.save(temporary / "target.npy", target)
    (temporary / "facts.json").write_text(json.dumps(facts, indent=1))
    os.replace(temporary, folder)
