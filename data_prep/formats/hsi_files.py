"""Opens hyperspectral scenes and label maps in .mat, ENVI or GeoTIFF files, read by window."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import envi, geotiff, matfile
from data_prep.formats.listing import TIFF
from data_prep.reader import File, Files
from eo_jax.sensors import Sensor

_ENVI_DATA = ("", ".bsq", ".bil", ".bip", ".dat", ".img", ".raw")
_SIZES = ("nRow", "nCol")  # next to a matrix [c, w * h] of spectra, as in unmixing benchmarks


class Scene(Protocol):
    """An open scene or map. Its methods raise ArchiveError.

    Attributes:
        shape: bands, rows and columns.
    """

    shape: tuple[int, int, int]

    def pixels(self, sensor: Sensor, window: Window) -> np.ndarray:
        """[c, h, w] in the dtype of the sensor table, with every value of the file unchanged."""

    def wavelengths_nm(self, sensor: Sensor) -> np.ndarray | None:
        """The file's wavelengths, float64 [c], checked against the table; None without any."""

    def georeference(self, window: Window) -> dict[str, Any]:
        """crs, affine, gsd_m and lonlat; see `geotiff.georeference`."""

    def map(self) -> np.ndarray:
        """The first band, [h, w], in the file's own dtype."""


