"""Reads arrays and attributes of satellite products in HDF5 by window, without trusting them.

Links to other files are not followed. Before HDF5 decompresses an array, the size of every chunk is
checked, once per file.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import hdf5
from data_prep.formats.geotiff import MAX_BYTES
from data_prep.reader import Files

_MAX_ATTRIBUTE = 100_000  # values
_MAX_CHUNK_BYTES = 2**30
_CACHE_BYTES = 64 * 2**20  # of decompressed chunks


class Product(NamedTuple):
    """An open product. `stamp` distinguishes versions of a file of the same path."""

    name: str
    file: h5py.File
    path: Path
    stamp: int


@contextlib.contextmanager
def open_product(archive: Archive, files: Files, role: str) -> Iterator[Product]:
    """Opens the file with that role. HDF5 errors become ArchiveError, also inside the block."""
    name = files.name(role)
    with files.local(role) as path, _errors(name, path), _open(path) as file:
        yield Product(name, file, path, archive.entry(name).stamp)


@contextlib.contextmanager
def open_listed(archive: Archive, name: str) -> Iterator[Product]:
    """The same while an archive is listed."""
    with archive.local(name) as path, _errors(name, path), _open(path) as file:
        yield Product(name, file, path, archive.entry(name).stamp)


def _open(path: Path) -> h5py.File:
    return h5py.File(path, "r", locking=False, rdcc_nbytes=_CACHE_BYTES)


@contextlib.contextmanager
def _errors(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except ArchiveError:
        raise
    except hdf5.ERRORS as error:
        cause = " ".join(str(error).replace(str(path), "the file").split())[:200]
        raise ArchiveError(
            name,
            f"cannot be read as HDF5 ({cause}); it is truncated, damaged or not HDF5: copy it "
            "again",
        ) from error


def array(product: Product, key: str, shape: Sequence[int | None]) -> h5py.Dataset:
    """A numeric array of that shape, in which None is any length. Nothing of it is read.

    Raises ArchiveError where there is none.
    """
    found: h5py.Group | h5py.Dataset = product.file
    for part in key.split("/"):
        is_own = isinstance(found, h5py.Group) and isinstance(
            found.get(part, getlink=True), h5py.HardLink
        )
        if not is_own:
            raise ArchiveError(product.name, f"has no {key}; get the product again")
        found = found[part]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iuf":
        raise ArchiveError(product.name, f"{key} is not an array of numbers; get the product again")
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, side) and side > 0 for side, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits:
        expected = " x ".join("n" if side is None else str(side) for side in shape)
        raise ArchiveError(
            product.name,
            f"{key} is {' x '.join(map(str, found.shape))}, expected {expected}; get the product "
            "again",
        )
    hdf5.check_layout(product.name, found, _MAX_CHUNK_BYTES)
    return found


def read(product: Product, found: h5py.Dataset, selection: tuple[slice, ...]) -> np.ndarray:
    """A part of an array that `array` gave, in this machine's byte order. Raises ArchiveError."""
    sides = [
        len(range(*part.indices(side))) for part, side in zip(selection, found.shape, strict=True)
    ]
    claimed = math.prod(sides) * found.dtype.itemsize
    if claimed > MAX_BYTES:
        raise ArchiveError(
            product.name,
            f"{' x '.join(map(str, sides))} values of {found.name} take {claimed / 1e6:,.0f} MB, "
            f"at most {MAX_BYTES / 1e6:,.0f} MB; give a smaller --patch-size",
        )
    _check_chunks(product.name, product.path, product.stamp, found.name)
    return found[selection].astype(found.dtype.newbyteorder("="), copy=False)


@functools.lru_cache(32)  # for the other tiles of the product
def _check_chunks(name: str, path: Path, stamp: int, key: str) -> None:
    with _open(path) as file:
        hdf5.check_chunks(name, file[key], range(file[key].shape[0]))


def read_list(product: Product, key: str, count: int) -> np.ndarray:
    """An array float64 [count]. Raises ArchiveError."""
    found = array(product, key, (count,))
    return read(product, found, (slice(None),)).astype(float)


def numbers(product: Product, key: str, count: int = 0) -> np.ndarray:
    """An attribute of the file, float64 [n], or [count]. Raises ArchiveError."""
    found = _attribute(product, key)
    values = np.asarray(found).ravel()
    if values.dtype.kind not in "iuf" or (count and len(values) != count):
        expected = f"{count} numbers" if count else "numbers"
        raise ArchiveError(
            product.name,
            f"attribute {key} has {len(values)} values of type {values.dtype}, expected "
            f"{expected}; get the product again",
        )
    return values.astype(float)


def text(product: Product, key: str) -> str:
    """An attribute of the file as text. Raises ArchiveError."""
    found = _attribute(product, key)
    value = np.asarray(found).ravel()
    one = value[0] if len(value) == 1 else b""
    return one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)


def _attribute(product: Product, key: str):
    attributes = product.file.attrs
    if key not in attributes:
        raise ArchiveError(product.name, f"has no attribute {key}; get the product again")
    if math.prod(attributes.get_id(key).shape) > _MAX_ATTRIBUTE:
        raise ArchiveError(product.name, f"attribute {key} is too long; get the product again")
    return attributes[key]
