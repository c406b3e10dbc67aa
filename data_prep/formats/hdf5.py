"""Checks chunk sizes of untrusted HDF5 files before HDF5 decompresses them.

HDF5 itself inflates any chunk up to a thousandfold, and again for each deflate filter in its list.
"""

from __future__ import annotations

import itertools
import math
import zlib

import h5py
import numpy as np

from data_prep.archive import ArchiveError

MAX_CHUNKS = 2**20  # per read: HDF5 needs some hundred bytes for each, whatever its contents
# Other filters are plug-ins, or their output cannot be bounded.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}
_CHECKSUM = 8  # maximum bytes that a checksum adds to a chunk
# Of h5py, zlib and NumPy for bytes that are not HDF5, or damaged.
ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    RuntimeError,
    OverflowError,
    zlib.error,
)


def read_whole(name: str, dataset: h5py.Dataset, limit: int) -> np.ndarray:
    """All of an array of at most `limit` bytes, in the byte order of this machine.

    Raises ArchiveError for a larger one, and for data that `check_layout` or `check_chunks` refuse.
    """
    size = dataset.size * dataset.id.get_type().get_size()
    if size > limit:
        raise ArchiveError(
            name,
            f"{_key(dataset)} has {size / 1e6:,.1f} MB, at most {limit / 1e6:,.1f} MB; it is "
            "damaged: copy it again",
        )
    check_layout(name, dataset, max(limit, size))
    check_chunks(name, dataset, range(dataset.shape[0] if dataset.ndim else 0))
    array = dataset[()]
    return np.asarray(array).astype(dataset.dtype.newbyteorder("="), copy=False)


def check_layout(name: str, dataset: h5py.Dataset, limit: int) -> None:
    """Raises ArchiveError for an array with data in other files, with filters other than deflate,
    shuffle and Fletcher-32 or one of them twice, or with chunks above `limit` bytes. Reads no data.
    """
    key, filters = _key(dataset), _filters(dataset)
    if dataset.is_virtual or dataset.external:
        raise ArchiveError(
            name,
            f"{key} has its data in other files, expected all in this one; copy the file again",
        )
    if len(set(filters)) < len(filters) or not _FILTERS.issuperset(filters):
        wanted = "at most deflate (1), shuffle (2) and Fletcher-32 (3), each once"
        raise ArchiveError(
            name,
            f"{key} has the HDF5 filters {filters}, expected {wanted}; write it again with "
            "h5repack -f GZIP=4",
        )
    if dataset.chunks and _chunk_bytes(dataset) > limit:
        claimed = (
            f"{key} has chunks of {_chunk_bytes(dataset) / 1e6:,.0f} MB, at most "
            f"{limit / 1e6:,.0f} MB"
        )
        raise ArchiveError(name, f"{claimed}; write it again with h5repack and smaller chunks")


def check_chunks(name: str, dataset: h5py.Dataset, rows: range) -> None:
    """Raises ArchiveError where a chunk with any of the `rows` of the first axis does not unpack to
    its size, or for too many chunks.

    Call `check_layout` first. Needs memory for at most two chunks, packed and unpacked.
    """
    if not dataset.chunks:
        return
    starts = (rows.start - rows.start % dataset.chunks[0], *(0 for _ in dataset.shape[1:]))
    stops = (rows.stop, *dataset.shape[1:])
    steps = [range(*part) for part in zip(starts, stops, dataset.chunks, strict=True)]
    count = math.prod(map(len, steps))
    if count > MAX_CHUNKS:
        raise ArchiveError(
            name,
            f"{_key(dataset)} has {count:,} chunks, at most {MAX_CHUNKS:,}; write it again with "
            "h5repack and larger chunks",
        )
    for offset in itertools.product(*steps):
        _check_chunk(name, dataset, offset)


def _check_chunk(name: str, dataset: h5py.Dataset, offset: tuple[int, ...]) -> None:
    expected, stored = _chunk_bytes(dataset), dataset.id.get_chunk_info_by_coord(offset)
    if stored.byte_offset is None:  # was never written, so it is all fill value
        return
    packed_limit = expected + expected // 1000 + 64  # deflate may add that to incompressible data
    found = (
        stored.size
        if stored.size > packed_limit
        else _unpacked_bytes(dataset, offset, expected + _CHECKSUM + 1)
    )
    if not expected <= found <= expected + _CHECKSUM:
        chunk = f"the chunk of {_key(dataset)} at {list(offset)}"
        raise ArchiveError(
            name,
            f"{chunk} has {found} bytes or more, expected {expected}; it is damaged: copy it again",
        )


def _unpacked_bytes(dataset: h5py.Dataset, offset: tuple[int, ...], limit: int) -> int:
    """Inflated size of a chunk, counted up to `limit`.

    Other filters change it by at most the checksum.
    """
    skipped, raw = dataset.id.read_direct_chunk(offset)
    filters = _filters(dataset)
    applied = [code for number, code in enumerate(filters) if not skipped >> number & 1]
    return (
        len(zlib.decompressobj().decompress(raw, limit))
        if h5py.h5z.FILTER_DEFLATE in applied
        else len(raw)
    )


def _filters(dataset: h5py.Dataset) -> list[int]:
    created = dataset.id.get_create_plist()
    return [created.get_filter(number)[0] for number in range(created.get_nfilters())]


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    # The stored width: NumPy may have no number of that width.
    return math.prod(dataset.chunks) * dataset.id.get_type().get_size()


def _key(dataset: h5py.Dataset) -> str:
    return dataset.name.lstrip("/")
