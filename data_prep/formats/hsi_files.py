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
from data_prep.formats import bad_bands, encoding, envi, geotiff, matfile, remarks, sentinel2
from data_prep.formats.band_identity import (
    Bands,
    Stated,
    data_bands,
    identify,
    identify_stated,
    nm_of_unknown_unit,
)
from data_prep.formats.described import Numbers, row_of, tiff_row
from data_prep.formats.labels import ClassNumbers, read_open_labels
from data_prep.formats.listing import TIFF
from data_prep.reader import File, Files
from eo_jax.sensors import Sensor

_ENVI_DATA = ("", ".bsq", ".bil", ".bip", ".dat", ".img", ".raw")
# Names of variables of a .mat file, in lower case.
_BAND_VARIABLES = {
    "wavelength": ("wl", "wavelength", "wavelengths", "wave", "waves", "lambda"),
    "fwhm": ("fwhm",),
}
_SIZES = ("nRow", "nCol")  # next to a matrix [c, w * h] of spectra, as in unmixing benchmarks


class Scene(Protocol):
    """An open scene or map. Its methods raise ArchiveError.

    Attributes:
        shape: bands, rows and columns.
        dtype: of the file.
    """

    shape: tuple[int, int, int]

    @property
    def dtype(self) -> str: ...

    def row(self) -> Sensor:
        """The row that the file describes, see `described.row_of`."""

    def bands(self, sensor: Sensor, reorder: bool) -> Bands:
        """The file's bands that are those of the sensor, see `band_identity.identify`."""

    def pixels(self, sensor: Sensor, bands: Bands, window: Window) -> np.ndarray:
        """[c, h, w] in the dtype of the sensor table, with every valid value of the file."""

    def georeference(self, window: Window) -> dict[str, Any]:
        """crs, affine, gsd_m and lonlat; see `geotiff.georeference`."""

    def time(self) -> int | None:
        """Acquisition time, seconds since 1970 UTC."""

    def map(self, label: str, numbers: ClassNumbers) -> np.ndarray:
        """The first band, [h, w], with class numbers as in a store."""


