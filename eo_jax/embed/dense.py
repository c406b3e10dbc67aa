"""Dense maps: one pixel per token, of scenes of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eo_jax.averaging import Likeness, likeness, mean_of_similar
from eo_jax.embed.blending import Strip
from eo_jax.embed.images import Image
from eo_jax.embed.scratch import Scratch
from eo_jax.embed.tiles import Grid, make_grid
from eo_jax.trained_encoder import TrainedEncoder

_MOST_STRIP_BYTES = 2**30  # a header can claim any width

Advance = Callable[[int, int], None]


class Map(NamedTuple):
    """A finished map, to be written.

    Attributes:
        rows, columns, width: its size; `width` is the number of channels.
        crs: "EPSG:..." or WKT, or None.
        affine: six numbers, of tokens; None where the file has none.
        facts: all that decides its values.
        read: (row, column, rows, columns) -> float32 [rows, columns, width], NaN for no data.
    """

    rows: int
    columns: int
    width: int
    crs: str | None
    affine: tuple[float, ...] | None
    facts: dict[str, Any]
    read: Callable[[int, int, int, int], np.ndarray]


def facts_of(image: Image, trained: TrainedEncoder, overlap: int, batch: int) -> dict[str, Any]:
    """All that decides the values of a map."""
    return trained.facts | {
        "overlap": overlap,
        "batch": batch,
        "input": image.name,
        "sha256": image.sha256,
        "sidecars": image.sidecars,
    }


def views_of(image: Image, trained: TrainedEncoder, overlap: int) -> int:
    """Number of views of an image; `overlap` is in tokens."""
    grid = make_grid(image.height, image.width, trained.patch, trained.side, overlap)
    return len(grid.row_starts) * len(grid.column_starts)


def make_map(
    image: Image,
    trained: TrainedEncoder,
    overlap: int,
    batch: int,
    folder: Path,
    advance: Advance,
) -> tuple[Map, Scratch]:
    """Computes what is missing of a map. The scratch holds its values.

    Args:
        overlap: of views, in tokens.
        batch: views that are encoded at a time.
        folder: of the scratch.
        advance: called with (views, bytes of pixels) newly done.

    Raises ValueError for an image that is too wide for the memory.
    """
    grid = make_grid(image.height, image.width, trained.patch, trained.side, overlap)
    strip_bytes = 4 * grid.side * max(grid.columns, grid.side) * trained.width
    if strip_bytes > _MOST_STRIP_BYTES:
        raise ValueError(
            f"{image.name}: {image.height} x {image.width} pixels; a row of views takes "
            f"{strip_bytes / 1e6:,.0f} MB of features, at most {_MOST_STRIP_BYTES / 1e6:,.0f} MB; "
            "cut it into narrower files"
        )
    facts = facts_of(image, trained, overlap, batch)
    scratch = Scratch(folder, facts, grid.columns * trained.width)
    advance(scratch.done * len(grid.column_starts), 0)
    for rows in _finished_rows(image, trained, grid, batch, scratch.done, advance):
        scratch.append(rows.reshape(len(rows), -1))

    def read(row: int, column: int, rows: int, columns: int) -> np.ndarray:
        found = scratch.read(row, rows, column * trained.width, columns * trained.width)
        return found.reshape(rows, columns, trained.width)

    affine = _of_tokens(image.affine, trained.patch)
    return Map(grid.rows, grid.columns, trained.width, image.crs, affine, facts, read), scratch


_STRIPS, _STRIP_ROWS = 16, 16  # of a map, that say how far apart its features are


def averaged(made: Map, window: int) -> Map:
    """The map with each token averaged over those of a window that are like it, see `averaging`."""
    like, half = _likeness(made), window // 2

    def read(row: int, column: int, rows: int, columns: int) -> np.ndarray:
        top, left = max(0, row - half), max(0, column - half)
        bottom = min(made.rows, row + rows + half)
        right = min(made.columns, column + columns + half)
        around = made.read(top, left, bottom - top, right - left)
        valid = ~np.isnan(around).any(-1)
        mean = mean_of_similar(around, valid, window, like)
        mean = np.where(valid[..., None], mean, np.nan)
        return mean[row - top : row - top + rows, column - left : column - left + columns]

    return made._replace(read=read)


def _likeness(made: Map) -> Likeness:
    """That of strips spread over a map, which may be larger than the memory."""
    small = made.rows <= _STRIPS * _STRIP_ROWS
    rows = made.rows if small else _STRIP_ROWS
    tops = [0] if small else np.linspace(0, made.rows - rows, _STRIPS).astype(int).tolist()
    strips = np.stack([made.read(top, 0, rows, made.columns) for top in tops])
    valid = ~np.isnan(strips).any(-1)
    # A row without data between strips, so that their edges are not neighbours.
    gap = ((0, 0), (0, 1), (0, 0))
    valid = np.pad(valid, gap).reshape(-1, made.columns)
    features = np.pad(np.nan_to_num(strips), (*gap, (0, 0))).reshape(*valid.shape, -1)
    return likeness(features, valid)


def _of_tokens(affine: tuple[float, ...] | None, patch: int) -> tuple[float, ...] | None:
    """The transform of tokens: the origin is that of the pixels."""
    if affine is None:
        return None
    a, b, c, d, e, f = affine
    return (a * patch, b * patch, c, d * patch, e * patch, f)


def _finished_rows(
    image: Image,
    trained: TrainedEncoder,
    grid: Grid,
    batch: int,
    done: int,
    advance: Advance,
) -> Iterator[np.ndarray]:
    """Rows of tokens [rows, columns, d] that each row of views finishes, after `done` of these.

    Rows of views that reach into unfinished rows are encoded again.
    """
    row_starts, begin = grid.row_starts, grid.first_needed(done)
    if done == len(row_starts):
        return
    strip = Strip(grid.columns, grid.side, grid.overlap, trained.width)
    top = row_starts[begin]
    for k in range(begin, len(row_starts)):
        _add_row(strip, image, trained, grid, row_starts[k], batch)
        finished = grid.finished_rows(k + 1)
        rows = strip.take(finished - top, grid.columns)
        top = finished
        if k >= done:
            yield rows
            pixels = trained.view**2 * len(grid.column_starts)
            advance(len(grid.column_starts), 4 * pixels * len(trained.sensor.bands))


def _add_row(
    strip: Strip, image: Image, trained: TrainedEncoder, grid: Grid, row: int, batch: int
) -> None:
    """Encodes a row of views that begins at a row of tokens."""
    starts = grid.column_starts
    for first in range(0, len(starts), batch):
        columns = starts[first : first + batch]
        pixels, valid = _read_views(image, trained, row, columns)
        if not valid.any():
            continue
        dense = trained.dense(padded(pixels, batch), padded(valid, batch))
        with_data = _tokens_with_data(valid, trained.patch)
        for k, column in enumerate(columns):
            strip.add(column, dense[k], with_data[k])


def _read_views(
    image: Image, trained: TrainedEncoder, row: int, columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, valid mask) [b, c, H, W] of neighbouring views, in one read."""
    patch, view = trained.patch, trained.view
    left, width = columns[0] * patch, (columns[-1] - columns[0]) * patch + view
    pixels, valid = image.read(row * patch, left, view, width)
    at = [slice(column * patch - left, column * patch - left + view) for column in columns]
    return (
        np.stack([pixels[..., part] for part in at]),
        np.stack([valid[..., part] for part in at]),
    )


def padded(views: np.ndarray, batch: int) -> np.ndarray:
    """The views and zeros, `batch` in all, so that XLA compiles one shape."""
    missing = batch - len(views)
    return np.concatenate([views, np.zeros((missing, *views.shape[1:]), views.dtype)])


def _tokens_with_data(valid: np.ndarray, patch: int) -> np.ndarray:
    """bool [b, h, w]: tokens with a valid value in any band of any pixel."""
    pixels = valid.any(1)
    b, height, width = pixels.shape
    cells = pixels.reshape(b, height // patch, patch, width // patch, patch)
    return cells.any((2, 4))
