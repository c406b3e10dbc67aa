"""Reads windows of images with one file per band, whose pixels are whole multiples of the finest
ones.

`band_files` reads whole images of a known product; here the files say which grids they have.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats import geotiff, remarks
from data_prep.formats.band_files import Grid, check_grid, one_band, upsample
from data_prep.formats.band_identity import check_only_band
from data_prep.reader import Files
from eo_jax.sensors import Sensor

Opener = Callable[[Files, str], contextlib.AbstractContextManager[rasterio.DatasetReader]]
_CENTRES = (
    "bands of larger pixels share the centre of the first pixel with the finest grid, not its "
    "corner, as Google Earth Engine exports them; they are aligned by their areas"
)
_MARGIN = 1  # coarse pixels around a window that a bilinear value may depend on


class Layer(NamedTuple):
    """One open file of an image; its pixels are `factor` times as large as the finest."""

    name: str
    dataset: rasterio.DatasetReader
    factor: int


@contextlib.contextmanager
def open_layers(
    files: Files, roles: Sequence[str], opener: Opener = geotiff.open_tiff_path
) -> Iterator[list[Layer]]:
    """The files with these roles, in that order, all on multiples of one grid.

    Raises ArchiveError where they are not.
    """
    with contextlib.ExitStack() as stack:
        opened = [(files.name(role), stack.enter_context(opener(files, role))) for role in roles]
        name, fine = max(opened, key=lambda pair: pair[1].width)
        grid = Grid(name, fine.shape, fine.crs, fine.transform)
        yield [Layer(name, each, _factor(name, each, grid)) for name, each in opened]


def finest(layers: Sequence[Layer]) -> Layer:
    """The first layer with the smallest pixels."""
    return min(layers, key=lambda layer: layer.factor)


def _factor(name: str, dataset: rasterio.DatasetReader, grid: Grid) -> int:
    factor = max(1, round(grid.shape[1] / dataset.width))
    if (dataset.height * factor, dataset.width * factor) != grid.shape:
        height, width = grid.shape
        raise ArchiveError(
            name,
            f"{geotiff.size_text(dataset)} pixels, but {grid.name} has {height} x {width}, which "
            "is not a whole multiple; copy the files again, or warp them to one grid",
        )
    check_grid(name, dataset, grid, factor)
    if factor > 1 and not _share_corner(dataset.transform, grid.transform):
        remarks.note(_CENTRES)
    return factor


def _share_corner(one: rasterio.Affine, two: rasterio.Affine) -> bool:
    inverse = ~two
    column = inverse.a * one.c + inverse.b * one.f + inverse.c
    row = inverse.d * one.c + inverse.e * one.f + inverse.f
    return abs(column) < 0.1 and abs(row) < 0.1  # in fine pixels; centres are off by 0.5 or more


def read_bands(
    layers: Sequence[Layer],
    sensor: Sensor,
    method: str,
    window: Window | None,
    special: Sequence[int] = (),
) -> np.ndarray:
    """Pixels [c, h, w] of the bands of `sensor`, one layer each, in a window of the finest grid.

    Coarser bands are resampled by `method`, "bilinear" or "nearest"; a window has the values that
    the whole image has there. Digital numbers in `special` become the no-data value of the sensor.
    Raises ArchiveError for a file that `geotiff.read_bands` refuses, for one that names another
    band, and for more than geotiff.MAX_BYTES.
    """
    area = window or whole(layers)
    _check_bytes(layers, area, sensor)
    planes = []
    for index, layer in enumerate(layers):
        check_only_band(layer.name, layer.dataset, sensor, index)
        read = functools.partial(_read_band, layer, one_band(sensor, index), special)
        planes.append(_on_fine_grid(layer, area, method, sensor.nodata, read))
    return np.stack(planes)


def _read_band(layer: Layer, row: Sensor, special: Sequence[int], window: Window) -> np.ndarray:
    pixels = geotiff.read_bands(layer.name, layer.dataset, row, window)
    for value in special:
        pixels[pixels == value] = row.nodata
    return pixels


def read_codes(layer: Layer, dtype: str, area: Window) -> np.ndarray:
    """Codes [h, w] of a quality layer in a window of the finest grid, each pixel repeated.

    Raises ArchiveError for another dtype, and for more than one band.
    """
    if layer.dataset.count != 1 or layer.dataset.dtypes[0] != dtype:
        raise ArchiveError(
            layer.name,
            f"{layer.dataset.count} bands of {layer.dataset.dtypes[0]}, expected the one of a "
            f"quality layer, {dtype}; copy it again",
        )
    geotiff.check_bytes(layer.name, layer.dataset, 1, area)
    read = functools.partial(layer.dataset.read, [1])
    return _on_fine_grid(layer, area, "nearest", None, read)


def whole(layers: Sequence[Layer]) -> Window:
    """The window of all pixels of the finest grid."""
    height, width = finest(layers).dataset.shape
    return Window(0, 0, width, height)


def _on_fine_grid(
    layer: Layer,
    area: Window,
    method: str,
    nodata: float | None,
    read: Callable[..., np.ndarray],
) -> np.ndarray:
    """The window `area` [h, w] of the finest grid, from the pixels of a layer that it depends on.

    `read(window=...)` gives [1, h, w].
    """
    if layer.factor == 1:
        return read(window=area)[0]
    height, width = layer.dataset.shape
    top, rows = _coarse(area.row_off, area.height, layer.factor, height)
    left, columns = _coarse(area.col_off, area.width, layer.factor, width)
    coarse = read(window=Window(left, top, columns, rows))[0]
    fine = upsample(coarse, layer.factor, method, nodata)
    row, column = area.row_off - top * layer.factor, area.col_off - left * layer.factor
    return fine[row : row + area.height, column : column + area.width]


def _coarse(start: int, size: int, factor: int, limit: int) -> tuple[int, int]:
    """(first, number) of the coarse pixels in one direction that fine ones depend on."""
    first = max(0, start // factor - _MARGIN)
    last = min(limit, -(-(start + size) // factor) + _MARGIN)
    return first, last - first


def _check_bytes(layers: Sequence[Layer], area: Window, sensor: Sensor) -> None:
    claimed = len(layers) * area.height * area.width * np.dtype(sensor.dtype).itemsize
    if claimed > geotiff.MAX_BYTES:
        raise ArchiveError(
            layers[0].name,
            f"{len(layers)} bands of {area.height} x {area.width} pixels take "
            f"{claimed / 1e6:,.0f} MB, at most {geotiff.MAX_BYTES / 1e6:,.0f} MB; give "
            "--patch-size to cut the image",
        )
