"""Pooled features: one row per file."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.embed.dense import padded
from eo_jax.embed.images import Image, Images
from eo_jax.embed.scratch import Scratch
from eo_jax.embed.table import Table
from eo_jax.embed.tiles import starts
from eo_jax.trained_encoder import TrainedEncoder

Advance = Callable[[int, int], None]
Views = tuple[np.ndarray, np.ndarray]
File = tuple[str, str, dict[str, str]]  # name, SHA-256, sidecars of an image

# What becomes of files that are larger than a view.
LARGER = {
    "refuse": "an error",
    "centre": "the view in the middle",
    "tiles": "the mean over adjacent views that have data, the last ones moved inward",
}


def check_size(image: Image, trained: TrainedEncoder, larger: str) -> None:
    """Raises ValueError for a file that is larger than a view, unless an option says what to do."""
    if larger == "refuse" and max(image.height, image.width) > trained.view:
        raise ValueError(
            f"{image.name}: {image.height} x {image.width} pixels, but the encoder takes views of "
            f"{trained.view} x {trained.view}; give --larger=centre for the view in the middle, "
            "--larger=tiles for the mean over all, or --mode=dense for a map"
        )


def make_table(
    images: Images,
    trained: TrainedEncoder,
    larger: str,
    batch: int,
    files: Sequence[File],
    folder: Path,
    advance: Advance,
) -> tuple[Table, Scratch]:
    """Computes what is missing of a table. The scratch holds its values.

    Args:
        larger: one of `LARGER`.
        batch: views that are encoded at a time.
        files: the images.
        folder: of the scratch.
        advance: called with (files, bytes of pixels) newly done.
    """
    facts = facts_of(trained, larger, batch, files)
    scratch = Scratch(folder, facts, trained.width)
    advance(scratch.rows, 0)
    # Files with one view are encoded together.
    size = 1 if larger == "tiles" else batch
    groups = [files[k : k + size] for k in range(0, len(files), size)]
    for group in groups[scratch.done :]:
        rows, notes = _rows_of(images, trained, larger, batch, [name for name, *_ in group])
        scratch.append(rows, notes)
        advance(len(group), 4 * len(group) * trained.view**2 * len(trained.sensor.bands))
    features = scratch.read(0, scratch.rows, 0, trained.width)
    return Table(features, scratch.notes(), facts), scratch


def facts_of(
    trained: TrainedEncoder, larger: str, batch: int, files: Sequence[File]
) -> dict[str, Any]:
    """All that decides the values of a table."""
    listed = hashlib.sha256(json.dumps([list(file) for file in files]).encode()).hexdigest()
    return trained.facts | {"larger": larger, "batch": batch, "files_sha256": listed}


def _rows_of(
    images: Images, trained: TrainedEncoder, larger: str, batch: int, names: Sequence[str]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Features [n, d] of some files, and notes about each."""
    if larger == "tiles":
        (name,) = names
        with images.open(name) as image:
            row, valid = _mean_of_tiles(image, trained, batch)
            return row[None], [_note(image, valid)]
    views, notes = [], []
    for name in names:
        with images.open(name) as image:
            check_size(image, trained, larger)
            views.append(_only_view(image, trained))
            size = min(image.height, trained.view) * min(image.width, trained.view)
            notes.append(_note(image, float(views[-1][1].any(0).sum() / size)))
    pixels, valid = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return _encoded(trained, pixels, valid, batch), notes


def _encoded(
    trained: TrainedEncoder, pixels: np.ndarray, valid: np.ndarray, batch: int
) -> np.ndarray:
    """Features [n, d] of at most `batch` views; NaN where nothing is valid."""
    features = trained.pooled(padded(pixels, batch), padded(valid, batch))[: len(pixels)]
    has_data = valid.any((1, 2, 3))
    return np.where(has_data[:, None], features, np.float32(np.nan))


def _only_view(image: Image, trained: TrainedEncoder) -> Views:
    """The view in the middle; a smaller file is in its upper left, the rest has no data."""
    row, column = (max(0, (size - trained.view) // 2) for size in (image.height, image.width))
    return image.read(row, column, trained.view, trained.view)


def _mean_of_tiles(image: Image, trained: TrainedEncoder, batch: int) -> tuple[np.ndarray, float]:
    """(the mean [d] over the views with data, the fraction of valid pixels in all views)."""
    total, count, valid_pixels, pixels_in_all = np.zeros(trained.width), 0, 0, 0
    for at in _batches(_tiles(image, trained.view), batch):
        views = [image.read(row, column, trained.view, trained.view) for row, column in at]
        pixels, valid = (np.stack(arrays) for arrays in zip(*views, strict=True))
        features = _encoded(trained, pixels, valid, batch)
        kept = features[~np.isnan(features[:, 0])]
        total, count = total + kept.sum(0, dtype=np.float64), count + len(kept)
        valid_pixels += int(valid.any(1).sum())
        inside = min(image.height, trained.view) * min(image.width, trained.view)
        pixels_in_all += inside * len(at)
    mean = total / count if count else np.full(trained.width, np.nan)
    return mean.astype(np.float32), valid_pixels / pixels_in_all


def _tiles(image: Image, view: int) -> Iterator[tuple[int, int]]:
    """(row, column) of the upper left pixel of each view."""
    return itertools.product(starts(image.height, view, 0), starts(image.width, view, 0))


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(itertools.islice(items, size)):
        yield part


def _note(image: Image, valid_fraction: float) -> dict[str, Any]:
    return {
        "name": image.name,
        "sha256": image.sha256,
        "lonlat": image.lonlat,
        "crs": image.crs,
        "time": image.time,
        "valid_fraction": valid_fraction,
    }
