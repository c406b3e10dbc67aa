"""Opens GeoTIFFs, and reads and checks their pixels, grid and time."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import bad_bands, remarks
from data_prep.formats.band_identity import Bands, identify
from data_prep.formats.block_cache import CachedBlocks
from data_prep.formats.encoding import check_encoding, check_values
from data_prep.formats.footprint import footprint
from data_prep.formats.gdal_errors import GDAL_ERRORS
from data_prep.formats.masks import apply_mask
from data_prep.formats.sidecars import DOMAIN as STAC_DOMAIN
from data_prep.formats.sidecars import Sidecars, sidecars
from data_prep.formats.times import utc_seconds
from data_prep.reader import AUX, MASK, Files
from eo_jax.sensors import Sensor

# A tile without coordinates is not an error.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

MAX_BYTES = 512 * 2**20  # of a decoded file or window: a header can claim any size

# GDAL must not look for neighbouring files or write .aux.xml files. Its default cache would be a
# fraction of the machine's memory for each worker.
_GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 128 * 2**20,
}
# With sidecars, which lie alone beside their image, GDAL looks for them by name.
_GDAL_WITH_SIDECARS = {
    **_GDAL,
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_PAM_ENABLED": "YES",
}
# GDAL's driver, and the format in words.
_TIFF, _JP2 = ("GTiff", "GeoTIFF"), ("JP2OpenJPEG", "JPEG 2000")
_FILE_NAME_TIME = re.compile(r"_(\d{8}T\d{6})Z_")
_FILE_NAME_VERSION = re.compile(r"_(V\d{6})_")
# The random name that rasterio gives to bytes in memory; it differs between runs.
_MEMORY_NAME = re.compile(r"[^\s',]*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[^\s',:]*")
_LOST_TAG = re.compile(r"TIFFFetch\w+:.*tag ignored|TIFF\w*:.*IO error.*")
_INT16 = np.iinfo(np.int16)


@contextlib.contextmanager
def open_tiff(files: Files, role: str) -> Iterator[rasterio.DatasetReader]:
    """Opens the GeoTIFF with that role in memory, with its sidecars; other formats are refused.

    GDAL errors become ArchiveError, also those raised inside the block.
    """
    name, data = files.name(role), files[role]
    if not data:  # for which rasterio would create a file
        raise ArchiveError(name, "is empty, so it cannot be read as GeoTIFF: copy it again")
    beside = sidecars(files, role)
    with _gdal_errors(name, "GeoTIFF", beside), contextlib.ExitStack() as stack:
        memory = stack.enter_context(_in_memory(data, beside))
        lost = stack.enter_context(_lost_tags())
        dataset = stack.enter_context(memory.open(driver="GTiff"))
        _check_tags(name, lost)
        yield dataset


@contextlib.contextmanager
def _in_memory(data: bytes, beside: Sidecars | None) -> Iterator[rasterio.MemoryFile]:
    if beside is None:
        with rasterio.MemoryFile(data) as memory:
            yield memory
        return
    folder = str(uuid.uuid4())
    with contextlib.ExitStack() as stack:
        for ending, content in ((AUX, beside.aux), (MASK, beside.mask)):
            if content:
                stack.enter_context(rasterio.MemoryFile(content, folder, f"image.tif{ending}"))
        yield stack.enter_context(rasterio.MemoryFile(data, folder, "image.tif"))


@contextlib.contextmanager
def open_tiff_path(files: Files, role: str) -> Iterator[rasterio.DatasetReader]:
    """Like `open_tiff`, for a file that is read by window."""
    with _open_path(files, role, *_TIFF) as dataset:
        yield dataset


@contextlib.contextmanager
def open_jp2_path(files: Files, role: str) -> Iterator[rasterio.DatasetReader]:
    """Like `open_tiff_path`, for JPEG 2000, of which decoded blocks are kept."""
    with _open_path(files, role, *_JP2) as dataset:
        yield CachedBlocks(dataset, files.hashes[files.name(role)])


@contextlib.contextmanager
def _open_path(files: Files, role: str, driver: str, kind: str) -> Iterator[rasterio.DatasetReader]:
    name, beside = files.name(role), sidecars(files, role)
    with (
        files.local(role) as path,
        _with_sidecars(path, beside) as linked,
        _gdal_errors(name, kind, beside, linked),
        _lost_tags() as lost,
        rasterio.open(linked, driver=driver) as dataset,
    ):
        _check_tags(name, lost)
        yield dataset


@contextlib.contextmanager
def _with_sidecars(path: Path, beside: Sidecars | None) -> Iterator[Path]:
    """A link to the file in a folder that has its sidecars and nothing else."""
    if beside is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="data_prep_") as folder:
        linked = Path(folder) / f"image{path.suffix}"
        linked.symlink_to(path.resolve())
        for ending, content in ((AUX, beside.aux), (MASK, beside.mask)):
            if content:
                linked.with_name(linked.name + ending).write_bytes(content)
        yield linked


@contextlib.contextmanager
def open_listed(archive: Archive, name: str) -> Iterator[rasterio.DatasetReader]:
    """Opens a GeoTIFF, or JPEG 2000 named so, while an archive is listed, for its size; without its
    sidecars.
    """
    driver, kind = _JP2 if name.lower().endswith(".jp2") else _TIFF
    with (
        archive.local(name) as path,
        _gdal_errors(name, kind, None, path),
        _lost_tags() as lost,
        rasterio.open(path, driver=driver) as dataset,
    ):
        _check_tags(name, lost)
        yield dataset


@contextlib.contextmanager
def _gdal_errors(
    name: str, kind: str, beside: Sidecars | None, path: Path | None = None
) -> Iterator[None]:
    """Turns errors of GDAL into ArchiveError; without the path, which differs between machines and
    would get into rejects.txt.
    """
    try:
        with rasterio.Env(**(_GDAL if beside is None else _GDAL_WITH_SIDECARS)):
            yield
    except GDAL_ERRORS as error:
        cause = _MEMORY_NAME.sub("the file", str(error.__cause__ or error))
        cause = cause.replace(str(path), "the file") if path else cause
        raise ArchiveError(
            name,
            f"cannot be read as {kind} ({cause}); it is truncated, damaged or not {kind}: copy it "
            "again",
        ) from error


@contextlib.contextmanager
def _lost_tags() -> Iterator[list[str]]:
    """Collects log messages of GDAL about unreadable tags.

    GDAL ignores such tags, so a truncated file would appear to have none.
    """
    lost: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("rasterio._env")
    handler.emit = lambda entry: (
        lost.append(entry.getMessage()) if _LOST_TAG.search(entry.getMessage()) else None
    )
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # errors are in the exception, and need not be on stderr as well
    try:
        yield lost
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _check_tags(name: str, lost: Sequence[str]) -> None:
    if lost:
        cause = _LOST_TAG.search(lost[0])[0]
        raise ArchiveError(
            name, f"cannot be read as GeoTIFF ({cause}); it is truncated or damaged: copy it again"
        )


# ------------------------------------------------------------------ pixels


def read_bands(
    name: str,
    dataset: rasterio.DatasetReader,
    sensor: Sensor,
    window: Window | None = None,
    bands: Bands | None = None,
    dtypes: Sequence[str] = (),
) -> np.ndarray:
    """All bands [c, h, w] of a file, or of a window of it, as `sensor` describes them.

    Pixels that the file's mask excludes get the sensor's no-data value. `bands` are those that
    `band_identity.identify` found, if the caller has them already; `dtypes` are those that the file
    may have, that of the sensor by default. NaN and infinity stay, as they
    are never data. Raises ArchiveError for another number of bands, order, dtype, no-data value or
    scale, for a size above MAX_BYTES, and for values that the sensor cannot have.
    """
    bands = bands or identify(name, dataset, sensor)
    check_encoding(name, dataset, sensor, bands.numbers, dtypes or (sensor.dtype,))
    check_bytes(name, dataset, dataset.count, window)
    pixels = dataset.read(bands.numbers, window=window)
    pixels = apply_mask(name, dataset, sensor, pixels, bands.numbers, window)
    pixels = bad_bands.exclude(name, pixels, bands.bad, sensor)
    check_values(name, pixels, sensor)
    return pixels


def check_shape(name: str, dataset: rasterio.DatasetReader, height: int, width: int) -> None:
    """Raises ArchiveError where the file has another size in pixels."""
    if dataset.shape != (height, width):
        raise ArchiveError(
            name, f"{size_text(dataset)} pixels, expected {height} x {width}; copy it again"
        )


def check_bytes(
    name: str, dataset: rasterio.DatasetReader, bands: int, window: Window | None
) -> None:
    """Raises ArchiveError where so many bands of a file or of a window exceed MAX_BYTES."""
    height, width = (window.height, window.width) if window else dataset.shape
    block = max(rows * columns for rows, columns in dataset.block_shapes) * (
        dataset.count if dataset.interleaving is Interleaving.pixel else 1
    )
    # A window is decoded block by block.
    claimed = max(bands * height * width, block) * np.dtype(dataset.dtypes[0]).itemsize
    if claimed > MAX_BYTES:
        raise ArchiveError(
            name,
            f"{bands} bands of {size_text(dataset)} pixels take {claimed / 1e6:,.0f} MB, at most "
            f"{MAX_BYTES / 1e6:,.0f} MB; give a --patch-size where the reader has it, or cut the "
            "file",
        )


def read_pixels(
    name: str,
    dataset: rasterio.DatasetReader,
    bands: Bands,
    sensor: Sensor,
    dtypes: Sequence[str],
) -> np.ndarray:
    """These bands of a file [c, h, w], those of `sensor`, as int16 where that is lossless. Raises
    ArchiveError.

    Tools that cut EnMAP tiles often write them as float32, though the product is int16: integers go
    back to int16, at half the size and with every value kept. Anything else stays float32.
    """
    check_encoding(name, dataset, sensor, bands.numbers, dtypes)
    check_bytes(name, dataset, len(bands.numbers), None)
    pixels = dataset.read(bands.numbers)
    pixels = apply_mask(name, dataset, sensor, pixels, bands.numbers, None)
    pixels = bad_bands.exclude(name, pixels, bands.bad, sensor)
    check_values(name, pixels, sensor)
    if pixels.dtype.kind == "f":
        pixels = _to_int16_if_lossless(_finite(pixels, sensor))
    # The first value tells in nearly every file.
    if pixels.flat[0] == sensor.nodata and (pixels == sensor.nodata).all():
        raise ArchiveError(
            name,
            f"every pixel of every kept band is no-data ({sensor.nodata}); remove the file, or "
            "give --skip-bad",
        )
    return pixels


def _finite(pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Pixels with the sensor's no-data value in place of NaN and infinity, which are never data."""
    unknown = ~np.isfinite(pixels)
    if not unknown.any():
        return pixels
    remarks.note("NaN and infinity are stored as the no-data value of the sensor table")
    return np.where(unknown, pixels.dtype.type(sensor.nodata), pixels)


