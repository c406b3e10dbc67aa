"""Reads and checks pixels, wavelengths, grid, time and label maps of GeoTIFFs."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats.gdal_errors import GDAL_ERRORS
from eo_jax import sensors
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
_NM_PER_UNIT = {
    "nanometers": 1.0,
    "nanometer": 1.0,
    "nm": 1.0,
    "micrometers": 1000.0,
    "micrometer": 1000.0,
    "um": 1000.0,
    "µm": 1000.0,
}
_FILE_NAME_TIME = re.compile(r"_(\d{8}T\d{6})Z_")
_FILE_NAME_VERSION = re.compile(r"_(V\d{6})_")
# The random name that rasterio gives to bytes in memory; it differs between runs.
_MEMORY_NAME = re.compile(r"[^\s',]*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[^\s',:]*")
_LOST_TAG = re.compile(r"TIFFFetch\w+:.*tag ignored|TIFF\w*:.*IO error.*")
_INT16 = np.iinfo(np.int16)
_LABEL_INTEGERS = {"float32": np.int32, "float64": np.int64}


@contextlib.contextmanager
def open_tiff(name: str, data: bytes) -> Iterator[rasterio.DatasetReader]:
    """Opens the GeoTIFF in `data`; other formats are refused.

    GDAL errors become ArchiveError, also those raised inside the block.
    """
    if not data:  # for which rasterio would create a file
        raise ArchiveError(name, "is empty, so it cannot be read as GeoTIFF: copy it again")
    with (
        _gdal_errors(name, "GeoTIFF"),
        rasterio.MemoryFile(data) as memory,
        _lost_tags() as lost,
        memory.open(driver="GTiff") as dataset,
    ):
        _check_tags(name, lost)
        yield dataset


@contextlib.contextmanager
def open_tiff_path(name: str, path: Path) -> Iterator[rasterio.DatasetReader]:
    """Like `open_tiff`, for a file that is read by window."""
    with (
        _gdal_errors(name, "GeoTIFF"),
        _lost_tags() as lost,
        rasterio.open(path, driver="GTiff") as dataset,
    ):
        _check_tags(name, lost)
        yield dataset


@contextlib.contextmanager
def _gdal_errors(name: str, kind: str) -> Iterator[None]:
    try:
        with rasterio.Env(**_GDAL):
            yield
    except GDAL_ERRORS as error:
        cause = _MEMORY_NAME.sub("the file", str(error.__cause__ or error))
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
    name: str, dataset: rasterio.DatasetReader, sensor: Sensor, window: Window | None = None
) -> np.ndarray:
    """All bands [c, h, w] of a file, or of a window of it, with the bands and dtype of `sensor`.

    Raises ArchiveError for another number of bands, dtype, no-data value or scale, for a size above
    MAX_BYTES, and for NaN or infinity in place of the sensor's no-data value.
    """
    check_count(name, dataset, len(sensor.bands), sensor.title)
    _check_encoding(name, dataset, sensor, (sensor.dtype,))
    _check_bytes(name, dataset, dataset.count, window)
    pixels = dataset.read(window=window)
    if pixels.dtype.kind == "f":
        wrong = np.isinf(pixels) if _nan_is_nodata(dataset) else ~np.isfinite(pixels)
        _check_finite(name, wrong, dataset.indexes, sensor)
    return pixels


def check_count(name: str, dataset: rasterio.DatasetReader, bands: int, what: str) -> None:
    """Raises ArchiveError where the file has another number of bands."""
    if dataset.count != bands:
        raise ArchiveError(
            name,
            f"{dataset.count} bands, expected the {bands} of {what}; use the reader of that "
            "product, or fix the file",
        )


def check_shape(name: str, dataset: rasterio.DatasetReader, height: int, width: int) -> None:
    """Raises ArchiveError where the file has another size in pixels."""
    if dataset.shape != (height, width):
        raise ArchiveError(
            name, f"{_size(dataset)} pixels, expected {height} x {width}; copy it again"
        )


def _check_bytes(
    name: str, dataset: rasterio.DatasetReader, bands: int, window: Window | None
) -> None:
    height, width = (window.height, window.width) if window else dataset.shape
    block = max(rows * columns for rows, columns in dataset.block_shapes) * (
        dataset.count if dataset.interleaving is Interleaving.pixel else 1
    )
    # A window is decoded block by block.
    claimed = max(bands * height * width, block) * np.dtype(dataset.dtypes[0]).itemsize
    if claimed > MAX_BYTES:
        raise ArchiveError(
            name,
            f"{bands} bands of {_size(dataset)} pixels take {claimed / 1e6:,.0f} MB, at most "
            f"{MAX_BYTES / 1e6:,.0f} MB; cut it",
        )


def read_pixels(
    name: str,
    dataset: rasterio.DatasetReader,
    numbers: Sequence[int],
    sensor: Sensor,
    dtypes: Sequence[str],
) -> np.ndarray:
    """The bands with these 1-based numbers [c, h, w], in the given order, as int16 where that is
    lossless. Raises ArchiveError.

    Tools that cut EnMAP tiles often write them as float32, though the product is int16: integers go
    back to int16, at half the size and with every value kept. Anything else stays float32.
    """
    _check_encoding(name, dataset, sensor, dtypes)
    _check_bytes(name, dataset, len(numbers), None)
    pixels = dataset.read(list(numbers))
    if pixels.dtype.kind == "f":
        _check_finite(name, ~np.isfinite(pixels), numbers, sensor)
        pixels = _to_int16_if_lossless(pixels)
    if (pixels == sensor.nodata).all():
        raise ArchiveError(
            name,
            f"every pixel of every kept band is no-data ({sensor.nodata}); remove the file, or "
            "give --skip-bad",
        )
    return pixels


def _check_encoding(
    name: str, dataset: rasterio.DatasetReader, sensor: Sensor, dtypes: Sequence[str]
) -> None:
    found = set(dataset.dtypes)
    if len(found) > 1 or not found <= set(dtypes):
        types = f"pixels are {', '.join(sorted(found))}, expected {' or '.join(dtypes)}"
        raise ArchiveError(name, f"{types}; write {_encoding(sensor)} in that type")
    if (
        dataset.nodata is not None
        and not _nan_is_nodata(dataset)
        and dataset.nodata != sensor.nodata
    ):
        hint = (
            f"write {sensor.nodata} for pixels without data"
            if sensor.nodata is not None
            else "remove the tag"
        )
        raise ArchiveError(
            name, f"no-data value is {dataset.nodata:g}, expected {sensor.nodata} or none; {hint}"
        )
    scales = set(dataset.scales) - {1.0, sensor.scale}
    offsets = set(dataset.offsets) - {0.0, sensor.offset}
    if scales or offsets:
        wrong = f"scale is {scales.pop():g}" if scales else f"offset is {offsets.pop():g}"
        expected = f"scale {sensor.scale:g} and offset {sensor.offset:g}"
        raise ArchiveError(
            name, f"{wrong}, expected {expected}, or none; write {_encoding(sensor)}"
        )


def _encoding(sensor: Sensor) -> str:
    """The sensor's digital numbers in words: "surface reflectance x 10000"."""
    return sensor.units if sensor.scale == 1 else f"{sensor.units} x {1 / sensor.scale:g}"


