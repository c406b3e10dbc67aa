"""Reads So2Sat LCZ42 (doi 10.1109/MGRS.2020.2964708): city patches with local climate zones.

    <root>/**/{training,validation,testing}.h5
        sen2     float [n, 32, 32, 10], reflectance: B2 B3 B4 B5 B6 B7 B8 B8A B11 B12
        label    [n, 17], 1 at the class of the patch, 0 elsewhere

The files are the splits train, val and test; those present are read. Label `class`: the position of
the 1, counted from 1, so local climate zone 1 (compact high rise) is 1 and zone G (water) is 17.
Pixels keep the file's float64 or float32. Reflectance is DN / 10000 with a DN of 16 bits, so values
below 0 or above 6.5535 are an error. There are ten bands of Sentinel-2; code that needs 13 puts
zeros at B1, B9 and B10. Patches have no coordinates and no dates.

Not read: sen1, eight channels of Sentinel-1 (complex signal, filtered intensity and covariance),
for which the sensor table has no row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import h5py
import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import hdf5
from data_prep.formats.attributes import check_attributes
from data_prep.formats.dtype_rows import rows_by_dtype
from data_prep.formats.listing import sorted_by_id
from data_prep.reader import File, Files, Item
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

CLASSES = 17
SIZE = 32  # pixels, height and width
SPLITS = {"training": "train", "validation": "val", "testing": "test"}
MAX_PATCHES = 1_000_000  # per file; the largest published file has 352,366
MAX_CHUNK_BYTES = 512 * 2**20  # decompressed for one patch
MAX_REFLECTANCE = 65535 / 10_000

_ROWS = rows_by_dtype(get_sensor("sentinel2_so2sat"), "float32", "float64")
_BANDS = len(get_sensor("sentinel2_so2sat").bands)
_H5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, zlib.error)


@dataclasses.dataclass(frozen=True)
class Reader:
    """So2Sat LCZ42, one sample per patch. Bands are in file order."""

    TITLE: ClassVar[str] = "So2Sat LCZ42"
    VERSION: ClassVar[int] = 2
    LICENCE: ClassVar[str] = "not stated; modified Copernicus Sentinel data"
    sensors: ClassVar = tuple(_ROWS.values())
    archive: Archive

    def items(self) -> list[Item]:
        found: dict[str, str] = {}
        for name in self.archive.names((".h5",)):
            part = PurePosixPath(name).stem
            if part not in SPLITS:
                raise ArchiveError(
                    name,
                    "is not a file of So2Sat LCZ42, expected "
                    f"{', '.join(f'{part}.h5' for part in SPLITS)}; move it away",
                )
            if part in found:
                raise ArchiveError(name, f"is the same split as {found[part]}; keep one of them")
            found[part] = name
        if not found:
            raise ArchiveError(
                ".",
                f"contains no So2Sat LCZ42; expected {', '.join(f'{part}.h5' for part in SPLITS)}",
            )
        return sorted_by_id(
            item for part, name in found.items() for item in self._items(part, name)
        )

    def read(self, item: Item, files: Files) -> Sample:
        name, (number,) = item.files[0].name, item.part
        with files.local("image") as path, _open(name, path) as (sen2, label):
            for dataset in (sen2, label):
                _check_patch(name, path, dataset, number)
            pixels, zone = sen2[number], label[number]
        _check_pixels(name, number, pixels)
        return Sample(
            pixels=np.ascontiguousarray(pixels.transpose(2, 0, 1), pixels.dtype.name),
            sensor=_ROWS[pixels.dtype.name].id,
            id=item.id,
            group=item.group,
            labels={"class": _class(name, number, zone)},
        )

    def _items(self, part: str, name: str) -> Iterator[Item]:
        with self.archive.local(name) as path, _open(name, path) as (sen2, _):
            count = len(sen2)
        for number in range(count):
            patch = f"{part}/{number:07}"
            yield Item(patch, patch, (File("image", name),), SPLITS[part], (number,))


# ------------------------------------------------------------------ HDF5


@contextlib.contextmanager
def _open(name: str, path: Path) -> Iterator[tuple[h5py.Dataset, h5py.Dataset]]:
    """The checked datasets sen2 and label.

    HDF5 errors become ArchiveError, also those raised inside the block.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            sen2 = _dataset(name, file, "sen2", (SIZE, SIZE, _BANDS))
            label = _dataset(name, file, "label", (CLASSES,))
            if len(sen2) != len(label):
                raise ArchiveError(
                    name,
                    f"sen2 has {len(sen2):,} patches and label {len(label):,}; copy the file again",
                )
            if sen2.dtype.name not in _ROWS:
                raise ArchiveError(
                    name,
                    f"sen2 is {sen2.dtype.name}, expected {' or '.join(_ROWS)} reflectance; copy "
                    "the file again",
                )
            check_attributes(f"{name}/sen2", dict(sen2.attrs), _ROWS[sen2.dtype.name])
            yield sen2, label
    except _H5_ERRORS as error:
        if isinstance(error, ArchiveError):
            raise
        cause = " ".join(str(error).replace(str(path), "the file").split())[:200]
        raise ArchiveError(
            name,
            f"cannot be read as HDF5 ({cause}); it is truncated, damaged or not HDF5: copy it "
            "again",
        ) from error