def scene_files(archive: Archive, role: str, name: str) -> tuple[File, ...]:
    """The files of a scene: the file itself, or for an ENVI header its data file and the header.

    Raises ArchiveError where one is missing.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix not in (".mat", ".hdr", *TIFF):
        raise ArchiveError(
            name, f"ends in {suffix!r}, expected .mat, .hdr (of an ENVI pair) or .tif"
        )
    if not archive.exists(name):
        raise ArchiveError(name, "no such file; give its name relative to --input")
    if suffix != ".hdr":
        return (File(role, name),)
    stem = str(path.with_suffix(""))
    data = [stem + ending for ending in _ENVI_DATA if archive.exists(stem + ending)]
    if len(data) != 1:
        raise ArchiveError(
            name,
            f"has {' and '.join(data) or 'no data file'} next to it, expected one of "
            f"{stem}[{'|'.join(_ENVI_DATA[1:])}]",
        )
    return File(role, data[0]), File(f"{role} header", name)


@contextlib.contextmanager
def open_scene(
    archive: Archive, files: Files, role: str, axes: int, variable: str = ""
) -> Iterator[Scene]:
    """Opens the scene (3 axes) or map (2 axes) with that role.

    `variable` selects one of several in a .mat file. Raises ArchiveError.
    """
    name = files.name(role)
    stamp = archive.entries()[name].stamp
    with files.local(role) as path:
        if name.lower().endswith(".mat"):
            yield _Mat(_mat_layout(name, path, stamp, axes, variable))
        elif f"{role} header" in files:
            header = envi.parse_header(
                files.name(f"{role} header"), files.read(f"{role} header", envi.MAX_HEADER_BYTES)
            )
            with envi.open_envi(name, path, stamp, header) as dataset:
                yield _Envi(name, files.name(f"{role} header"), dataset, header)
        else:
            with geotiff.open_tiff_path(name, path) as dataset:
                yield _Tiff(name, dataset)


def to_table_dtype(name: str, pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """The pixels in the sensor table's dtype, with every value kept.

    Raises ArchiveError where that is impossible, and for NaN.

    MATLAB stores integers in the smallest dtype that holds them, or everything as doubles.
    Fractions instead of digital numbers, and integers instead of reflectance, mean that the scene
    was scaled, which no table can undo.
    """
    scaled = (
        f"{pixels.dtype}, but {sensor.title} has {sensor.dtype} ({sensor.units}), which cannot "
        "hold them"
    )
    hint = "give --sensor a JSON file with the dtype, scale and units of this file"
    if pixels.dtype.kind != "f" and np.dtype(sensor.dtype).kind == "f":
        raise ArchiveError(name, f"pixels are {scaled} in the same unit; {hint}")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ArchiveError(
            name,
            f"{(~np.isfinite(pixels)).sum()} values are NaN or infinite; write a no-data value, "
            f"and also {hint}",
        )
    with np.errstate(invalid="ignore", over="ignore"):  # values out of range do not compare equal
        converted = pixels.astype(sensor.dtype, copy=False)
    if not (converted == pixels).all():
        raise ArchiveError(
            name, f"pixels are {scaled}, from {pixels.min():g} to {pixels.max():g}; {hint}"
        )
    return converted


def check_bytes(name: str, shape: tuple[int, int, int], dtype: str) -> None:
    """Raises ArchiveError where an array of that shape [c, h, w] exceeds the memory limit."""
    claimed = math.prod(shape) * np.dtype(dtype).itemsize
    if claimed > geotiff.MAX_BYTES:
        size = (
            f"{' x '.join(map(str, shape))} {dtype} take {claimed / 1e6:,.0f} MB, at most "
            f"{geotiff.MAX_BYTES / 1e6:,.0f} MB"
        )
        raise ArchiveError(name, f"{size}; give a --patch-size, or a smaller one")


# ------------------------------------------------------------------ .mat


class _Layout(NamedTuple):
    """Location of a scene in a .mat file; `file` is (name, path, stamp)."""

    file: tuple[str, Path, int]
    variable: str
    shape: tuple[int, int, int]


class _Mat:
    def __init__(self, layout: _Layout):
        self.shape, self._layout = layout.shape, layout

    def pixels(self, sensor: Sensor, window: Window) -> np.ndarray:
        rows, columns = window.toslices()
        return np.ascontiguousarray(
            to_table_dtype(self._layout.file[0], _mat_cube(self._layout)[:, rows, columns], sensor)
        )

    def wavelengths_nm(self, sensor: Sensor) -> np.ndarray | None:
        return None

    def georeference(self, window: Window) -> dict[str, Any]:
        return {}

    def map(self) -> np.ndarray:
        return _mat_cube(self._layout)[0]


@functools.lru_cache(4)
def _mat_layout(name: str, path: Path, stamp: int, axes: int, variable: str) -> _Layout:
    shapes = matfile.shapes(name, path)
    spectra = (
        axes == 3
        and not variable
        and set(_SIZES) <= set(shapes)
        and not any(len(shape) == 3 for shape in shapes.values())
    )
    chosen = _pick_variable(name, shapes, 2 if spectra else axes, variable)
    shape, file = shapes[chosen], (name, path, stamp)
    # At one byte per value; the real width is only known when the variable is read.
    matfile.check_bytes(name, chosen, math.prod(shape))
    if len(shape) == 3:
        return _Layout(file, chosen, (shape[2], shape[0], shape[1]))
    if not spectra:
        return _Layout(file, chosen, (1, *shape))
    height, width = (_size(name, path, shapes, key) for key in _SIZES)
    if shape[1] != height * width:
        raise ArchiveError(
            name,
            f"variable {chosen!r} has {shape[1]} columns, but nRow x nCol is {height} x {width}; "
            "copy it again",
        )
    return _Layout(file, chosen, (shape[0], height, width))


def _pick_variable(
    name: str, shapes: Mapping[str, tuple[int, ...]], axes: int, variable: str
) -> str:
    found = [key for key, shape in shapes.items() if len(shape) == axes and min(shape) > 1]
    if variable:
        found = [key for key in shapes if key == variable and len(shapes[key]) == axes]
    if len(found) != 1:
        listed = (
            ", ".join(
                f"{key} {' x '.join(map(str, shape))}" for key, shape in sorted(shapes.items())[:10]
            )
            or "no numeric arrays"
        )
        wanted = f"{variable!r} with {axes} axes" if variable else f"one array of {axes} axes"
        option = "--label-variable" if axes == 2 else "--variable"
        raise ArchiveError(
            name, f"has {listed}; expected {wanted}; give {option} the name of the right one"
        )
    return found[0]


def _size(name: str, path: Path, shapes: Mapping[str, tuple[int, ...]], key: str) -> int:
    value = matfile.read(name, path, key) if shapes[key] == (1, 1) else np.zeros(1)
    if not 1 <= value.item() < 2**31 or value.item() % 1:
        raise ArchiveError(name, f"{key} is not a single integer number of pixels; copy it again")
    return int(value.item())


# Kept for the next tile of the scene: an image, its ground truth and three split maps.
@functools.lru_cache(5)
def _mat_cube(layout: _Layout) -> np.ndarray:
    """The whole scene, [c, h, w]."""
    name, path, _ = layout.file
    array = matfile.read(name, path, layout.variable)
    bands, height, width = layout.shape
    if array.ndim == 3:
        return array.transpose(2, 0, 1)
    if bands == 1:
        return array[None]
    # MATLAB counts pixels down the columns.
    return array.reshape(bands, width, height).transpose(0, 2, 1)


# ------------------------------------------------------------------ files read with GDAL


class _Tiff:
    def __init__(self, name: str, dataset: rasterio.DatasetReader):
        self.shape = (dataset.count, *dataset.shape)
        self._name, self._dataset = name, dataset

    def pixels(self, sensor: Sensor, window: Window) -> np.ndarray:
        return geotiff.read_bands(self._name, self._dataset, sensor, window)

    def wavelengths_nm(self, sensor: Sensor) -> np.ndarray | None:
        found_nm = geotiff.wavelengths_nm(self._name, self._dataset)
        return _check_wavelengths(self._name, found_nm, sensor, unit_known=True)

    def georeference(self, window: Window) -> dict[str, Any]:
        return geotiff.georeference(self._dataset, window)

    def map(self) -> np.ndarray:
        check_bytes(self._name, (1, *self.shape[1:]), self._dataset.dtypes[0])
        return self._dataset.read(1)


class _Envi(_Tiff):
    def __init__(
        self, name: str, header_name: str, dataset: rasterio.DatasetReader, header: envi.Header
    ):
        super().__init__(name, dataset)
        self._header_name, self._header = header_name, header

    def pixels(self, sensor: Sensor, window: Window) -> np.ndarray:
        envi.check_scale(self._header_name, self._header, sensor.scale, sensor.nodata)
        return to_table_dtype(self._name, self._dataset.read(window=window), sensor)

    def wavelengths_nm(self, sensor: Sensor) -> np.ndarray | None:
        found = self._header.wavelengths_nm
        found_nm = None if found is None else np.array(found)
        return _check_wavelengths(self._header_name, found_nm, sensor, self._header.unit_known)


def _check_wavelengths(
    name: str, found_nm: np.ndarray | None, sensor: Sensor, unit_known: bool
) -> np.ndarray | None:
    """The wavelengths, if they match the table or the table has none. Raises ArchiveError."""
    if found_nm is None:
        return None
    if not np.isnan(sensor.centres_nm).all():
        geotiff.check_wavelengths(name, found_nm, sensor)
    elif not unit_known or not np.isfinite(found_nm).all():
        raise ArchiveError(
            name,
            "wavelengths have no unit, or are not numbers, and the sensor table has none; write "
            "their unit, or remove them",
        )
    return found_nm