def scene_files(archive: Archive, role: str, name: str) -> tuple[File, ...]:
    """The files of a scene: the file itself, or for an ENVI header its data file and the header.

    Raises ArchiveError where one is missing.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix not in (".mat", ".hdr", *TIFF):
        raise ArchiveError(
            name,
            f"ends in {suffix!r}, expected .mat, .tif or .hdr; of an ENVI pair, give the .hdr",
        )
    if not archive.exists(name):
        raise ArchiveError(name, "no such file; give its name relative to --input")
    if suffix != ".hdr":
        return (File(role, name),)
    stem = str(path.with_suffix(""))
    candidates = {stem, *(stem.lower() + ending for ending in _ENVI_DATA[1:])}
    data = [
        found
        for found in archive.entries()
        if found in candidates or (found.lower() in candidates and found[: len(stem)] == stem)
    ]
    if len(data) != 1:
        raise ArchiveError(
            name,
            f"has {' and '.join(data) or 'no data file'} next to it, expected one of "
            f"{stem}[{'|'.join(_ENVI_DATA[1:])}]; copy it there, or move the others away",
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
    if name.lower().endswith(TIFF):
        with geotiff.open_tiff_path(files, role) as dataset:
            yield _Tiff(name, dataset)
        return
    stamp = archive.entries()[name].stamp
    with files.local(role) as path:
        if name.lower().endswith(".mat"):
            yield _Mat(_mat_layout(name, path, stamp, axes, variable))
        else:
            header = envi.parse_header(
                files.name(f"{role} header"), files.read(f"{role} header", envi.MAX_HEADER_BYTES)
            )
            with envi.open_envi(name, path, stamp, header) as dataset:
                yield _Envi(name, files.name(f"{role} header"), dataset, header)


def to_table_dtype(name: str, pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """The pixels in the sensor table's dtype, with every value kept.

    NaN and infinity, which are never data, stay in floats and become the no-data value of integers.
    Raises ArchiveError where that is impossible.

    MATLAB stores integers in the smallest dtype that holds them, or everything as doubles.
    Fractions instead of digital numbers, and integers instead of reflectance, mean that the scene
    was scaled, which no table can undo.
    """
    scaled = (
        f"{pixels.dtype}, but {sensor.title} has {sensor.dtype} ({sensor.units}), which cannot "
        "hold them"
    )
    hint = "give --sensor a JSON file with the dtype, scale and units of this file"
    if (pixels.dtype.name, sensor.dtype) == ("float64", "float32"):
        hint += ", or --cast to round them"
    if pixels.dtype.kind != "f" and np.dtype(sensor.dtype).kind == "f":
        raise ArchiveError(name, f"pixels are {scaled} in the same unit; {hint}")
    unknown = ~np.isfinite(pixels) if pixels.dtype.kind == "f" else np.zeros((), bool)
    if unknown.any():
        pixels = _without_unknown(name, pixels, unknown, sensor)
    with np.errstate(invalid="ignore", over="ignore"):  # values out of range do not compare equal
        converted = pixels.astype(sensor.dtype, copy=False)
    if not ((converted == pixels) | unknown).all():
        low, high = np.nanmin(pixels), np.nanmax(pixels)
        raise ArchiveError(name, f"pixels are {scaled}, from {low:g} to {high:g}; {hint}")
    return converted


def _without_unknown(
    name: str, pixels: np.ndarray, unknown: np.ndarray, sensor: Sensor
) -> np.ndarray:
    """Pixels whose NaN and infinities the sensor's dtype can hold as no-data."""
    if np.dtype(sensor.dtype).kind == "f":
        remarks.note("NaN and infinity are no-data")
        return pixels
    if sensor.nodata is None:
        raise ArchiveError(
            name,
            f"{unknown.sum()} values are NaN or infinite, but {sensor.title} has no no-data value "
            'for them; give a --sensor row (JSON) with a "nodata"',
        )
    remarks.note("NaN and infinity are stored as the no-data value of the sensor table")
    return np.where(unknown, pixels.dtype.type(sensor.nodata), pixels)


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
    """Location of a scene in a .mat file; `file` is (name, path, stamp), `form` see `_form`."""

    file: tuple[str, Path, int]
    variable: str
    shape: tuple[int, int, int]
    form: str


class _Mat:
    def __init__(self, layout: _Layout):
        self.shape, self._layout = layout.shape, layout

    @property
    def dtype(self) -> str:
        return _mat_cube(self._layout).dtype.name

    def row(self) -> Sensor:
        numbers = Numbers(self.dtype, None)
        return row_of(self._layout.file[0], self._stated(), numbers)

    def _stated(self) -> Stated:
        stated, notes = _mat_lists(self._layout)
        for text in notes:
            remarks.note(text)
        return stated

    def bands(self, sensor: Sensor, reorder: bool) -> Bands:
        name, numbers = self._layout.file[0], list(range(1, self.shape[0] + 1))
        return identify_stated(name, self._stated(), numbers, sensor, reorder)

    def pixels(self, sensor: Sensor, bands: Bands, window: Window) -> np.ndarray:
        rows, columns = window.toslices()
        name, _, _ = self._layout.file
        kept = [number - 1 for number in bands.numbers]
        cube = _mat_cube(self._layout)[:, rows, columns][kept]
        pixels = to_table_dtype(name, cube, sensor)
        return np.ascontiguousarray(bad_bands.exclude(name, pixels, bands.bad, sensor))

    def georeference(self, window: Window) -> dict[str, Any]:
        return {}

    def time(self) -> int | None:
        return None

    def map(self, label: str, numbers: ClassNumbers) -> np.ndarray:
        return numbers.to_store(self._layout.file[0], _mat_cube(self._layout)[0], None)