def _dataset(name: str, file: h5py.File, key: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """A dataset [n, *shape] of numbers in the file itself. Its data are not read yet."""
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise ArchiveError(
            name,
            f"has no dataset {key!r} of its own, only {', '.join(sorted(file)[:8]) or 'nothing'}; "
            "copy the file again",
        )
    found = file[key]
    if not isinstance(found, h5py.Dataset):
        raise ArchiveError(name, f"{key} is a group, expected a dataset; copy the file again")
    if (
        found.ndim != len(shape) + 1
        or found.shape[1:] != shape
        or not 0 < found.shape[0] <= MAX_PATCHES
    ):
        raise ArchiveError(
            name,
            f"{key} has the shape {found.shape}, expected n x {' x '.join(map(str, shape))}; copy "
            "the file again",
        )
    if found.dtype.kind not in "iuf":
        raise ArchiveError(name, f"{key} is {found.dtype}, expected numbers; copy the file again")
    hdf5.check_layout(name, found, MAX_CHUNK_BYTES)
    return found


def _check_patch(name: str, path: Path, dataset: h5py.Dataset, number: int) -> None:
    """Raises ArchiveError where the chunks of a patch decompress to more than their size."""
    if dataset.chunks:
        about = path.stat()
        _check_chunks(
            name,
            path,
            (about.st_ino, about.st_size, about.st_mtime_ns),
            dataset.name,
            number // dataset.chunks[0] * dataset.chunks[0],
        )


# Cached for the other patches of the same chunks. `stamp` is in the key because temporary paths are
# reused.
@functools.lru_cache(1024)
def _check_chunks(name: str, path: Path, stamp: tuple[int, ...], key: str, first: int) -> None:
    with h5py.File(path, "r", locking=False) as file:
        hdf5.check_chunks(name, file[key], range(first, first + 1))


# ------------------------------------------------------------------ one patch


def _check_pixels(name: str, number: int, pixels: np.ndarray) -> None:
    valid = (pixels >= 0) & (pixels <= MAX_REFLECTANCE)  # this comparison also rejects NaN
    if not valid.all():
        row, column, band = np.argwhere(~valid)[0]
        found = (
            f"sen2 has {pixels[row, column, band]:g} in patch {number}, band {band + 1}, row "
            f"{row}, column {column}"
        )
        raise ArchiveError(
            name,
            f"{found}, expected a reflectance from 0 to {MAX_REFLECTANCE}; copy the file again, or "
            "give --skip-bad",
        )


def _class(name: str, number: int, zone: np.ndarray) -> np.ndarray:
    """int64 [], the position, from 1, of the only 1 in zone [17].

    Raises ArchiveError where zone is not one-hot.
    """
    if not np.isin(zone, (0, 1)).all() or zone.sum() != 1:
        raise ArchiveError(
            name,
            f"label of patch {number} is {zone.tolist()}, expected one 1 among zeros; copy the "
            "file again, or give --skip-bad",
        )
    return np.array(1 + zone.argmax(), np.int64)
