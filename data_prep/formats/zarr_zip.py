"""Reads arrays of Zarr version 2 in a zip file from strangers: every size is checked before
anything is decoded, and nothing can be executed.

zarr-python decodes what a file claims, of any size and with any filter, pickles among them; and its
version 3 has trouble with such files (https://github.com/DLR-MF-DAS/SSL4EO-S12-v1.1). A chunk is a
member of the zip file, so that little is needed to read it: the parts of the format that xarray
writes. Consolidated metadata (.zmetadata) repeat what each array says and are not read.
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
from data_prep.archive.containers import checked_name

MAX_BYTES = 512 * 2**20  # of a chunk once decoded, and of what is read at once
MAX_SMALL = 16 * 2**20  # of an array that is read and kept as a whole
_MAX_JSON = 4 * 2**20
_COMPRESSORS = (None, "blosc", "lz4", "zstd", "zlib", "gzip")
_MAX_CHUNKS = 100_000  # that are put together at once
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
    """A zip file: its name in the archive, where it is now, and when it was changed. What is kept
    of it is kept by all three.
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
def find(source: Source, key: str) -> Array | None:
    """The metadata of an array, or None where there is no such array. Raises ArchiveError for what
    is not read here, such as objects.
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
            where, "is no array of Zarr version 2 (shape, chunks, order, zarr_format); " + _AGAIN
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
            "write it again in smaller ones",
        )
    return array


def attributes(source: Source, key: str) -> dict[str, Any]:
    """The attributes of an array, {} where it has none."""
    text = _member(source, f"{key}/.zattrs", _MAX_JSON)
    return {} if text is None else _json(source, f"{key}/.zattrs", text)


@functools.lru_cache(64)
def whole(source: Source, key: str) -> np.ndarray | None:
    """A small array, or None where there is no such array; not to be written to. Raises
    ArchiveError where it is not small.
    """
    array = find(source, key)
    if array is None:
        return None
    size = math.prod(array.shape) * array.dtype.itemsize
    if max(size, array.chunk_bytes) > MAX_SMALL:
        raise ArchiveError(
            f"{source.name}/{key}",
            f"takes {size / 1e6:,.0f} MB, at most {MAX_SMALL / 1e6:,.0f} MB; {_AGAIN}",
        )
    return _gather(source, array, (), _decoded)


def part(source: Source, key: str, index: tuple[int, ...]) -> np.ndarray:
    """array[index] of an array that is there, for an index within its first axes. The last chunks
    decoded are kept for the next call.
    """
    array = find(source, key)
    size = math.prod(array.shape[len(index) :]) * array.dtype.itemsize
    if size > MAX_BYTES:
        raise ArchiveError(
            f"{source.name}/{key}",
            f"takes {size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB; {_AGAIN}",
        )
    return _gather(source, array, index, _kept)


def _gather(source: Source, array: Array, index: tuple[int, ...], decoded: Any) -> np.ndarray:
    """array[index], put together of its chunks."""
    found = np.empty(array.shape[len(index) :], array.dtype.newbyteorder("="))
    inside = tuple(at % size for at, size in zip(index, array.chunks, strict=False))
    first = tuple(at // size for at, size in zip(index, array.chunks, strict=False))
    sizes = array.chunks[len(index) :]
    counts = [-(-length // size) for length, size in zip(found.shape, sizes, strict=True)]
    if math.prod(counts) > _MAX_CHUNKS:
        raise ArchiveError(
            f"{source.name}/{array.key}",
            f"is cut in {math.prod(counts):,} chunks, at most {_MAX_CHUNKS:,}; write it again in "
            "larger ones",
        )
    for rest in itertools.product(*map(range, counts)):
        target = tuple(
            slice(at * size, (at + 1) * size) for at, size in zip(rest, sizes, strict=True)
        )
        chunk = decoded(source, array, (*first, *rest))[inside]
        found[target] = chunk[tuple(slice(0, length) for length in found[target].shape)]
    return found


# ------------------------------------------------------------------ chunks


def _decoded(source: Source, array: Array, at: tuple[int, ...]) -> np.ndarray:
    """A chunk, whole also at the edges of its array."""
    member = f"{array.key}/{array.separator.join(map(str, at)) if at else '0'}"
    data = _member(source, member, MAX_BYTES)
    if (
        data is None
    ):  # Zarr would take the fill value, and a damaged list of members would become black pixels
        raise ArchiveError(
            f"{source.name}/{member}",
            f"is not there, expected every chunk, also empty ones; {_AGAIN}",
        )
    with _damage(f"{source.name}/{member}"):
        raw = _decompressed(array, data)
    if len(raw) != array.chunk_bytes:
        raise ArchiveError(
            f"{source.name}/{member}",
            f"has {len(raw):,} bytes or more, expected the {array.chunk_bytes:,} of a chunk; "
            f"{_AGAIN}",
        )
    chunk = np.frombuffer(raw, array.dtype).reshape(array.chunks, order=array.order)
    chunk.flags.writeable = False
    return chunk


# Two, for pixels and their mask take turns: what 64 samples share is decoded once.
_kept = functools.lru_cache(2)(_decoded)


def _decompressed(array: Array, data: bytes) -> bytes:
    """The bytes of a chunk; never much more than it should have, whatever it claims."""
    if array.compressor is None:
        return data
    if array.compressor in ("zlib", "gzip"):
        return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(data, array.chunk_bytes + 1)
    claimed = {"blosc": _claim_of_blosc, "lz4": _claim_of_lz4, "zstd": _claim_of_zstd}[
        array.compressor
    ](data)
    if claimed != array.chunk_bytes:
        raise ValueError(f"it claims {claimed:,} bytes, expected {array.chunk_bytes:,}")
    return bytes(numcodecs.get_codec({"id": array.compressor}).decode(data))


def _claim_of_blosc(data: bytes) -> int:
    claimed, _, stored = struct.unpack_from("<III", data, 4)
    if stored != len(data):  # Blosc would read on beyond the end
        raise ValueError(f"{len(data):,} bytes, expected {stored:,}")
    return claimed


def _claim_of_lz4(data: bytes) -> int:
    return struct.unpack_from("<i", data)[0]


def _claim_of_zstd(data: bytes) -> int:
    """The content size in the header of a frame (RFC 8878, 3.1.1.1). One without it, as streams
    have, is refused.
    """
    (descriptor,) = struct.unpack_from("<B", data, 4)
    single, kind = descriptor >> 5 & 1, descriptor >> 6
    if kind == 0 and not single:
        raise ValueError("it does not say its size")
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    (size,) = struct.unpack_from(("<B", "<H", "<I", "<Q")[kind], data, at)
    return size + 256 if kind == 1 else size


# ------------------------------------------------------------------ members


@functools.lru_cache(4)
def _members(source: Source) -> dict[str, zipfile.ZipInfo]:
    """{name: entry} of the zip file. Of metadata that was written twice the last counts, as for
    zarr-python; a chunk is there once.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    with _damage(source.name), zipfile.ZipFile(source.path) as file:
        for info in file.infolist():
            name = info.orig_filename
            checked_name(name, source.name)
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
                    f"{source.name}/{name}", f"is there twice, expected once; {_AGAIN}"
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
        _damage(f"{source.name}/{name}"),
        zipfile.ZipFile(source.path) as file,
        file.open(info) as member,
    ):
        data = member.read(info.file_size)
        member.read(1)  # nothing comes, but the checksum is compared
    if len(data) != info.file_size:
        raise ArchiveError(
            f"{source.name}/{name}",
            f"ends after {len(data):,} of {info.file_size:,} bytes; {_AGAIN}",
        )
    return data


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    """Errors of zipfile and of the codecs as ArchiveError."""
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
        raise ArchiveError(f"{source.name}/{member}", f"is no JSON; {_AGAIN}") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"{source.name}/{member}", f"is no JSON object; {_AGAIN}")
    return found


def _sizes(where: str, about: dict[str, Any], field: str, least: int) -> tuple[int, ...]:
    sizes = about.get(field)
    if not isinstance(sizes, list) or not all(
        type(size) is int and least <= size < 2**31 for size in sizes
    ):
        raise ArchiveError(
            where, f"{field} is {str(sizes)[:80]}, expected a list of whole numbers; {_AGAIN}"
        )
    return tuple(sizes)