@functools.lru_cache(4)
def _mat_layout(name: str, path: Path, stamp: int, axes: int, variable: str) -> _Layout:
    shapes = matfile.shapes(name, path)
    form = _form(shapes, axes, variable)
    chosen = _pick_variable(name, shapes, 3 if form == "cube" else 2, variable)
    shape, file = shapes[chosen], (name, path, stamp)
    # At one byte per value; the real width is only known when the variable is read.
    matfile.check_bytes(name, chosen, math.prod(shape))
    if form == "cube":
        return _Layout(file, chosen, (shape[2], shape[0], shape[1]), form)
    if form == "map":
        return _Layout(file, chosen, (1, *shape), form)
    if form == "list":
        return _Layout(file, chosen, (shape[1], shape[0], 1), form)
    height, width = (_size(name, path, shapes, key) for key in _SIZES)
    if shape[1] != height * width:
        raise ArchiveError(
            name,
            f"variable {chosen!r} has {shape[1]} columns, but nRow x nCol is {height} x {width}; "
            "copy it again",
        )
    return _Layout(file, chosen, (shape[0], height, width), form)


def _form(shapes: Mapping[str, tuple[int, ...]], axes: int, variable: str) -> str:
    """How a file holds its scene: as a "cube", a "map", a "matrix" [c, w * h] of spectra with its
    sizes beside it, or a "list" [n, c] of spectra.
    """
    if axes == 2:
        return "map"
    given = len(shapes.get(variable, (0,) * 3)) == 3
    if (variable and given) or (not variable and any(len(each) == 3 for each in shapes.values())):
        return "cube"
    return "list" if variable or not set(_SIZES) <= set(shapes) else "matrix"


def _pick_variable(
    name: str, shapes: Mapping[str, tuple[int, ...]], axes: int, variable: str
) -> str:
    found = [key for key, shape in shapes.items() if len(shape) == axes and min(shape) > 1]
    # A list of classes has one column, or one row.
    found = found or [key for key, shape in shapes.items() if len(shape) == axes and max(shape) > 1]
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
    if layout.form == "cube":
        return array.transpose(2, 0, 1)
    if layout.form == "map":
        return array[None]
    if layout.form == "list":
        return array.T[:, :, None]
    # MATLAB counts pixels down the columns.
    return array.reshape(bands, width, height).transpose(0, 2, 1)


@functools.lru_cache(2)
def _mat_lists(layout: _Layout) -> tuple[Stated, tuple[str, ...]]:
    """What the variables beside a scene say about its bands, and remarks on it."""
    (name, path, _), count = layout.file, layout.shape[0]
    shapes = matfile.shapes(name, path)
    tags: list[dict[str, str]] = [{} for _ in range(count)]
    notes: list[str] = []
    for tag, names in _BAND_VARIABLES.items():
        found = [key for key in shapes if key.lower() in names and key != layout.variable]
        values = [
            matfile.read(name, path, key).ravel().astype(float)
            for key in found
            if sorted(shapes[key]) == [1, count]
        ]
        if len(values) != len(found):
            notes.append(f"{tag}s in a list of another length than the image are not used")
        if len(values) > 1:
            raise ArchiveError(
                name, f"has {' and '.join(found)}, expected one list of them; keep the right one"
            )
        for listed in values:
            factor = nm_of_unknown_unit(listed) if tag == "wavelength" else 1.0
            if tag == "wavelength":
                notes.append(_unit_note(factor))
            for band, value in zip(tags, listed.tolist(), strict=True):
                band[tag] = repr(value * factor)
    nothing: list[dict[str, str]] = [{} for _ in range(count)]
    return Stated([""] * count, tags, nothing, nothing), tuple(notes)


def _unit_note(factor: float) -> str:
    unit = "micrometres" if factor > 1 else "nm"
    return f"wavelengths have no unit: {unit}, by their size"


# ------------------------------------------------------------------ files read with GDAL


