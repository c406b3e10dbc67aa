"""Reads arrays of untrusted Zarr version 2 zip files: sizes checked before decoding, no pickles.

zarr-python decodes chunks of any size with any filter, including pickles, and its version 3 has
problems with such files (https://github.com/DLR-MF-DAS/SSL4EO-S12-v1.1). A chunk is a member of the
zip file, so little code is needed for the part of the format that xarray writes. Consolidated
metadata (.zmetadata) repeat those of each array and are not read.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numcodecs
import numpy as np

from data_prep.archive import ArchiveError
from data_prep.archive.containers import normalise_name

MAX_BYTES = 512 * 2**20  # of a decoded chunk, and of one read
MAX_SMALL = 16 * 2**20  # of an array that is read and kept as a whole
_MAX_JSON = 4 * 2**20
_COMPRESSORS = (None, "blosc", "lz4", "zstd", "zlib", "gzip")
_MAX_CHUNKS = 100_000  # per read
_DTYPE = re.compile(r"[<>|](?:b1|[iu][1248]|f[248]|[SU][1-9]\d{0,3})|[<>]M8\[(?:s|ms|us|ns)\]")
_AGAIN = "it is truncated or damaged: download it again"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)


class Source(NamedTuple):
    """A zip file: its name in the archive, local path and modification time; the key of all caches
    here.
    """

    name: str
    path: Path
    stamp: int


class Array(NamedTuple):
    """The metadata of an array."""

    key: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    compressor: str | None
    order: str
    separator: str

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize


@functools.lru_cache(256)
def find_array(source: Source, key: str) -> Array | None:
    """The metadata of an array, or None where there is no such array.

    Raises ArchiveError for unsupported arrays, such as objects.
    """
    text = _member(source, f"{key}/.zarray", _MAX_JSON)
    if text is None:
        return None
    about, where = _json(source, f"{key}/.zarray", text), f"{source.name}/{key}"
    shape, chunks = (
        _sizes(where, about, field, least) for field, least in (("shape", 0), ("chunks", 1))
    )
    compressor = about.get("compressor")
    kind = compressor.get("id", "") if isinstance(compressor, dict) else compressor
    if (
        len(shape) != len(chunks)
        or about.get("zarr_format") != 2
        or about.get("order") not in ("C", "F")
    ):
        raise ArchiveError(
            where, f"is not a Zarr version 2 array (shape, chunks, order, zarr_format); {_AGAIN}"
        )
    if about.get("filters") or kind not in _COMPRESSORS:
        found = f"filters {about.get('filters')!r} and compressor {kind!r}"[:200]
        raise ArchiveError(
            where,
            f"{found}, expected no filters and one of {', '.join(map(str, _COMPRESSORS))}; write "
            "it again with Blosc",
        )
    if not (isinstance(about.get("dtype"), str) and _DTYPE.fullmatch(about["dtype"])):
        raise ArchiveError(
            where,
            f"dtype {str(about.get('dtype'))[:50]!r}, expected numbers or text of a fixed length; "
            "objects are never read",
        )
    array = Array(
        key,
        shape,
        chunks,
        np.dtype(about["dtype"]),
        kind,
        about["order"],
        about.get("dimension_separator") or ".",
    )
    if array.chunk_bytes > MAX_BYTES or array.separator not in ("/", "."):
        raise ArchiveError(
            where,
            f"chunks of {array.chunk_bytes / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB; "
            "write it again with smaller chunks",
        )
    return array


def attributes(source: Source, key: str) -> dict[str, Any]:
    """The attributes of an array, {} where it has none."""
    text = _member(source, f"{key}/.zattrs", _MAX_JSON)
    return {} if text is None else _json(source, f"{key}/.zattrs", text)


@functools.lru_cache(64)
def read_small(source: Source, key: str) -> np.ndarray | None:
    """A small array, or None where there is no such array; must not be modified.

    Raises ArchiveError above MAX_SMALL.
    """
    array = find_array(source, key)
    if array is None:
        return None
    size = math.prod(array.shape) * array.dtype.itemsize
    if max(size, array.chunk_bytes) > MAX_SMALL:
        raise ArchiveError(
            f"{source.name}/{key}",
            f"takes {size / 1e6:,.0f} MB, at most {MAX_SMALL / 1e6:,.0f} MB; {_AGAIN}",
        )
    return _assemble(source, array, (), _decode_chunk)


def read_part(source: Source, key: str, index: tuple[int, ...]) -> np.ndarray:
    """array[index] of an existing array, for an index into its first axes.

    The last decoded chunks are kept for the next call.
    """
    array = find_array(source, key)
    size = math.prod(array.shape[len(index) :]) * array.dtype.itemsize
    if size > MAX_BYTES:
        raise ArchiveError(
            f"{source.name}/{key}",
            f"takes {size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB; {_AGAIN}",
        )
    return _assemble(source, array, index, _decode_chunk_cached)


def _assemble(source: Source, array: Array, index: tuple[int, ...], decode: Any) -> np.ndarray:
    """array[index], assembled from its chunks."""
    found = np.empty(array.shape[len(index) :], array.dtype.newbyteorder("="))
    inside = tuple(at % size for at, size in zip(index, array.chunks, strict=False))
    first = tuple(at // size for at, size in zip(index, array.chunks, strict=False))
    sizes = array.chunks[len(index) :]
    counts = [-(-length // size) for length, size in zip(found.shape, sizes, strict=True)]
    if math.prod(counts) > _MAX_CHUNKS:
        raise ArchiveError(
            f"{source.name}/{array.key}",
            f"has {math.prod(counts):,} chunks, at most {_MAX_CHUNKS:,}; write it again with "
            "larger ones",
        )
    for rest in itertools.product(*map(range, counts)):
        target = tuple(
            slice(at * size, (at + 1) * size) for at, size in zip(rest, sizes, strict=True)
        )
        chunk = decode(source, array, (*first, *rest))[inside]
        found[target] = chunk[tuple(slice(0, length) for length in found[target].shape)]
    return found


# ------------------------------------------------------------------ chunks


def _decode_chunk(source: Source, array: Array, at: tuple[int, ...]) -> np.ndarray:
    """A chunk, of full size also at the edges of its array."""
    member = f"{array.key}/{array.separator.join(map(str, at)) if at else '0'}"
    data = _member(source, member, MAX_BYTES)
    # Zarr would use the fill value, so a damaged list of members would become black pixels.
    if data is None:
        raise ArchiveError(
            f"{source.name}/{member}",
            f"is missing, expected every chunk, including empty ones; {_AGAIN}",
        )
    with _decoding_errors(f"{source.name}/{member}"):
        raw = _decompress(array, data)
    if len(raw) != array.chunk_bytes:
        raise ArchiveError(
            f"{source.name}/{member}",
            f"has {len(raw):,} bytes or more, expected the {array.chunk_bytes:,} of a chunk; "
            f"{_AGAIN}",
        )
    chunk = np.frombuffer(raw, array.dtype).reshape(array.chunks, order=array.order)
    chunk.flags.writeable = False
    return chunk


# Two, because pixels and their mask alternate: a chunk of 64 samples is decoded once.
_decode_chunk_cached = functools.lru_cache(2)(_decode_chunk)


def _decompress(array: Array, data: bytes) -> bytes:
    """The bytes of a chunk; never many more than expected, whatever the data claim."""
    if array.compressor is None:
        return data
    if array.compressor in ("zlib", "gzip"):
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(data, array.chunk_bytes + 1)
    sizes = {"blosc": _blosc_size, "lz4": _lz4_size, "zstd": _zstd_size}
    claimed = sizes[array.compressor](data)
    if claimed != array.chunk_bytes:
        raise ValueError(f"it claims {claimed:,} bytes, expected {array.chunk_bytes:,}")
    return bytes(numcodecs.get_codec({"id": array.compressor}).decode(data))


def _blosc_size(data: bytes) -> int:
    claimed, _, stored = struct.unpack_from("<III", data, 4)
    if stored != len(data):  # Blosc would read beyond the end
        raise ValueError(f"{len(data):,} bytes, expected {stored:,}")
    return claimed


def _lz4_size(data: bytes) -> int:
    return struct.unpack_from("<i", data)[0]


def _zstd_size(data: bytes) -> int:
    """The content size in the header of a frame (RFC 8878, 3.1.1.1).

    Frames without it, as in streams, are refused.
    """
    (descriptor,) = struct.unpack_from("<B", data, 4)
    single, kind = descriptor >> 5 & 1, descriptor >> 6
    if kind == 0 and not single:
        raise ValueError("it does not contain its size")
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    (size,) = struct.unpack_from(("<B", "<H", "<I", "<Q")[kind], data, at)
    return size + 256 if kind == 1 else size


# ------------------------------------------------------------------ members


@functools.lru_cache(4)
def _members(source: Source) -> dict[str, zipfile.ZipInfo]:
    """{name: entry} of the zip file.

    Metadata may be written several times, and the last counts, as for zarr-python; chunks must be
    unique.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    with _decoding_errors(source.name), zipfile.ZipFile(source.path) as file:
        for info in file.infolist():
            name = info.orig_filename
            normalise_name(name, source.name)
            if info.flag_bits & 1 or info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise ArchiveError(
                    f"{source.name}/{name}",
                    "is encrypted or compressed by an unknown method, expected stored or deflate; "
                    + _AGAIN,
                )
            if name in found and not name.rpartition("/")[2].startswith("."):
                raise ArchiveError(
                    f"{source.name}/{name}", f"occurs twice, expected once; {_AGAIN}"
                )
            found[name] = info
    return found


