"""Reads images that are stored as one GeoTIFF a band, on grids of several pixel sizes, as
Sentinel-2 has them.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.transform import Affine

from data_prep.archive import ArchiveError
from data_prep.formats import geotiff, resample
from data_prep.reader import Files
from eo_jax.sensors import Band, Sensor

METHODS = ("bilinear", "nearest", "native")
ON_ONE_GRID = 0  # stands for the pixel size of images that hold all bands
_TOLERANCE = 1e-3  # in pixels


class Grid(NamedTuple):
    """The grid of a file, and its name."""

    name: str
    shape: tuple[int, int]
    crs: rasterio.crs.CRS | None
    transform: Affine


def rows(sensor: Sensor, method: str) -> dict[int, Sensor]:
    """{pixel size in m: row} of the samples an image gives: the sensor's own row on one grid, or
    with "native" a row `<id>_20m` a pixel size.
    """
    sizes = sorted({_gsd(sensor, band) for band in sensor.bands})
    if method != "native" or len(sizes) == 1:
        return {ON_ONE_GRID: sensor}
    return {int(size): _of_size(sensor, size) for size in sizes}


def all_rows(*sensors: Sensor) -> tuple[Sensor, ...]:
    """Every row that images of these sensors may have, whatever the method."""
    return tuple(
        {
            row.id: row
            for sensor in sensors
            for method in METHODS
            for row in rows(sensor, method).values()
        }.values()
    )


def two_digits(band: str) -> str:
    """B1 and B01 -> "B01"."""
    return re.sub(r"^B(\d)$", r"B0\1", band)


def one_digit(band: str) -> str:
    """B1 and B01 -> "B1"."""
    return re.sub(r"^B0(\d)$", r"B\1", band)


def seconds(name: str, stamp: str) -> int:
    """Seconds since 1970 of a UTC time in a name, "20200604T054639". Raises ArchiveError where
    there is no such time.
    """
    try:
        moment = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%S")
    except ValueError as error:
        raise ArchiveError(
            name, f"has the time {stamp}, which does not exist; correct the name"
        ) from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def check_names(folder: str, found: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raises ArchiveError where a folder lacks the file of a band, or has one of a band that the
    product does not have.
    """
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ArchiveError(
            folder,
            f"no file of {', '.join(missing)}, expected every band of {what}; copy the folder "
            "again, or remove it",
        )
    if more:
        raise ArchiveError(
            folder, f"files of {', '.join(more)}, which are no bands of {what}; move them away"
        )


def finest(sensor: Sensor) -> int:
    """The index of the first band of the smallest pixels."""
    return min(range(len(sensor.bands)), key=lambda index: _gsd(sensor, sensor.bands[index]))


def read_image(
    files: Files, sensor: Sensor, roles: Sequence[str], method: str
) -> tuple[np.ndarray, dict]:
    """Pixels [c, h, w] on the finest grid, bands as in `sensor`, and the place of that grid (see
    `geotiff.georeference`).

    `roles` are those of the band files. Coarser bands are brought onto the finest grid by `method`.
    Raises ArchiveError for a file that `geotiff.read_bands` refuses, for grids that do not fit each
    other, and where there is nothing but no-data.
    """
    size = _gsd(sensor, sensor.bands[finest(sensor)])
    planes, grid, place = [np.empty(0)] * len(roles), None, {}
    for index in sorted(range(len(roles)), key=lambda index: _gsd(sensor, sensor.bands[index])):
        name, factor = files.name(roles[index]), round(_gsd(sensor, sensor.bands[index]) / size)
        with geotiff.open_tiff(name, files[roles[index]]) as dataset:
            if grid is None:
                grid, place = (
                    Grid(name, dataset.shape, dataset.crs, dataset.transform),
                    geotiff.georeference(dataset),
                )
                _check_bytes(grid, sensor)
            _check_grid(name, dataset, grid, factor)
            plane = geotiff.read_bands(name, dataset, _one_band(sensor, index))[0]
        planes[index] = _refined(plane, factor, method, sensor.nodata)
    pixels = np.stack(planes)
    if sensor.missing(pixels).all():
        raise ArchiveError(
            grid.name,
            f"every pixel of every band is no-data ({sensor.nodata}); remove the image, or give "
            "--skip-bad",
        )
    return pixels, place


