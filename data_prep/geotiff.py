"""Reads GeoTIFF bytes as archives of EnMAP have them: pixels, wavelengths, grid and time, each checked."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import rasterio
import rasterio.warp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from data_prep.readers import ArchiveError
from eo_jax import sensors
from eo_jax.sensors import Sensor

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a tile without coordinates is no error

# No look at neighbouring files, no .aux.xml beside them: what is read is the file, and nothing is written.
_GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
_NM_PER_UNIT = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1000.0, "micrometer": 1000.0, "um": 1000.0, "µm": 1000.0}
_FILE_NAME_TIME = re.compile(r"_(\d{8}T\d{6})Z_")
_FILE_NAME_VERSION = re.compile(r"_(V\d{6})_")
# The random name that rasterio gives to bytes in memory, which would differ between runs.
_MEMORY_NAME = re.compile(r"[^\s',]*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[^\s',:]*")
_LOST_TAG = re.compile(r"TIFFFetch\w+:.*tag ignored|TIFF\w*:.*IO error.*")
_INT16 = np.iinfo(np.int16)
_LABEL_INTEGERS = {"float32": np.int32, "float64": np.int64}


@contextlib.contextmanager
def open_tiff(name: str, data: bytes) -> Iterator[rasterio.DatasetReader]:
    """The GeoTIFF in `data`; other formats are refused. GDAL errors become ArchiveError, also those of reading inside the block."""
    if not data:  # which rasterio would take for a file to be written
        raise ArchiveError(name, "is empty, so it cannot be read as GeoTIFF: copy it again")
    try:
        with rasterio.Env(**_GDAL), rasterio.MemoryFile(data) as memory, _lost_tags() as lost, memory.open(driver="GTiff") as dataset:
            _check_tags(name, lost)
            yield dataset
    except RasterioError as error:
        cause = _MEMORY_NAME.sub("the file", str(error.__cause__ or error))
        raise ArchiveError(name, f"cannot be read as GeoTIFF ({cause}); it is truncated, damaged or no GeoTIFF: copy it again") from error


@contextlib.contextmanager
def _lost_tags() -> Iterator[list[str]]:
    """Collects what GDAL logs of tags that it cannot read. It goes on without them, so a truncated file would only seem to have no tags."""
    lost: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("rasterio._env")
    handler.emit = lambda entry: lost.append(entry.getMessage()) if _LOST_TAG.search(entry.getMessage()) else None
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # errors are in the exception; they need not be on stderr, too
    try:
        yield lost
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _check_tags(name: str, lost: Sequence[str]) -> None:
    if lost:
        cause = _LOST_TAG.search(lost[0])[0]
        raise ArchiveError(name, f"cannot be read as GeoTIFF ({cause}); it is truncated or damaged: copy it again")


# ------------------------------------------------------------------ pixels


def read_pixels(name: str, dataset: rasterio.DatasetReader, numbers: Sequence[int], sensor: Sensor, dtypes: Sequence[str]) -> np.ndarray:
    """The bands of those 1-based numbers [c, h, w], in their order, int16 wherever that loses nothing. Raises ArchiveError.

    Tools that cut EnMAP tiles like to write them as float32, though the product is int16: whole numbers go back to int16, at half the size
    and with every value kept. Anything else stays float32.
    """
    _check_encoding(name, dataset, sensor, dtypes)
    pixels = dataset.read(list(numbers))
    if pixels.dtype.kind == "f":
        _check_finite(name, pixels, numbers, sensor)
        pixels = _as_int16_if_whole(pixels)
    if (pixels == sensor.nodata).all():
        raise ArchiveError(name, f"every pixel of every kept band is no-data ({sensor.nodata}); remove the file, or give --skip-bad")
    return pixels


def _check_encoding(name: str, dataset: rasterio.DatasetReader, sensor: Sensor, dtypes: Sequence[str]) -> None:
    found = set(dataset.dtypes)
    if len(found) > 1 or not found <= set(dtypes):
        types = f"pixels are {', '.join(sorted(found))}, expected {' or '.join(dtypes)}"
        raise ArchiveError(name, f"{types}; write reflectance x 10000 in that type")
    if dataset.nodata is not None and dataset.nodata != sensor.nodata:
        cure = f"write {sensor.nodata} where there is no data"
        raise ArchiveError(name, f"no-data value is {dataset.nodata:g}, expected {sensor.nodata} or none; {cure}")
    scales, offsets = set(dataset.scales) - {1.0, sensor.scale}, set(dataset.offsets) - {0.0}
    if scales or offsets:
        wrong = f"scale is {scales.pop():g}" if scales else f"offset is {offsets.pop():g}"
        raise ArchiveError(name, f"{wrong}, expected scale {sensor.scale:g} and offset 0, or none; write reflectance x 10000")


def _check_finite(name: str, pixels: np.ndarray, numbers: Sequence[int], sensor: Sensor) -> None:
    bad = ~np.isfinite(pixels)
    if bad.any():
        band, row, column = np.argwhere(bad)[0]
        raise ArchiveError(
            name,
            f"{bad.sum()} values are NaN or infinite, the first in band {numbers[band]} at row {row}, column {column}; "
            f"write {sensor.nodata} where there is no data",
        )


def _as_int16_if_whole(pixels: np.ndarray) -> np.ndarray:
    whole = pixels.min() >= _INT16.min and pixels.max() <= _INT16.max and (pixels == np.rint(pixels)).all()
    return pixels.astype(np.int16) if whole else pixels.astype(np.float32, copy=False)


# ------------------------------------------------------------------ wavelengths


def wavelengths_nm(name: str, dataset: rasterio.DatasetReader) -> np.ndarray | None:
    """Centre wavelengths [c] from the band tags `wavelength` and `wavelength_units`, or None where no band has them. Raises ArchiveError.

    A missing unit is taken for nm, which the comparison with the sensor table proves or refutes.
    """
    tags = [dataset.tags(number) for number in dataset.indexes]
    present = ["wavelength" in band for band in tags]
    if not any(present):
        return None
    if not all(present):
        raise ArchiveError(name, f"band {present.index(False) + 1} has no tag `wavelength`, others have; write it for all bands or none")
    return np.array([_nm(name, number, band) for number, band in zip(dataset.indexes, tags, strict=True)])


def _nm(name: str, number: int, tags: dict[str, str]) -> float:
    unit = tags.get("wavelength_units", "nm")
    if unit.lower() not in _NM_PER_UNIT:
        raise ArchiveError(name, f"band {number} has wavelength_units {unit!r}, expected Nanometers or Micrometers; correct the tag")
    try:
        return float(tags["wavelength"]) * _NM_PER_UNIT[unit.lower()]
    except ValueError as error:
        raise ArchiveError(name, f"band {number} has wavelength {tags['wavelength']!r}, expected a number; correct the tag") from error


def check_wavelengths(name: str, found_nm: np.ndarray, sensor: Sensor) -> None:
    """Raises ArchiveError where wavelengths [c] do not belong to the bands of `sensor`."""
    try:
        sensors.check_wavelengths(sensor, found_nm, name)
    except ValueError as error:
        raise ArchiveError(name, str(error).removeprefix(f"{name}: ")) from error


# ------------------------------------------------------------------ place and time


def place(dataset: rasterio.DatasetReader) -> dict:
    """The fields crs, affine, gsd_m and lonlat of a Sample; None for each that the file does not say."""
    crs, affine = dataset.crs, dataset.transform
    if affine.is_identity:  # what rasterio says where there is none
        return {"crs": _crs_name(crs), "affine": None, "gsd_m": None, "lonlat": None}
    # The root of a pixel's area, so that it holds for rotated grids, too. Degrees are no metres: a geographic grid has none.
    gsd_m = math.sqrt(abs(affine.determinant)) * crs.linear_units_factor[1] if crs and crs.is_projected else None
    return {"crs": _crs_name(crs), "affine": tuple(affine)[:6], "gsd_m": gsd_m, "lonlat": _lonlat(dataset)}


def _crs_name(crs) -> str | None:
    if not crs:
        return None
    code = crs.to_epsg(confidence_threshold=100)
    return crs.to_wkt() if code is None else f"EPSG:{code}"


def _lonlat(dataset: rasterio.DatasetReader) -> tuple[float, float] | None:
    if not dataset.crs or not (dataset.crs.is_projected or dataset.crs.is_geographic):
        return None
    x, y = dataset.xy(dataset.height / 2, dataset.width / 2, offset="ul")
    longitude, latitude = rasterio.warp.transform(dataset.crs, "EPSG:4326", [x], [y])
    return (longitude[0], latitude[0]) if math.isfinite(longitude[0]) and math.isfinite(latitude[0]) else None


def acquisition_time(name: str, dataset: rasterio.DatasetReader) -> int | None:
    """Seconds since 1970 UTC from the file tag `start_time`, or from an EnMAP file name, or None. A time without a zone is UTC."""
    in_name = _FILE_NAME_TIME.search(name)
    text = dataset.tags().get("start_time") or (in_name and in_name[1])
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ArchiveError(name, f"start_time is {text!r}, expected an ISO time such as 2022-07-24T10:45:26; correct the tag") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def product_version(name: str) -> str | None:
    """The processing version in an EnMAP file name, such as V010303."""
    found = _FILE_NAME_VERSION.search(name)
    return found and found[1]


# ------------------------------------------------------------------ labels


def read_labels(image_name: str, image: rasterio.DatasetReader, name: str, data: bytes) -> np.ndarray:
    """A label map [h, w] on the grid of its image, integers. Raises ArchiveError.

    Maps that hold class numbers as floats become int32 (float32) or int64 (float64), whatever is in them, so that all maps of a kind agree.
    """
    with open_tiff(name, data) as dataset:
        _check_grid(image_name, image, name, dataset)
        return _as_integers(name, dataset.read(1))


def _check_grid(image_name: str, image: rasterio.DatasetReader, name: str, label: rasterio.DatasetReader) -> None:
    warp = "warp the map to the image"
    if label.count != 1:
        raise ArchiveError(name, f"{label.count} bands, expected 1, the label map of {image_name}")
    if label.shape != image.shape:
        raise ArchiveError(name, f"{_size(label)} pixels, but its image {image_name} has {_size(image)}; cut both on one grid")
    if label.crs and image.crs and label.crs != image.crs:
        raise ArchiveError(name, f"CRS is {_crs_name(label.crs)}, but its image {image_name} has {_crs_name(image.crs)}; {warp}")
    georeferenced = not (label.transform.is_identity or image.transform.is_identity)
    tolerance = 1e-3 * math.sqrt(abs(image.transform.determinant))
    if georeferenced and not label.transform.almost_equals(image.transform, tolerance):
        raise ArchiveError(name, f"transform is {_numbers(label)}, but its image {image_name} has {_numbers(image)}; {warp}")


def _as_integers(name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.name not in _LABEL_INTEGERS:
        raise ArchiveError(name, f"label map is {labels.dtype}, expected class numbers; write it as uint8 or uint16")
    integers = _LABEL_INTEGERS[labels.dtype.name]
    with np.errstate(invalid="ignore"):  # NaN and what does not fit do not come back equal
        converted = labels.astype(integers)
    if not (converted == labels).all():
        raise ArchiveError(name, "label map has values that are no class numbers (fractions, NaN, too large); write it as uint8 or uint16")
    return converted


def _size(dataset: rasterio.DatasetReader) -> str:
    return f"{dataset.height} x {dataset.width}"


def _numbers(dataset: rasterio.DatasetReader) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in tuple(dataset.transform)[:6]) + ")"
