"""Reads npz files of plain numbers. What a file claims is compared with its size before memory is
taken, and no pickle is read.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

# Weights hardly shrink when they are compressed; zeros do, but are few.
_MOST_RATIO, _ALWAYS = 20, 2**28
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,  # encrypted; also an unknown compression, NotImplementedError
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """{name: array}. Raises ValueError for anything else than arrays of numbers, and for one that
    would unpack to far more than the file has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(archive, path)
            members = archive.infolist()
            return {x.filename.removesuffix(".npy"): _array(archive, x) for x in members}
    except _DAMAGE as error:
        raise ValueError(f"{path}: not an NPZ file that can be read ({error})") from error


def check_unpacked(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises ValueError where a zip file claims to unpack to far more than it has."""
    total = sum(member.file_size for member in archive.infolist())
    most = max(_ALWAYS, _MOST_RATIO * path.stat().st_size)
    if total > most:
        raise ValueError(
            f"it would unpack to {total / 1e6:,.0f} MB, at most {most / 1e6:,.0f} MB for a file of "
            "its size; write it again without compression"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{member.filename} has version {version}")
        shape, fortran, dtype = _HEADERS[version](file)
        if dtype.kind not in "biuf":
            raise ValueError(f"{member.filename} has type {dtype}, expected plain numbers")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} claims shape {shape} of {dtype}, but has "
                f"{member.file_size - file.tell()} bytes"
            )
        values = np.frombuffer(bytearray(file.read(size)), dtype)
        return values.reshape(shape, order="F" if fortran else "C")
