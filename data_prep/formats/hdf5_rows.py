"""The sensor row that an HDF5 or NetCDF-4 file describes: its cube, and the lists beside it.

Files are untrusted: links to other files are not followed, and only lists of wavelengths, widths
and bad bands are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import hdf5, remarks
from data_prep.formats.attributes import number_of
from data_prep.formats.band_identity import NM_PER_UNIT, Stated, nm_of_unknown_unit
from data_prep.formats.described import Numbers, row_of
from eo_jax.sensors import Sensor

SUFFIXES = (".h5", ".he5", ".hdf5", ".nc", ".nc4")
# Names of lists, in lower case.
_LISTS = {
    "wavelength": ("wl", "wavelength", "wavelengths", "wave", "lambda"),
    "fwhm": ("fwhm",),
    "good": ("good_wavelengths", "bbl", "good_bands"),
}
_MAX_OBJECTS, _MAX_DEPTH = 10_000, 8
_MAX_LIST = 100_000  # values
_FILLS = ("_FillValue", "missing_value")


def read_row(name: str, path: Path, variable: str = "") -> Sensor:
    """The row of the only array with 3 axes, or of `variable`, a path in the file.

    Raises ArchiveError.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = dict(_arrays(name, file, "", 0))
            cube = _cube(name, arrays, variable)
            return _row(name, arrays, cube)
    except hdf5.ERRORS as error:
        raise ArchiveError(
            name, f"cannot be read as HDF5 ({error}); it is damaged or not HDF5: copy it again"
        ) from error


def _arrays(
    name: str, group: h5py.Group, path: str, depth: int
) -> Iterator[tuple[str, h5py.Dataset]]:
    """(path, numeric array) of a file, by hard links only."""
    if depth > _MAX_DEPTH or len(group) > _MAX_OBJECTS:
        raise ArchiveError(
            name, f"group {path or '/'} is too deep or too large to search; give --variable"
        )
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            continue
        found = group[key]
        if isinstance(found, h5py.Dataset):
            if found.dtype.kind in "iuf" and found.size:
                yield f"{path}/{key}", found
        elif isinstance(found, h5py.Group):
            yield from _arrays(name, found, f"{path}/{key}", depth + 1)


def _cube(name: str, arrays: dict[str, h5py.Dataset], variable: str) -> h5py.Dataset:
    cubes = {path: array for path, array in arrays.items() if array.ndim == 3}
    wanted = f"/{variable.strip('/')}"
    found = [path for path in cubes if not variable or path == wanted]
    if len(found) != 1:
        listed = [f"{path} {' x '.join(map(str, cubes[path].shape))}" for path in sorted(cubes)]
        raise ArchiveError(
            name,
            f"has the arrays of 3 axes {', '.join(listed[:10]) or 'none'}, expected "
            f"{wanted if variable else 'one'}; give --variable the path of the right one",
        )
    return cubes[found[0]]


def _row(name: str, arrays: dict[str, h5py.Dataset], cube: h5py.Dataset) -> Sensor:
    lists = {tag: _lists(arrays, cube, names) for tag, names in _LISTS.items()}
    for tag, found in lists.items():
        if len(found) > 1:
            paths = " and ".join(array.name for array in found)
            raise ArchiveError(name, f"has {paths}, expected one list of {tag} for its bands")
    band_lists = [found[0] for found in lists.values() if found]
    counts = {array.size for array in band_lists}
    if len(counts) != 1:
        sizes = " x ".join(map(str, cube.shape))
        raise ArchiveError(
            name,
            f"{cube.name} is {sizes}, and no list of wavelengths has as many values as one of its "
            "axes, so its bands are not known; write a row (JSON) by hand",
        )
    count = counts.pop()
    tags: list[dict[str, str]] = [{} for _ in range(count)]
    for tag, found in lists.items():
        for array in found:
            _tag(name, tags, tag, array)
    nothing: list[dict[str, str]] = [{} for _ in range(count)]
    fills = [number_of(name, cube.attrs, key) for key in _FILLS]
    scale, offset = (number_of(name, cube.attrs, key) for key in ("scale_factor", "add_offset"))
    numbers = Numbers(
        dtype=cube.dtype.newbyteorder("=").name,
        nodata=next((value for value in fills if value is not None), None),
        scales=[] if scale is None else [scale] * count,
        offsets=[] if offset is None else [offset] * count,
        units=_units(cube),
    )
    return row_of(name, Stated([""] * count, tags, nothing, nothing), numbers)


def _lists(
    arrays: dict[str, h5py.Dataset], cube: h5py.Dataset, names: tuple[str, ...]
) -> list[h5py.Dataset]:
    """The lists of that kind with one value per band."""
    return [
        array
        for path, array in arrays.items()
        if path.rpartition("/")[2].lower() in names
        and array.ndim == 1
        and array.size in cube.shape
        and array.size <= _MAX_LIST
    ]


def _tag(name: str, tags: list[dict[str, str]], tag: str, array: h5py.Dataset) -> None:
    values = hdf5.read_whole(name, array, _MAX_LIST * 8).astype(float)
    if tag == "good":
        for band, value in zip(tags, values, strict=True):
            band["bbl"] = "0" if value == 0 else "1"
        return
    factor = NM_PER_UNIT.get(_text(array.attrs.get("units", "")).strip().lower())
    if factor is None:
        factor = nm_of_unknown_unit(values) if tag == "wavelength" else 1.0
        remarks.note(f"{tag} has no unit: taken as {'micrometres' if factor > 1 else 'nm'}")
    for band, value in zip(tags, values.tolist(), strict=True):
        band[tag] = repr(value * factor)


def _units(cube: h5py.Dataset) -> str:
    """The units of the pixels; those without a dimension are reflectance where the name says so."""
    text = _text(cube.attrs.get("units", ""))
    is_ratio = text.strip().lower() in ("", "1", "unitless", "none")
    return ("reflectance" if "reflectance" in cube.name.lower() else "") if is_ratio else text


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
