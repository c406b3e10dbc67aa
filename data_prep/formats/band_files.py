"""Reads images with one GeoTIFF per band, on grids of several pixel sizes, such as Sentinel-2."""

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
from data_prep.formats import geotiff, resample, sentinel2
from data_prep.formats.band_identity import check_only_band
from data_prep.reader import Files
from eo_jax.sensors import Band, Sensor

METHODS = ("bilinear", "nearest", "native")
ON_ONE_GRID = 0  # in place of a pixel size, for images with all bands on one grid
_TOLERANCE = 1e-3  # in pixels


class Grid(NamedTuple):
    """The name of a file and its grid."""

    name: str
    shape: tuple[int, int]
    crs: rasterio.crs.CRS | None
    transform: Affine


def rows(sensor: Sensor, method: str) -> dict[int, Sensor]:
    """{pixel size in m: sensor row} of the samples of an image: the sensor's own row on one grid,
    or with "native" a row such as `<id>_20m` per pixel size.
    """
    sizes = sorted({_gsd(sensor, band) for band in sensor.bands})
    if method != "native" or len(sizes) == 1:
        return {ON_ONE_GRID: sensor}
    return {int(size): _of_size(sensor, size) for size in sizes}


def all_rows(*sensors: Sensor) -> tuple[Sensor, ...]:
    """All rows that images of these sensors can have, over all methods."""
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
    """Seconds since 1970 of a UTC time in a name, "20200604T054639".

    Raises ArchiveError for a time that does not exist.
    """
    try:
        moment = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%S")
    except ValueError as error:
        raise ArchiveError(
            name, f"has the time {stamp}, which does not exist; correct the name"
        ) from error
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def check_names(folder: str, found: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raises ArchiveError where the file of a band is missing from a folder, or where there is one
    of a band that the product does not have.
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
            folder, f"files of {', '.join(more)}, which are not bands of {what}; move them away"
        )


def finest(sensor: Sensor) -> int:
    """The index of the first band of the smallest pixels."""
    return min(range(len(sensor.bands)), key=lambda index: _gsd(sensor, sensor.bands[index]))


def read_image(
    files: Files, sensor: Sensor, roles: Sequence[str], method: str
) -> tuple[np.ndarray, dict]:
    """Pixels [c, h, w] on the finest grid, bands as in `sensor`, and the georeference of that grid
    (see `geotiff.georeference`).

    `roles` are those of the band files. Coarser bands are resampled to the finest grid by `method`.
    Raises ArchiveError for a file that `geotiff.read_bands` refuses, for grids that do not match,
    and where every pixel is no-data.
    """
    size = _gsd(sensor, sensor.bands[finest(sensor)])
    planes, grid, georeference = [np.empty(0)] * len(roles), None, {}
    for index in sorted(range(len(roles)), key=lambda index: _gsd(sensor, sensor.bands[index])):
        name, factor = files.name(roles[index]), round(_gsd(sensor, sensor.bands[index]) / size)
        with geotiff.open_tiff(files, roles[index]) as dataset:
            if grid is None:
                grid = Grid(name, dataset.shape, dataset.crs, dataset.transform)
                georeference = geotiff.georeference(dataset)
                _check_bytes(grid, sensor)
            check_grid(name, dataset, grid, factor)
            sentinel2.check_offset(name, dataset, sensor)
            check_only_band(name, dataset, sensor, index)
            plane = geotiff.read_bands(name, dataset, one_band(sensor, index))[0]
        planes[index] = upsample(plane, factor, method, sensor.nodata)
    pixels = np.stack(planes)
    if sensor.missing(pixels).all():
        raise ArchiveError(
            grid.name,
            f"every pixel of every band is no-data ({sensor.nodata}); remove the image, or give "
            "--skip-bad",
        )
    return pixels, georeference


def upsample(plane: np.ndarray, factor: int, method: str, nodata: float | None) -> np.ndarray:
    """[h, w] -> [h * factor, w * factor] by one of METHODS but "native"."""
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
    """A sensor row with the bands of one pixel size."""
    kept = [index for index, band in enumerate(sensor.bands) if _gsd(sensor, band) == size]
    return dataclasses.replace(
        sensor,
        id=f"{sensor.id}_{size:g}m",
        title=f"{sensor.title}, bands of {size:g} m",
        bands=tuple(sensor.bands[index] for index in kept),
        gsd_m=size,
        mean=tuple(sensor.mean[index] for index in kept) if sensor.mean else (),
        std=tuple(sensor.std[index] for index in kept) if sensor.std else (),
        true_colour=_reindex(sensor.true_colour, kept),
        false_colour=_reindex(sensor.false_colour, kept),
    )


def _reindex(colours: tuple[int, int, int] | None, kept: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(map(kept.index, colours)) if colours and set(colours) <= set(kept) else None


def one_band(sensor: Sensor, index: int) -> Sensor:
    """The row with one of its bands alone."""
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
            f"{size}, at most {geotiff.MAX_BYTES / 1e6:,.0f} MB; the file is damaged or not a "
            "patch: copy it again",
        )


def check_grid(name: str, dataset: rasterio.DatasetReader, grid: Grid, factor: int) -> None:
    """Raises ArchiveError where the file's grid is not `grid` with pixels `factor` times larger.

    Either the corners of both grids or the centres of their first pixels must coincide: Google
    Earth Engine's export wrote the latter.
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
            f"transform is ({found}), which does not match that of {grid.name} ({expected}); copy "
            "the folder again",
        )


def _fits(found: Affine, fine: Affine, factor: int) -> bool:
    if found.is_identity or fine.is_identity:  # rasterio's value for no transform
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