def _to_int16_if_lossless(pixels: np.ndarray) -> np.ndarray:
    lossless = (
        pixels.min() >= _INT16.min
        and pixels.max() <= _INT16.max
        and (pixels == np.rint(pixels)).all()
    )
    return pixels.astype(np.int16) if lossless else pixels.astype(np.float32, copy=False)


# ------------------------------------------------------------------ georeference and time


def georeference(dataset: rasterio.DatasetReader, window: Window | None = None) -> dict:
    """The fields crs, affine, gsd_m and lonlat of a Sample of the file or of a window of it; None
    for each that the file does not have.
    """
    crs, affine = dataset.crs, dataset.transform
    height, width = dataset.shape
    if affine.is_identity:  # rasterio's value for no transform
        return {"crs": crs_name(crs), "affine": None, "gsd_m": None, "lonlat": None}
    # The root of a pixel's area also holds for rotated grids. Geographic grids are in degrees, so
    # they have no size in metres.
    gsd_m = (
        math.sqrt(abs(affine.determinant)) * crs.linear_units_factor[1]
        if crs and crs.is_projected
        else None
    )
    if window is not None:
        x, y = rasterio.transform.xy(affine, window.row_off, window.col_off, offset="ul")
        affine = rasterio.Affine(affine.a, affine.b, x, affine.d, affine.e, y)
        height, width = window.height, window.width
    return {
        "crs": crs_name(crs),
        "affine": tuple(affine)[:6],
        "gsd_m": gsd_m,
        "lonlat": _lonlat(crs, affine, height, width),
    }