class _Tiff:
    def __init__(self, name: str, dataset: rasterio.DatasetReader):
        self.shape = (dataset.count, *dataset.shape)
        self._name, self._dataset = name, dataset

    @property
    def dtype(self) -> str:
        return self._dataset.dtypes[0]

    def row(self) -> Sensor:
        gsd_m = geotiff.georeference(self._dataset)["gsd_m"]
        return tiff_row(self._name, self._dataset, data_bands(self._dataset), gsd_m)

    def bands(self, sensor: Sensor, reorder: bool) -> Bands:
        sentinel2.check_offset(self._name, self._dataset, sensor)
        return identify(self._name, self._dataset, sensor, reorder)

    def pixels(self, sensor: Sensor, bands: Bands, window: Window) -> np.ndarray:
        return geotiff.read_bands(self._name, self._dataset, sensor, window, bands)

    def georeference(self, window: Window) -> dict[str, Any]:
        return geotiff.georeference(self._dataset, window)

    def time(self) -> int | None:
        return geotiff.stated_time(self._name, self._dataset)

    def map(self, label: str, numbers: ClassNumbers) -> np.ndarray:
        check_bytes(self._name, (1, *self.shape[1:]), self._dataset.dtypes[0])
        return read_open_labels(
            self._name, self._dataset, self._name, label, self._dataset, numbers
        )


class _Envi:
    def __init__(
        self, name: str, header_name: str, dataset: rasterio.DatasetReader, header: envi.Header
    ):
        self.shape = (dataset.count, *dataset.shape)
        self._name, self._dataset = name, dataset
        self._header_name, self._header = header_name, header

    @property
    def dtype(self) -> str:
        return self._dataset.dtypes[0]

    def bands(self, sensor: Sensor, reorder: bool) -> Bands:
        header, numbers = self._header, list(self._dataset.indexes)
        found_nm = header.wavelengths_nm
        has_centres = not np.isnan(sensor.centres_nm).all()
        if found_nm is not None and not has_centres and not self._are_wavelengths_clear():
            raise ArchiveError(
                self._header_name,
                "wavelengths have no unit, or are not numbers, and the sensor table has none; "
                "write their unit, or remove them",
            )
        return identify_stated(self._header_name, self._stated(), numbers, sensor, reorder)

    def _stated(self) -> Stated:
        header, count = self._header, self.shape[0]
        if header.wavelengths_nm and not header.unit_known:
            remarks.note(_unit_note(header.nm_per_unit))
        tags = [{"bbl": "0"} if index in header.bad else {} for index in range(count)]
        for index, nm in enumerate(header.wavelengths_nm or ()):
            tags[index]["wavelength"] = repr(nm)
        for index, nm in enumerate(header.widths_nm):
            tags[index]["fwhm"] = repr(nm)
        names = list(header.names) or [""] * count
        nothing: list[dict[str, str]] = [{} for _ in range(count)]
        return Stated(names, tags, nothing, nothing)

    def row(self) -> Sensor:
        header = self._header
        scaled = header.factor is not None
        numbers = Numbers(
            dtype=self.dtype,
            nodata=header.nodata,
            scales=[1 / header.factor] * header.bands if scaled else header.gains,
            offsets=header.offsets,
            units="reflectance" if scaled else "",
            gsd_m=geotiff.georeference(self._dataset)["gsd_m"],
        )
        return row_of(self._header_name, self._stated(), numbers)

    def _are_wavelengths_clear(self) -> bool:
        return self._header.unit_known and np.isfinite(self._header.wavelengths_nm).all()

    def pixels(self, sensor: Sensor, bands: Bands, window: Window) -> np.ndarray:
        envi.check_scale(self._header_name, self._header, sensor)
        pixels = self._dataset.read(bands.numbers, window=window)
        pixels = to_table_dtype(self._name, pixels, sensor)
        pixels = bad_bands.exclude(self._header_name, pixels, bands.bad, sensor)
        encoding.check_values(self._name, pixels, sensor)
        return pixels

    def georeference(self, window: Window) -> dict[str, Any]:
        return geotiff.georeference(self._dataset, window)

    def time(self) -> int | None:
        return self._header.time

    def map(self, label: str, numbers: ClassNumbers) -> np.ndarray:
        check_bytes(self._name, (1, *self.shape[1:]), self._dataset.dtypes[0])
        classes = self._dataset.read(1)
        nodata = self._header.nodata
        masked = None if nodata is None else classes == nodata
        stored = numbers.to_store(self._name, classes, masked)
        present = set(np.unique(stored[stored > 0]).tolist())
        table = {
            numbers.stored(number): about
            for number, about in envi.class_table(self._header).items()
            if numbers.stored(number) in present
        }
        remarks.note_classes(label, table)
        return stored