def _member(source: Source, name: str, limit: int) -> bytes | None:
    info = _members(source).get(name)
    if info is None:
        return None
    if info.file_size > limit:
        raise ArchiveError(
            f"{source.name}/{name}",
            f"has {info.file_size / 1e6:,.0f} MB, at most {limit / 1e6:,.0f} MB; {_AGAIN}",
        )
    with (
        _decoding_errors(f"{source.name}/{name}"),
        zipfile.ZipFile(source.path) as file,
        file.open(info) as member,
    ):
        data = member.read(info.file_size)
        member.read(1)  # returns nothing, but compares the checksum
    if len(data) != info.file_size:
        raise ArchiveError(
            f"{source.name}/{name}",
            f"ends after {len(data):,} of {info.file_size:,} bytes; {_AGAIN}",
        )
    return data


@contextlib.contextmanager
def _decoding_errors(where: str) -> Iterator[None]:
    """Turns errors of zipfile and of the codecs into ArchiveError."""
    try:
        yield
    except ArchiveError:
        raise
    except _ZIP_ERRORS as error:
        cause = " ".join(str(error).split())[:200]
        raise ArchiveError(where, f"cannot be read ({cause}); {_AGAIN}") from error


def _json(source: Source, member: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{source.name}/{member}", f"is not JSON; {_AGAIN}") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"{source.name}/{member}", f"is not a JSON object; {_AGAIN}")
    return found


def _sizes(where: str, about: dict[str, Any], field: str, least: int) -> tuple[int, ...]:
    sizes = about.get(field)
    if not isinstance(sizes, list) or not all(
        type(size) is int and least <= size < 2**31 for size in sizes
    ):
        raise ArchiveError(
            where, f"{field} is {str(sizes)[:80]}, expected a list of integers; {_AGAIN}"
        )
    return tuple(sizes)