def _refined(plane: np.ndarray, factor: int, method: str, nodata: float | None) -> np.ndarray:
    if factor == 1:
        return plane
    return (
        resample.nearest(plane, factor)
        if method == "nearest"
        else resample.bilinear(plane, factor, nodata)
    )


def _gsd(sensor: Sensor, band: Band) -> float:
    return band.gsd_m or sensor.gsd_m


def _of_size(sensor: Sensor, size: float) -> Sensor:
    """The row of the bands of one pixel size."""
    kept = [index for index, band in enumerate(sensor.bands) if _gsd(sensor, band) == size]
    return dataclasses.replace(
        sensor,
        id=f"{sensor.id}_{size:g}m",
        title=f"{sensor.title}, bands of {size:g} m",
        bands=tuple(sensor.bands[index] for index in kept),
        gsd_m=size,
        mean=tuple(sensor.mean[index] for index in kept) if sensor.mean else (),
        std=tuple(sensor.std[index] for index in kept) if sensor.std else (),
        true_colour=_moved(sensor.true_colour, kept),
        false_colour=_moved(sensor.false_colour, kept),
    )


def _moved(colours: tuple[int, int, int] | None, kept: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(map(kept.index, colours)) if colours and set(colours) <= set(kept) else None


def _one_band(sensor: Sensor, index: int) -> Sensor:
    return dataclasses.replace(
        sensor, bands=(sensor.bands[index],), mean=(), std=(), true_colour=None, false_colour=None
    )


# ------------------------------------------------------------------ grids


def _check_bytes(grid: Grid, sensor: Sensor) -> None:
    (height, width), bands = grid.shape, len(sensor.bands)
    claimed = bands * height * width * np.dtype(sensor.dtype).itemsize
    if claimed > geotiff.MAX_BYTES:
        size = f"{bands} bands of {height} x {width} pixels take {claimed / 1e6:,.0f} MB"
        raise ArchiveError(
            grid.name,
            f"{size}, at most {geotiff.MAX_BYTES / 1e6:,.0f} MB; the file is damaged, or no patch: "
            "copy it again",
        )


def _check_grid(name: str, dataset: rasterio.DatasetReader, grid: Grid, factor: int) -> None:
    """Raises ArchiveError where the file's grid is not that of `grid` with pixels `factor` times
    larger.

    Either the corners of both or the centres of their first pixels are the same point: Google Earth
        Engine's export wrote the latter.
    """
    height, width = grid.shape
    if height % factor or width % factor:
        raise ArchiveError(
            grid.name,
            f"{height} x {width} pixels, expected a multiple of {factor}, as the pixels of {name} "
            f"are {factor} times larger",
        )
    geotiff.check_shape(name, dataset, height // factor, width // factor)
    if dataset.crs != grid.crs:
        raise ArchiveError(
            name, f"CRS is {dataset.crs}, but {grid.name} has {grid.crs}; copy the folder again"
        )
    if not _fits(dataset.transform, grid.transform, factor):
        found, expected = (
            ", ".join(f"{value:.10g}" for value in tuple(affine)[:6])
            for affine in (dataset.transform, grid.transform)
        )
        raise ArchiveError(
            name,
            f"transform is ({found}), which does not fit that of {grid.name} ({expected}); copy "
            "the folder again",
        )


def _fits(found: Affine, fine: Affine, factor: int) -> bool:
    if found.is_identity or fine.is_identity:  # what rasterio says where there is none
        return found == fine
    if fine.is_degenerate:
        return False
    in_pixels = np.linalg.solve(_matrix(fine) @ np.diag([factor, factor, 1.0]), _matrix(found))
    shifts = (0.0, 0.5 / factor - 0.5)
    return any(
        np.allclose(in_pixels, [[1, 0, shift], [0, 1, shift], [0, 0, 1]], rtol=0, atol=_TOLERANCE)
        for shift in shifts
    )


def _matrix(affine: Affine) -> np.ndarray:
    return np.array(affine).reshape(3, 3)
