"""Holds arrays of HDF5 files from strangers against what their chunks may unpack to, before HDF5
itself unpacks them.

HDF5 believes a chunk: it inflates whatever is in it, a thousandfold, and once more for each time
that deflate is in the list of filters.
"""

from __future__ import annotations

import itertools
import math
import zlib

import h5py

from data_prep.archive import ArchiveError

MAX_CHUNKS = (
    2**20
)  # that are read at once: HDF5 takes some hundred bytes for each, whatever is in it
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}  # others come as plug-ins, or cannot be bounded
_CHECKSUM = 8  # bytes at most that a checksum adds to a chunk


def check_layout(name: str, dataset: h5py.Dataset, limit: int) -> None:
    """Raises ArchiveError for an array in other files, with filters beyond deflate, shuffle and
    Fletcher-32 or one of them twice, or with chunks of more than `limit` bytes. Nothing of the
    array is read.
    """
    key, filters = _key(dataset), _filters(dataset)
    if dataset.is_virtual or dataset.external:
        raise ArchiveError(
            name,
            f"{key} lies in other files, expected one that has its data itself; copy the file "
            "again",
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
    """Raises ArchiveError where a chunk that holds some of the `rows` of the first axis unpacks to
    other than its size, or for too many chunks.

    `check_layout` comes before. Takes up to the bytes of two chunks, packed and unpacked.
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
    whole, stored = _chunk_bytes(dataset), dataset.id.get_chunk_info_by_coord(offset)
    if stored.byte_offset is None:  # was never written, so it is all fill value
        return
    packed_limit = whole + whole // 1000 + 64  # deflate adds that much to what cannot be compressed
    found = (
        stored.size
        if stored.size > packed_limit
        else _unpacked_bytes(dataset, offset, whole + _CHECKSUM + 1)
    )
    if not whole <= found <= whole + _CHECKSUM:
        place = f"the chunk of {_key(dataset)} at {list(offset)}"
        raise ArchiveError(
            name,
            f"{place} has {found} bytes or more, expected {whole}; it is damaged: copy it again",
        )


def _unpacked_bytes(dataset: h5py.Dataset, offset: tuple[int, ...], limit: int) -> int:
    """What a chunk inflates to, counted up to `limit`. The other filters change no more than the
    checksum does.
    """
    left_out, raw = dataset.id.read_direct_chunk(offset)
    filters = _filters(dataset)
    applied = [code for number, code in enumerate(filters) if not left_out >> number & 1]
    return (
        len(zlib.decompressobj().decompress(raw, limit))
        if h5py.h5z.FILTER_DEFLATE in applied
        else len(raw)
    )


def _filters(dataset: h5py.Dataset) -> list[int]:
    created = dataset.id.get_create_plist()
    return [created.get_filter(number)[0] for number in range(created.get_nfilters())]


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    return (
        math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    )  # as stored: NumPy may have no number of that width


def _key(dataset: h5py.Dataset) -> str:
    return dataset.name.lstrip("/")