def _nan_is_nodata(dataset: rasterio.DatasetReader) -> bool:
    """Whether the file declares NaN as its no-data value, which is accepted for every sensor."""
    return dataset.nodata is not None and math.isnan(dataset.nodata)


def _check_finite(name: str, bad: np.ndarray, numbers: Sequence[int], sensor: Sensor) -> None:
    if bad.any():
        band, row, column = np.argwhere(bad)[0]
        hint = (
            f"write {sensor.nodata} for pixels without data"
            if sensor.nodata is not None
            else "fix the file, or give --skip-bad"
        )
        raise ArchiveError(
            name,
            f"{bad.sum()} values are NaN or infinite, the first in band {numbers[band]} at row "
            f"{row}, column {column}; {hint}",
        )


def _to_int16_if_lossless(pixels: np.ndarray) -> np.ndarray:
    lossless = (
        pixels.min() >= _INT16.min
        and pixels.max() <= _INT16.max
        and (pixels == np.rint(pixels)).all()
    )
    return pixels.astype(np.int16) if lossless else pixels.astype(np.float32, copy=False)


# ------------------------------------------------------------------ wavelengths


def wavelengths_nm(name: str, dataset: rasterio.DatasetReader) -> np.ndarray | None:
    """Centre wavelengths [c] from the band tags `wavelength` and `wavelength_units`, or None where
    no band has them. Raises ArchiveError.

    Without a unit nm are assumed, which the comparison with the sensor table confirms or refutes.
    """
    tags = [dataset.tags(number) for number in dataset.indexes]
    present = ["wavelength" in band for band in tags]
    if not any(present):
        return None
    if not all(present):
        raise ArchiveError(
            name,
            f"band {present.index(False) + 1} has no tag `wavelength`, but others do; write it for "
            "all bands or none",
        )
    return np.array(
        [_nm(name, number, band) for number, band in zip(dataset.indexes, tags, strict=True)]
    )


def _nm(name: str, number: int, tags: dict[str, str]) -> float:
    unit = tags.get("wavelength_units", "nm")
    if unit.lower() not in _NM_PER_UNIT:
        raise ArchiveError(
            name,
            f"band {number} has wavelength_units {unit!r}, expected Nanometers or Micrometers; "
            "correct the tag",
        )
    try:
        return float(tags["wavelength"]) * _NM_PER_UNIT[unit.lower()]
    except ValueError as error:
        raise ArchiveError(
            name,
            f"band {number} has wavelength {tags['wavelength']!r}, expected a number; correct the "
            "tag",
        ) from error