def listed_footprint(
    archive: Archive, name: str, window: Window | None = None
) -> list[float] | None:
    """Longitude and latitude of the corners of a file or of a window of it, [8], while an archive
    is listed; None without a georeference. Raises ArchiveError.
    """
    crs, affine, height, width = _listed_grid(archive, name, archive.entry(name).stamp)
    if affine.is_identity:  # rasterio's value for no transform
        return None
    if window is not None:
        affine = affine * rasterio.Affine.translation(window.col_off, window.row_off)
        height, width = window.height, window.width
    return footprint(crs, tuple(affine)[:6], height, width)


@functools.lru_cache(1)  # for the next tile of the file
def _listed_grid(
    archive: Archive, name: str, stamp: int
) -> tuple[str | None, rasterio.Affine, int, int]:
    with open_listed(archive, name) as dataset:
        return crs_name(dataset.crs), dataset.transform, *dataset.shape


def crs_name(crs: rasterio.crs.CRS | None) -> str | None:
    """ "EPSG:...", or WKT where there is no such code; None without a CRS."""
    if not crs:
        return None
    code = crs.to_epsg(confidence_threshold=100)
    return crs.to_wkt() if code is None else f"EPSG:{code}"


def _lonlat(crs, affine: rasterio.Affine, height: int, width: int) -> tuple[float, float] | None:
    if not crs or not (crs.is_projected or crs.is_geographic):
        return None
    x, y = rasterio.transform.xy(affine, height / 2, width / 2, offset="ul")
    longitude, latitude = rasterio.warp.transform(crs, "EPSG:4326", [x], [y])
    return (
        (longitude[0], latitude[0])
        if math.isfinite(longitude[0]) and math.isfinite(latitude[0])
        else None
    )


