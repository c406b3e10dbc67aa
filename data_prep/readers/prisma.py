"""Reads PRISMA products in HE5: L1, L2C and L2D, all bands of both cameras, in patches.

    <root>/**/PRS_L2D_STD_<start>_<end>_<version>.he5      also PRS_L2C_STD_..., PRS_L1_STD_...
        HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/
            VNIR_Cube, SWIR_Cube                           uint16 [row, band, column]
            VNIR_PIXEL_L2_ERR_MATRIX, SWIR_...             uint8, the same shape; of L1
                                                           ..._PIXEL_SAT_ERR_MATRIX
        attributes List_Cw_Vnir, List_Fwhm_Vnir,           nm, one per band of the cube
            List_Cw_Vnir_Flags, ... and the same of Swir
        attributes L2ScaleVnirMin, L2ScaleVnirMax, ...     min + DN x (max - min) / 65535 is the
                                                           reflectance;
            of L1 ScaleFactor_Vnir, Offset_Vnir, ...       radiance = DN / factor - offset

after ASI's PRISMA Products Specification Document, and as prismaread and EnMAP-Box read it. Cubes
have descending wavelengths; stores have the bands of VNIR in ascending order, then those of SWIR,
which overlap from 920 to 1010 nm. Bands without a wavelength (0) hold nothing and are left out;
those whose flag is 0 are bad. Names are V1 ... V66 and S1 ... S173, by the position in the cube.

Digital numbers are stored as they are; 0 is no-data, and so are pixels with an error code: of L2,
1 invalid, 2 negative, 3 saturated; of L1, 1 defective, 2 saturated, 4 not finite (3, of lower
accuracy by coregistration, is data). The scale of L2 differs from product to product: products that
differ are refused in one store unless --values physical makes float32 of them. L2D is on a UTM grid
by its corners; L1 and L2C are in the geometry of the sensor, without coordinates but the centre.

    python -m data_prep convert prisma --input products --output stores/prisma \\
        --patch-size 128 --values physical --val-fraction 0.1
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import hdf5_products, remarks
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

_NAME = re.compile(r"PRS_(L1|L2C|L2D)_\w+_\d{14}_\d{14}_\d{4}\.he5", re.I)
_CAMERAS = (("Vnir", "V", 66), ("Swir", "S", 173))  # letters of names, bands of a full cube
_LARGEST = 65535  # digital number at the upper end of the scale
_ERRORS_L1, _ERRORS_L2 = (1, 2, 4), (1, 2, 3)
_PIXEL_M = 30.0


class Scene(NamedTuple):
    """What a product says about itself.

    Attributes:
        row: its bands in the order of the store.
        cubes: {camera: positions in its cube of the bands of the row}.
        shape: rows and columns.
        affine, crs: None without a grid.
    """

    row: Sensor
    cubes: dict[str, list[int]]
    shape: tuple[int, int]
    level: str
    time: int
    crs: str | None
    affine: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Reader:
    """PRISMA products, one sample per patch."""

    TITLE: ClassVar[str] = "PRISMA products"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "PRISMA data (c) ASI; see the PRISMA licence to use"
    archive: Archive
    patch_size: int = option(
        128, "height and width of a patch; 0 for whole products", metavar="PIXELS"
    )
    values: str = option(
        "numbers",
        "numbers: digital numbers, uint16; physical: reflectance or radiance, float32",
        choices=("numbers", "physical"),
    )
    drop_bad_bands: bool = option(False, "leave out bands whose flag in List_Cw_..._Flags is 0")

    @functools.cached_property
    def _names(self) -> list[str]:
        names = [name for name in self.archive.names((".he5",)) if is_product(name)]
        levels = {_level(name) for name in names}
        if len(levels) != 1:
            found = f"products of the levels {', '.join(sorted(levels))}" if levels else "none"
            raise ArchiveError(
                ".",
                f"has {found}, expected PRS_L2D_STD_<start>_<end>_<version>.he5, or L2C, or L1, of "
                "one level; convert each level by itself",
            )
        return names

    @functools.cached_property
    def _row(self) -> Sensor:
        """The row of the first readable product, which stands for all."""
        row = first_readable(self._names, functools.partial(read_row, self.archive))
        return _physical(row) if self.values == "physical" else row

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        """The row of the samples. Raises ArchiveError."""
        return (rows.without_bad(self._row) if self.drop_bad_bands else self._row,)

    def items(self) -> list[Item]:
        check_patch_size(self.patch_size, "products")
        _ = self.sensors  # so that a first product without a row is refused here
        return items_of((name, functools.partial(self._tiles, name)) for name in self._names)

    def _tiles(self, name: str):
        with hdf5_products.open_listed(self.archive, name) as product:
            shape = _shape(product, _level(name))
        stem = PurePosixPath(name).stem
        return list(rows.tiles(stem, (File("image", name),), shape, self.patch_size))

    def read(self, item: Item, files: Files) -> Sample:
        (sensor,) = self.sensors
        with hdf5_products.open_product(self.archive, files, "image") as product:
            scene = describe(product, _level(product.name))
            self._check(product.name, scene)
            area = rows.extent(item.part, scene.shape, self.patch_size)
            pixels = _pixels(product, scene, area)
            lonlat = _centre(product, scene, area)
        if self.values == "physical":
            pixels = _to_physical(pixels, scene.row)
        kept = rows.positions_of(scene.row, sensor)
        nodata = np.nan if self.values == "physical" else 0
        bands = [scene.row.bands[index] for index in kept]
        pixels = rows.exclude_bad(pixels[kept], bands, nodata)
        if sensor.missing(pixels).all():
            raise SkipSample("no data in any pixel")
        return Sample(
            pixels=pixels,
            sensor=sensor.id,
            id=item.id,
            group=item.group,
            time=scene.time,
            product=scene.level,
            wavelengths_nm=scene.row.centres_nm[kept],
            crs=scene.crs,
            affine=_moved(scene.affine, area),
            gsd_m=_PIXEL_M if scene.affine else None,
            lonlat=lonlat,
        )

    def footprint(self, item: Item) -> list[float] | None:
        scene = _listed_scene(self.archive, item.files[0].name)
        area = rows.extent(item.part, scene.shape, self.patch_size)
        sides = [part.stop - part.start for part in area]
        return footprint(scene.crs, _moved(scene.affine, area), *sides)

    def _check(self, name: str, scene: Scene) -> None:
        found = _physical(scene.row) if self.values == "physical" else scene.row
        rows.check_like(
            name,
            found,
            self._row,
            "give --values physical if only scales differ, or convert it to a store of its own",
        )


def is_product(name: str) -> bool:
    """Whether a file has the name of a product."""
    return _NAME.fullmatch(PurePosixPath(name).name) is not None


def read_row(archive: Archive, name: str) -> Sensor:
    """The row of a product. Raises ArchiveError."""
    with hdf5_products.open_listed(archive, name) as product:
        return describe(product, _level(name)).row


@functools.lru_cache(4)  # for the other patches
def _listed_scene(archive: Archive, name: str) -> Scene:
    with hdf5_products.open_listed(archive, name) as product:
        return describe(product, _level(name))


def _level(name: str) -> str:
    return _NAME.fullmatch(PurePosixPath(name).name)[1].upper()


# ------------------------------------------------------------------ what a product says


def _fields(level: str) -> str:
    return f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields"


def _shape(product: Product, level: str) -> tuple[int, int]:
    """Rows and columns. Raises ArchiveError."""
    vnir, swir = (
        hdf5_products.array(product, f"{_fields(level)}/{camera.upper()}_Cube", (None,) * 3)
        for camera, *_ in _CAMERAS
    )
    for cube in (vnir, swir):
        if cube.dtype != np.uint16 or cube.shape[::2] != vnir.shape[::2]:
            raise ArchiveError(
                product.name,
                f"{cube.name} is {cube.dtype} {cube.shape}, expected uint16 [row, band, column] on "
                f"the grid of {vnir.name}, {vnir.shape}; get the product again",
            )
    return vnir.shape[0], vnir.shape[2]


def describe(product: Product, level: str) -> Scene:
    """The bands, grid and time of a product. Raises ArchiveError."""
    shape = _shape(product, level)
    bands: list[Band] = []
    cubes: dict[str, list[int]] = {}
    first = 1
    for camera, letter, full in _CAMERAS:
        cube = product.file[f"{_fields(level)}/{camera.upper()}_Cube"]
        found, cubes[camera] = _camera_bands(product, level, camera, letter, first, cube.shape[1])
        bands += found
        first += max(full, cube.shape[1])
    scale = [(band.scale, band.offset) for band in bands]
    unit = "at-sensor radiance, W/(m2 sr um)" if level == "L1" else "surface reflectance"
    checksum = zlib.crc32(repr(scale).encode())
    try:
        row = rows.make_row(
            bands,
            id=f"prisma_{level.lower()}_{len(bands)}_{checksum:08x}",
            title=f"PRISMA {level}, {len(bands)} bands",
            gsd_m=_PIXEL_M,
            dtype="uint16",
            scale=bands[0].scale,
            offset=bands[0].offset,
            units=unit,
            nodata=0,
            source=f"attributes of {PurePosixPath(product.name).name}",
        )
    except (ValueError, IndexError) as error:
        raise ArchiveError(
            product.name, f"describes no bands ({error}); get the product again"
        ) from error
    crs, affine = _grid(product, level, shape)
    return Scene(row, cubes, shape, level, _time(product), crs, affine)


def _camera_bands(
    product: Product, level: str, camera: str, letter: str, first: int, count: int
) -> tuple[list[Band], list[int]]:
    """(bands by ascending wavelength, their positions in the cube)."""
    centres = hdf5_products.numbers(product, f"List_Cw_{camera}", count)
    widths = hdf5_products.numbers(product, f"List_Fwhm_{camera}", count)
    flags = hdf5_products.numbers(product, f"List_Cw_{camera}_Flags", count)
    scale, offset = _scale(product, level, camera)
    order = [int(index) for index in np.argsort(centres, kind="stable") if centres[index] != 0]
    bands = [
        Band(
            f"{letter}{index + 1}",
            first + index,
            float(centres[index]),
            float(widths[index]) or None,
            gsd_m=_PIXEL_M,
            scale=scale,
            offset=offset,
            bad=True if flags[index] == 0 else None,
        )
        for index in order
    ]
    return bands, order


def _scale(product: Product, level: str, camera: str) -> tuple[float, float]:
    """(scale, offset) of the digital numbers of a camera."""
    if level == "L1":
        (factor,) = hdf5_products.numbers(product, f"ScaleFactor_{camera}", 1)
        (offset,) = hdf5_products.numbers(product, f"Offset_{camera}", 1)
        scale = 1 / factor if factor else 0.0
        return float(scale), float(-offset)
    (low,) = hdf5_products.numbers(product, f"L2Scale{camera}Min", 1)
    (high,) = hdf5_products.numbers(product, f"L2Scale{camera}Max", 1)
    return float((high - low) / _LARGEST), float(low)


def _time(product: Product) -> int:
    text = hdf5_products.text(product, "Product_StartTime")
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            product.name,
            f"Product_StartTime is {text[:40]!r}, expected an ISO time; get the product again",
        ) from error


def _grid(
    product: Product, level: str, shape: tuple[int, int]
) -> tuple[str | None, tuple[float, ...] | None]:
    """(CRS, affine) of an L2D product, whose corners are centres of pixels, or outer edges."""
    if level != "L2D":
        return None, None
    keys = ("ULcorner_easting", "ULcorner_northing", "LRcorner_easting", "LRcorner_northing")
    left, top, right, bottom = (
        float(hdf5_products.numbers(product, f"Product_{key}", 1)[0]) for key in keys
    )
    (code,) = hdf5_products.numbers(product, "Epsg_Code", 1)
    spans = np.array([top - bottom, right - left])
    steps = spans / _PIXEL_M - np.array(shape)  # 0 between edges, -1 between centres
    half = _PIXEL_M / 2 if np.allclose(steps, -1, atol=0.01) else 0.0
    if not (half or np.allclose(steps, 0, atol=0.01)):
        raise ArchiveError(
            product.name,
            f"its corners are {spans[0]:g} x {spans[1]:g} m apart, expected {shape[0]} x "
            f"{shape[1]} pixels of {_PIXEL_M:g} m; get the product again",
        )
    try:
        crs = CRS.from_epsg(int(code))
    except (CRSError, ValueError, OverflowError) as error:
        raise ArchiveError(
            product.name, f"Epsg_Code is {code:g}, which is unknown; get the product again"
        ) from error
    return crs_name(crs), (_PIXEL_M, 0.0, left - half, 0.0, -_PIXEL_M, top + half)


# ------------------------------------------------------------------ pixels


def _pixels(product: Product, scene: Scene, area: tuple[slice, slice]) -> np.ndarray:
    """uint16 [c, h, w] with 0 where the product has an error code. Raises ArchiveError."""
    parts = []
    codes = _ERRORS_L1 if scene.level == "L1" else _ERRORS_L2
    kind = "SAT_ERR" if scene.level == "L1" else "L2_ERR"
    selection = (area[0], slice(None), area[1])
    for camera, positions in scene.cubes.items():
        below = f"{_fields(scene.level)}/{camera.upper()}"
        cube = product.file[f"{below}_Cube"]
        errors = hdf5_products.array(product, f"{below}_PIXEL_{kind}_MATRIX", cube.shape)
        found = hdf5_products.read(product, cube, selection)[:, positions].transpose(1, 0, 2)
        wrong = np.isin(
            hdf5_products.read(product, errors, selection)[:, positions], codes
        ).transpose(1, 0, 2)
        if wrong.any():
            remarks.note("pixels with an error code of the product are no-data")
        parts.append(np.where(wrong, np.uint16(0), found))
    return np.concatenate(parts)


def _physical(row: Sensor) -> Sensor:
    """The row of float32 values in the units of the product."""
    bands = tuple(dataclasses.replace(band, scale=None, offset=None) for band in row.bands)
    return dataclasses.replace(
        row,
        id=f"{row.id.rpartition('_')[0]}_float32",
        bands=bands,
        dtype="float32",
        scale=1.0,
        offset=0.0,
        nodata=None,
    )


def _to_physical(pixels: np.ndarray, row: Sensor) -> np.ndarray:
    """float32 [c, h, w]; NaN where there is no data."""
    values = pixels * row.scales[:, None, None] + row.offsets[:, None, None]
    return np.where(pixels == 0, np.nan, values).astype(np.float32)


def _moved(affine: tuple[float, ...] | None, area: tuple[slice, slice]) -> tuple[float, ...] | None:
    if affine is None:
        return None
    return tuple(
        rasterio.Affine(*affine) * rasterio.Affine.translation(area[1].start, area[0].start)
    )[:6]


def _centre(
    product: Product, scene: Scene, area: tuple[slice, slice]
) -> tuple[float, float] | None:
    sides = [part.stop - part.start for part in area]
    if scene.affine:
        return centre(scene.crs, _moved(scene.affine, area), *sides)
    suffix = "_VNIR" if scene.level == "L1" else ""
    below = f"HDFEOS/SWATHS/PRS_{scene.level}_HCO/Geolocation Fields"
    middle = tuple(slice((p.start + p.stop) // 2, (p.start + p.stop) // 2 + 1) for p in area)
    longitude, latitude = (
        float(
            hdf5_products.read(
                product,
                hdf5_products.array(product, f"{below}/{key}{suffix}", scene.shape),
                middle,
            ).item()
        )
        for key in ("Longitude", "Latitude")
    )
    is_place = abs(longitude) <= 180 and abs(latitude) <= 90
    return (longitude, latitude) if is_place else None
