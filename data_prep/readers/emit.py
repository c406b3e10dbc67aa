"""Reads EMIT L2A reflectance (EMITL2ARFL) in netCDF-4, in patches.

    <root>/**/EMIT_L2A_RFL_001_20230316T045133_2307503_005.nc
        reflectance(downtrack, crosstrack, bands)        float32, fill value -9999
        sensor_band_parameters/wavelengths, fwhm         nm, [bands]
        sensor_band_parameters/good_wavelengths          [bands], 0 in absorption by water vapour
        location/lon, lat(downtrack, crosstrack)         degrees
        location/glt_x, glt_y(ortho_y, ortho_x)          column and row from 1; 0 for none
        attributes time_coverage_start, geotransform, spatial_ref

after the user guide of the product (LP DAAC). Pixels are in the geometry of the sensor, which has
no grid; a sample has the longitude and latitude of its centre. --orthorectify brings them to the
grid of the product's geometry lookup table (GLT) by the nearest pixel, where pixels repeat. Bands
whose good_wavelengths is 0 hold no reflectance: they are no-data, and --drop-bad-bands leaves them
out. EMIT_L2A_RFLUNCERT and EMIT_L2A_MASK, files of their own, are not read.

    python -m data_prep convert emit --input granules --output stores/emit \\
        --patch-size 128 --drop-bad-bands --split blocks:50 --val-fraction 0.1
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import hdf5_products
from data_prep.formats.attributes import number_of
from data_prep.formats.footprint import centre, footprint
from data_prep.formats.geotiff import crs_name
from data_prep.formats.hdf5_products import Product
from data_prep.formats.listing import first_readable, items_of
from data_prep.formats.tiling import check_patch_size
from data_prep.formats.times import utc_seconds
from data_prep.reader import File, Files, Item, SkipSample, option
from data_prep.readers import _product_rows as rows
from eo_jax.schema import Sample
from eo_jax.sensors import Band, Sensor

_NAME = re.compile(r"EMIT_L2A_RFL_\d{3}_\d{8}T\d{6}_\d{7}_\d{3}\.nc", re.I)
_FILL = -9999.0
_GSD_M = 60.0
_PARAMETERS = "sensor_band_parameters"
_OWN_STORE = "convert it to a store of its own"


class Grid(NamedTuple):
    """The grid of the geometry lookup table: rows and columns, CRS and affine."""

    shape: tuple[int, int]
    crs: str
    affine: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Reader:
    """EMIT L2A reflectance, one sample per patch."""

    TITLE: ClassVar[str] = "EMIT L2A reflectance"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "NASA EOSDIS data, open without restriction"
    archive: Archive
    patch_size: int = option(
        128, "height and width of a patch; 0 for whole granules", metavar="PIXELS"
    )
    orthorectify: bool = option(
        False, "bring pixels to the grid of the geometry lookup table, by the nearest pixel"
    )
    drop_bad_bands: bool = option(False, "leave out bands whose good_wavelengths is 0")

    @functools.cached_property
    def _names(self) -> list[str]:
        names = [
            name
            for name in self.archive.names((".nc",))
            if _NAME.fullmatch(PurePosixPath(name).name)
        ]
        if not names:
            raise ArchiveError(
                ".", "contains no EMIT L2A reflectance; expected EMIT_L2A_RFL_001_<time>_..._.nc"
            )
        return names

    @functools.cached_property
    def _row(self) -> Sensor:
        """The row of the first readable granule, which stands for all."""
        return first_readable(self._names, self._describe)

    def _describe(self, name: str) -> Sensor:
        with hdf5_products.open_listed(self.archive, name) as product:
            return describe(product)

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        """The row of the samples. Raises ArchiveError."""
        return (rows.without_bad(self._row) if self.drop_bad_bands else self._row,)

    def items(self) -> list[Item]:
        check_patch_size(self.patch_size, "granules")
        _ = self.sensors  # so that a first product without a row is refused here
        return items_of((name, functools.partial(self._tiles, name)) for name in self._names)

    def _tiles(self, name: str) -> list[Item]:
        with hdf5_products.open_listed(self.archive, name) as product:
            shape = grid_of(product).shape if self.orthorectify else _cube(product).shape[:2]
        stem = PurePosixPath(name).stem
        return list(rows.tiles(stem, (File("image", name),), shape, self.patch_size))

    def read(self, item: Item, files: Files) -> Sample:
        (sensor,) = self.sensors
        with hdf5_products.open_product(self.archive, files, "image") as product:
            found = describe(product)
            rows.check_like(product.name, found, self._row, _OWN_STORE)
            grid = grid_of(product) if self.orthorectify else None
            shape = grid.shape if grid else _cube(product).shape[:2]
            area = rows.extent(item.part, shape, self.patch_size)
            kept = rows.positions_of(found, sensor)
            pixels = (_on_grid if grid else _in_swath)(product, area)[kept]
            place = _place(grid, area) if grid else {"lonlat": _centre(product, area)}
            time = _time(product)
        bands = [found.bands[index] for index in kept]
        pixels = rows.exclude_bad(np.ascontiguousarray(pixels), bands, _FILL)
        if sensor.missing(pixels).all():
            raise SkipSample("no data in any pixel")
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            time=time,
            wavelengths_nm=found.centres_nm[kept],
            **place,
        )

    def footprint(self, item: Item) -> list[float] | None:
        if not self.orthorectify:
            return None
        grid = _listed_grid(self.archive, item.files[0].name)
        area = rows.extent(item.part, grid.shape, self.patch_size)
        sides = [part.stop - part.start for part in area]
        return footprint(grid.crs, _place(grid, area)["affine"], *sides)


@functools.lru_cache(4)  # for the other patches
def _listed_grid(archive: Archive, name: str) -> Grid:
    with hdf5_products.open_listed(archive, name) as product:
        return grid_of(product)


# ------------------------------------------------------------------ what a granule says


def _cube(product: Product):
    cube = hdf5_products.array(product, "reflectance", (None,) * 3)
    if cube.dtype.newbyteorder("=") != np.float32:
        raise ArchiveError(
            product.name, f"reflectance is {cube.dtype}, expected float32; get the granule again"
        )
    return cube


def describe(product: Product) -> Sensor:
    """The row of a granule. Raises ArchiveError."""
    cube = _cube(product)
    count = cube.shape[2]
    fill = number_of(product.name, cube.attrs, "_FillValue")
    scaled = [number_of(product.name, cube.attrs, key) for key in ("scale_factor", "add_offset")]
    if fill != _FILL or scaled not in ([None, None], [1.0, 0.0]):
        raise ArchiveError(
            product.name,
            f"reflectance has _FillValue {fill}, scale_factor and add_offset {scaled}, expected "
            f"{_FILL:g} and none; get the granule again",
        )
    centres, widths, good = (
        hdf5_products.read_list(product, f"{_PARAMETERS}/{key}", count)
        for key in ("wavelengths", "fwhm", "good_wavelengths")
    )
    if not np.isin(good, (0, 1)).all():
        raise ArchiveError(
            product.name, "good_wavelengths has other values than 0 and 1; get the granule again"
        )
    bands = [
        Band(
            f"band {number}",
            number,
            float(centres[number - 1]),
            float(widths[number - 1]),
            gsd_m=_GSD_M,
            bad=None if good[number - 1] else True,
        )
        for number in range(1, count + 1)
    ]
    try:
        return rows.make_row(
            bands,
            id=f"emit_l2a_rfl_{count}",
            title=f"EMIT L2A reflectance, {count} bands",
            gsd_m=_GSD_M,
            dtype="float32",
            scale=1.0,
            units="surface reflectance",
            nodata=_FILL,
            source=f"{_PARAMETERS} of {PurePosixPath(product.name).name}",
        )
    except ValueError as error:
        raise ArchiveError(
            product.name, f"describes no bands ({error}); get the granule again"
        ) from error


def _time(product: Product) -> int:
    text = hdf5_products.text(product, "time_coverage_start")
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            product.name,
            f"time_coverage_start is {text[:40]!r}, expected an ISO time; get the granule again",
        ) from error


def grid_of(product: Product) -> Grid:
    """The grid of the geometry lookup table. Raises ArchiveError."""
    table = hdf5_products.array(product, "location/glt_x", (None, None))
    x, dx, rx, y, ry, dy = hdf5_products.numbers(product, "geotransform", 6).tolist()
    try:
        crs = CRS.from_wkt(hdf5_products.text(product, "spatial_ref"))
    except CRSError as error:
        raise ArchiveError(
            product.name, "spatial_ref is not a CRS; get the granule again"
        ) from error
    if not np.isfinite([x, dx, rx, y, ry, dy]).all() or dx * dy - rx * ry == 0:
        raise ArchiveError(product.name, "geotransform is not a grid; get the granule again")
    return Grid(table.shape, crs_name(crs), (dx, rx, x, ry, dy, y))


# ------------------------------------------------------------------ pixels


def _in_swath(product: Product, area: tuple[slice, slice]) -> np.ndarray:
    """float32 [c, h, w], in the geometry of the sensor."""
    selection = (*area, slice(None))
    return hdf5_products.read(product, _cube(product), selection).transpose(2, 0, 1)


def _on_grid(product: Product, area: tuple[slice, slice]) -> np.ndarray:
    """float32 [c, h, w], on the grid of the lookup table. Raises ArchiveError."""
    cube = _cube(product)
    grid = hdf5_products.array(product, "location/glt_x", (None, None)).shape
    columns, lines = (
        hdf5_products.read(
            product, hdf5_products.array(product, f"location/glt_{axis}", grid), area
        ).astype(np.int64)
        for axis in "xy"
    )
    seen = (columns > 0) & (lines > 0)
    out = np.full((cube.shape[2], *seen.shape), _FILL, np.float32)
    if not seen.any():
        return out
    if lines.max() > cube.shape[0] or columns.max() > cube.shape[1]:
        raise ArchiveError(
            product.name,
            f"its lookup table (glt) has row {lines.max()} and column {columns.max()} of "
            f"{cube.shape[0]} x {cube.shape[1]} pixels; get the granule again",
        )
    for line in _runs(np.unique(lines[seen])):
        here = seen & (lines >= line.start) & (lines < line.stop)
        left, right = columns[here].min() - 1, columns[here].max()
        window = (slice(line.start - 1, line.stop - 1), slice(left, right), slice(None))
        found = hdf5_products.read(product, cube, window)
        out[:, here] = found[lines[here] - line.start, columns[here] - 1 - left].T
    return out


def _runs(lines: np.ndarray, longest: int = 64) -> Iterator[slice]:
    """Runs of at most so many rows that together cover all of `lines`, ascending."""
    at = 0
    while at < len(lines):
        run = slice(int(lines[at]), int(lines[at]) + longest)
        at = int(np.searchsorted(lines, run.stop))
        yield slice(run.start, int(lines[at - 1]) + 1)


def _place(grid: Grid, area: tuple[slice, slice]) -> dict:
    """crs, affine and lonlat of a part of the grid."""
    affine = rasterio.Affine(*grid.affine) * rasterio.Affine.translation(
        area[1].start, area[0].start
    )
    sides = [part.stop - part.start for part in area]
    return {
        "crs": grid.crs,
        "affine": tuple(affine)[:6],
        "lonlat": centre(grid.crs, tuple(affine)[:6], *sides),
    }


def _centre(product: Product, area: tuple[slice, slice]) -> tuple[float, float] | None:
    middle = tuple(slice((p.start + p.stop) // 2, (p.start + p.stop) // 2 + 1) for p in area)
    shape = _cube(product).shape[:2]
    longitude, latitude = (
        hdf5_products.read(
            product, hdf5_products.array(product, f"location/{key}", shape), middle
        ).item()
        for key in ("lon", "lat")
    )
    is_place = abs(longitude) <= 180 and abs(latitude) <= 90
    return (float(longitude), float(latitude)) if is_place else None