def acquisition_time(name: str, dataset: rasterio.DatasetReader) -> int | None:
    """Seconds since 1970 UTC from the file tag `start_time` or an EnMAP file name, or None.

    A time without a zone is UTC.
    """
    in_name = _FILE_NAME_TIME.search(name)
    text = dataset.tags().get("start_time") or (in_name and in_name[1])
    if not text:
        return None
    try:
        return utc_seconds(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"start_time is {text!r}, expected an ISO time such as 2022-07-24T10:45:26; correct "
            "the tag",
        ) from error


def stated_time(name: str, dataset: rasterio.DatasetReader) -> int | None:
    """Seconds since 1970 UTC that a file of any kind states: like `acquisition_time`, or the tag
    `datetime` (xarray), or `datetime` of a STAC item. Other tags tell when a file was written.
    """
    found = acquisition_time(name, dataset)
    text = dataset.tags(ns=STAC_DOMAIN).get("datetime") or dataset.tags().get("datetime")
    if found is not None or not text:
        return found
    try:
        return utc_seconds(text)
    except ValueError:
        remarks.note("the tag datetime is not an ISO time, so it is not used")
        return None


def product_version(name: str) -> str | None:
    """The processing version in an EnMAP file name, such as V010303."""
    found = _FILE_NAME_VERSION.search(name)
    return found and found[1]


def size_text(dataset: rasterio.DatasetReader) -> str:
    """Rows and columns of a file, for errors."""
    return f"{dataset.height} x {dataset.width}"
