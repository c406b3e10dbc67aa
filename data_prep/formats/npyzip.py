"""Reads arrays from untrusted .npz files: headers are checked before allocation; no pickles."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from data_prep.archive import ArchiveError

MAX_BYTES = 512 * 2**20  # of one array: a header can claim any size

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Errors of zipfile, and of NumPy's parser of headers, for bytes that are not .npz. Python's parser
# raises MemoryError for deep nesting.
_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)
_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError)


def read_npz(
    name: str, data: bytes, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """{key: array} of a .npz file.

    Raises ArchiveError for a missing or unknown key, for object arrays, and for arrays above the
    size limit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            _check_members(
                name, file, {f"{key}.npy" for key in required}, {f"{key}.npy" for key in optional}
            )
            return {
                member.removesuffix(".npy"): _read_array(name, file, member)
                for member in sorted(file.namelist())
            }
    except ArchiveError:
        raise
    except (*_ZIP, *_HEADER) as error:
        cause = " ".join(str(error).split())[:200]
        raise ArchiveError(
            name,
            f"cannot be read as .npz ({cause}); it is truncated, damaged or not .npz: copy it "
            "again",
        ) from error


def _check_members(
    name: str, file: zipfile.ZipFile, required: set[str], optional: set[str]
) -> None:
    members = file.namelist()
    if len(set(members)) < len(members) or not required <= set(members) <= required | optional:
        wanted = ", ".join(sorted(required)) + (
            f", optionally {', '.join(sorted(optional))}" if optional else ""
        )
        raise ArchiveError(
            name,
            f"has the arrays {', '.join(sorted(members)[:8]) or 'none'}, expected {wanted}; copy "
            "it again",
        )
    unknown = [
        info.filename
        for info in file.infolist()
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    if unknown:
        raise ArchiveError(
            name,
            f"{unknown[0]} is compressed in a way that NumPy does not use; write it again with "
            "numpy.savez_compressed",
        )


def _read_array(name: str, file: zipfile.ZipFile, member: str) -> np.ndarray:
    with file.open(member) as header:
        _check_header(name, header, file.getinfo(member).file_size, member)
    with file.open(member) as array:
        return npy.read_array(array, allow_pickle=False)


def _check_header(name: str, header: BinaryIO, size: int, member: str) -> None:
    version = npy.read_magic(header)
    if version not in _HEADERS:
        raise ArchiveError(
            name,
            f"{member} has .npy version {version}, expected 1.0 or 2.0; write it again with "
            "numpy.savez",
        )
    shape, _, dtype = _HEADERS[version](header)
    if dtype.kind not in "biuf":
        raise ArchiveError(
            name, f"{member} has dtype {dtype}, expected numbers; objects are never read"
        )
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > MAX_BYTES:
        raise ArchiveError(
            name,
            f"{member} claims {claimed / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB; cut it",
        )
    if header.tell() + claimed != size:
        raise ArchiveError(
            name,
            f"{member} has {size} bytes, expected {header.tell() + claimed} for shape {shape} of "
            f"{dtype}; copy it again",
        )
