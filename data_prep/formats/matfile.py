"""Reads numeric arrays, up to a size limit, from untrusted MATLAB .mat files of version 5 and 7.3.

Version 7.3 is HDF5, read with h5py. Version 5 is a list of variables, each possibly compressed; it
is read here according to MathWorks' "MAT-File Level 5 File Format", because SciPy trusts the sizes
that variables claim, and crashes on damaged ones.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import hdf5

# Of the file, and of one array: Houston 2013 has 0.77 GB as doubles; a header can claim any size.
MAX_BYTES = 2**30

# Version 5: types of elements, of arrays (mxDOUBLE_CLASS to mxUINT64_CLASS), and of stored numbers,
# which may be smaller than the type of the array.
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_HEAD = 4096  # bytes that contain the name, class and shape of a variable
_WIDEST = 8  # bytes of the widest number
# Version 7.3
_NUMERIC = {
    b"double",
    b"single",
    b"int8",
    b"uint8",
    b"int16",
    b"uint16",
    b"int32",
    b"uint32",
    b"int64",
    b"uint64",
    b"logical",
}
# Errors of h5py and zlib for bytes that are not .mat, and of struct and NumPy for a truncated file.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    RuntimeError,
    OverflowError,
    zlib.error,
    struct.error,
)


def shapes(name: str, path: Path) -> dict[str, tuple[int, ...]]:
    """{variable: shape} of the numeric arrays, in MATLAB's order of axes.

    Structures, cells, texts and empty arrays are not listed. Raises ArchiveError.
    """
    with _errors(name):
        if _version(name, path) == 5:
            return {
                variable.name: variable.shape for variable in _variables(name, path.read_bytes())
            }
        with h5py.File(path, "r", locking=False) as file:
            return {
                key: found.shape[::-1] for key in file if (found := _dataset(file, key)) is not None
            }


def read(name: str, path: Path, variable: str) -> np.ndarray:
    """One of the arrays that `shapes` lists, in MATLAB's order of axes. Raises ArchiveError.

    The dtype is that of the file: MATLAB 5 writes integral doubles in the smallest integer type
    that holds them.
    """
    with _errors(name):
        array = (
            _read_5(name, path.read_bytes(), variable)
            if _version(name, path) == 5
            else _read_73(name, path, variable)
        )
    if array.dtype.kind not in "iuf":
        raise ArchiveError(
            name, f"variable {variable!r} is {array.dtype}, expected integers or real numbers"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    try:
        yield
    except ArchiveError:
        raise
    except _BROKEN as error:
        raise ArchiveError(
            name,
            f"cannot be read as .mat ({error}); it is truncated, damaged or not .mat: copy it "
            "again",
        ) from error


def _version(name: str, path: Path) -> int:
    """5, or 7 for files of version 7.3. Raises ArchiveError for others."""
    if path.stat().st_size > MAX_BYTES:
        raise ArchiveError(
            name,
            f"has {path.stat().st_size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB; cut the "
            "scene",
        )
    with open(path, "rb") as file:
        head = file.read(128)
    found = {b"\0\1IM": 5, b"\1\0MI": 5, b"\0\2IM": 7}.get(head[124:128])
    if found is None:
        raise ArchiveError(
            name, "is not .mat of version 5 or 7.3; write it again in MATLAB with save -v7"
        )
    return found


def check_bytes(name: str, variable: str, claimed: int) -> None:
    """Raises ArchiveError where a variable of `claimed` bytes exceeds the limit."""
    if claimed > MAX_BYTES:
        raise ArchiveError(
            name,
            f"variable {variable!r} claims {claimed / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} "
            "MB; cut the scene",
        )


# ------------------------------------------------------------------ version 5


class _Variable(NamedTuple):
    """A numeric array of a file of version 5.

    `at` is the offset of its numbers in the uncompressed element.
    """

    name: str
    shape: tuple[int, ...]
    is_complex: bool
    element: memoryview
    at: int


def _variables(name: str, data: bytes) -> Iterator[_Variable]:
    """The non-empty numeric arrays of a file."""
    order = _order(data)
    for element in _elements(name, data):
        plain, at = _plain(element, order, _HEAD), 8
        if not len(plain) > at:  # how MATLAB writes []
            continue
        parts = []
        for _ in range(3):  # flags, shape and name
            _, start, size, at = _part(plain, at, order)
            parts.append(plain[start : start + size])
        (flags,) = struct.unpack_from(f"{order}I", parts[0])
        shape = struct.unpack(f"{order}{len(parts[1]) // 4}i", parts[1])
        if flags & 0xFF in _NUMERIC_CLASSES and min(shape) > 0:
            yield _Variable(parts[2].decode("ascii"), shape, bool(flags & _COMPLEX), element, at)


def _elements(name: str, data: bytes) -> Iterator[memoryview]:
    """The variables of a file, each with its tag of 8 bytes."""
    view, at = memoryview(data), 128
    while at < len(data):
        kind, size = struct.unpack_from(f"{_order(data)}II", data, at)
        if kind not in (_MATRIX, _COMPRESSED) or at + 8 + size > len(data):
            raise ArchiveError(
                name,
                f"has no complete variable at byte {at}; it is truncated or damaged: copy it again",
            )
        yield view[at : at + 8 + size]
        at += 8 + size


def _order(data: bytes) -> str:
    return "<" if data[126:128] == b"IM" else ">"


def _plain(element: memoryview, order: str, limit: int) -> bytes:
    """The first `limit` bytes of the uncompressed element."""
    if struct.unpack_from(f"{order}I", element)[0] != _COMPRESSED:
        return bytes(element[:limit])
    return zlib.decompressobj().decompress(element[8:], limit)


def _part(plain: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """(type, offset, bytes, offset of the next) of a part of an element.

    Parts of up to 4 bytes have a tag of 4 bytes, others of 8.
    """
    (word,) = struct.unpack_from(f"{order}I", plain, at)
    if word >> 16:
        return word & 0xFFFF, at + 4, word >> 16, at + 8
    (size,) = struct.unpack_from(f"{order}I", plain, at + 4)
    return word, at + 8, size, at + 8 + size + -size % 8


def _read_5(name: str, data: bytes, wanted: str) -> np.ndarray:
    variable, order = {found.name: found for found in _variables(name, data)}[wanted], _order(data)
    if variable.is_complex:
        raise ArchiveError(
            name, f"variable {wanted!r} has complex numbers, expected real ones; choose another"
        )
    count = math.prod(variable.shape)
    # Beyond the end, so that zlib compares the checksum.
    limit = min(count * _WIDEST, MAX_BYTES) + _HEAD
    plain = _plain(variable.element, order, limit)
    kind, start, size, end = _part(plain, variable.at, order)
    dtype = np.dtype(f"{order}{_NUMBERS[kind]}")
    check_bytes(name, wanted, count * dtype.itemsize)
    if size != count * dtype.itemsize or not start + size <= len(plain) <= end:
        found = f"{size} bytes of {dtype} in an element of {len(plain)}"
        raise ArchiveError(
            name,
            f"variable {wanted!r} has {found}, but its shape {variable.shape} needs "
            f"{count * dtype.itemsize}; copy it again",
        )
    return np.frombuffer(plain, dtype, count, start).reshape(variable.shape, order="F")


# ------------------------------------------------------------------ version 7.3


def _read_73(name: str, path: Path, variable: str) -> np.ndarray:
    with h5py.File(path, "r", locking=False) as file:
        dataset = _dataset(file, variable)
        check_bytes(name, variable, dataset.size * dataset.dtype.itemsize)
        hdf5.check_layout(name, dataset, MAX_BYTES)
        hdf5.check_chunks(name, dataset, range(len(dataset)))
        return dataset[()].T  # MATLAB has the axes in reverse order


def _dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    """The numeric array of that name, or None where it is not one.

    Links to other files are not followed.
    """
    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(
        file[key], h5py.Dataset
    ):
        return None
    dataset = file[key]
    numeric = dataset.dtype.kind in "iuf" and dataset.attrs.get("MATLAB_class", b"") in _NUMERIC
    return dataset if numeric and dataset.size and "MATLAB_empty" not in dataset.attrs else None