def check_wavelengths(name: str, found_nm: np.ndarray, sensor: Sensor) -> None:
    """Raises ArchiveError where wavelengths [c] are not those of the bands of `sensor`."""
    try:
        sensors.check_wavelengths(sensor, found_nm, name)
    except ValueError as error:
        raise ArchiveError(name, str(error).removeprefix(f"{name}: ")) from error


# ------------------------------------------------------------------ georeference and time


def georeference(dataset: rasterio.DatasetReader, window: Window | None = None) -> dict:
    """The fields crs, affine, gsd_m and lonlat of a Sample of the file or of a window of it; None
    for each that the file does not have.
    """
    crs, affine = dataset.crs, dataset.transform
    height, width = dataset.shape
    if affine.is_identity:  # rasterio's value for no transform
        return {"crs": _crs_name(crs), "affine": None, "gsd_m": None, "lonlat": None}
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
        "crs": _crs_name(crs),
        "affine": tuple(affine)[:6],
        "gsd_m": gsd_m,
        "lonlat": _lonlat(crs, affine, height, width),
    }


def _crs_name(crs) -> str | None:
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
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ArchiveError(
            name,
            f"start_time is {text!r}, expected an ISO time such as 2022-07-24T10:45:26; correct "
            "the tag",
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def product_version(name: str) -> str | None:
    """The processing version in an EnMAP file name, such as V010303."""
    found = _FILE_NAME_VERSION.search(name)
    return found and found[1]


# ------------------------------------------------------------------ labels


def read_labels(
    image_name: str, image: rasterio.DatasetReader, name: str, data: bytes
) -> np.ndarray:
    """An integer label map [h, w] on the grid of its image. Raises ArchiveError.

    Maps with class numbers as floats become int32 (float32) or int64 (float64), whatever their
    values, so that all maps of a kind have the same dtype.
    """
    with open_tiff(name, data) as dataset:
        _check_grid(image_name, image, name, dataset)
        _check_bytes(name, dataset, 1, None)
        return _as_integers(name, dataset.read(1))


def _check_grid(
    image_name: str, image: rasterio.DatasetReader, name: str, label: rasterio.DatasetReader
) -> None:
    warp = "warp the map to the image"
    if label.count != 1:
        raise ArchiveError(name, f"{label.count} bands, expected 1, the label map of {image_name}")
    if label.shape != image.shape:
        raise ArchiveError(
            name,
            f"{_size(label)} pixels, but its image {image_name} has {_size(image)}; cut both on "
            "the same grid",
        )
    if label.crs and image.crs and label.crs != image.crs:
        raise ArchiveError(
            name,
            f"CRS is {_crs_name(label.crs)}, but its image {image_name} has "
            f"{_crs_name(image.crs)}; {warp}",
        )
    georeferenced = not (label.transform.is_identity or image.transform.is_identity)
    tolerance = 1e-3 * math.sqrt(abs(image.transform.determinant))
    if georeferenced and not label.transform.almost_equals(image.transform, tolerance):
        raise ArchiveError(
            name,
            f"transform is {_numbers(label)}, but its image {image_name} has {_numbers(image)}; "
            f"{warp}",
        )


def _as_integers(name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.name not in _LABEL_INTEGERS:
        raise ArchiveError(
            name,
            f"label map is {labels.dtype}, expected class numbers; write it as uint8 or uint16",
        )
    integers = _LABEL_INTEGERS[labels.dtype.name]
    with np.errstate(invalid="ignore"):  # NaN and values out of range do not compare equal
        converted = labels.astype(integers)
    if not (converted == labels).all():
        raise ArchiveError(
            name,
            "label map has values that are not class numbers (fractions, NaN, too large); write it "
            "as uint8 or uint16",
        )
    return converted


def _size(dataset: rasterio.DatasetReader) -> str:
    return f"{dataset.height} x {dataset.width}"


def _numbers(dataset: rasterio.DatasetReader) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in tuple(dataset.transform)[:6]) + ")"


# ------------------------------------------------------------------ other formats


@contextlib.contextmanager
def open_jp2_path(name: str, path: Path) -> Iterator[rasterio.DatasetReader]:
    """Like `open_tiff_path`, for JPEG 2000."""
    with _gdal_errors(name, "JPEG 2000"), rasterio.open(path, driver="JP2OpenJPEG") as dataset:
        yield dataset


def read_label_window(
    image_name: str,
    image: rasterio.DatasetReader,
    name: str,
    label: rasterio.DatasetReader,
    window: Window | None,
) -> np.ndarray:
    """Like `read_labels`, for an open label map or a window [h, w] of it."""
    _check_grid(image_name, image, name, label)
    _check_bytes(name, label, 1, window)
    return _as_integers(name, label.read(1, window=window))
