"""Pixels as sharded Zarr version 3 arrays: one per (sensor, dtype, shape), with one row per sample.

    STORE/pixels/enmap-int16-202x128x128/zarr.json    the array [shards x rows, c, h, w]; a sample's
                                                      row is shard x rows + its position in the file
    STORE/pixels/enmap-int16-202x128x128/c/0/0/0/0    the chunks of shard 0, then the shard index:
                                                      offset and length of each chunk

Format "zarr-raw" has one plain chunk per sample. Format "zarr" splits a sample into chunks of about
32 bands, each compressed by Blosc (bitshuffle, LZ4HC), so that a few bands are read without the
others; integers are stored as band differences, which start again in each chunk, as the attribute
`eo_jax` of zarr.json says. Chunks and index end with their CRC-32C. Any Zarr reader opens the
arrays. This one keeps no file open, so that it works in a forked process, where tensorstore aborts,
and it checks every length against the kind of pixels before it allocates.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import blosc2
import google_crc32c
import numcodecs.blosc
import numpy as np

from eo_jax.data.store import files, record
from eo_jax.data.store.buffers import Scratch
from eo_jax.schema import Sample

Bands: TypeAlias = "slice | Sequence[int] | np.ndarray"  # band numbers from 0
# (bands [n, h, w] of the result, the same bands as stored) -> None, which writes the result
Put: TypeAlias = Callable[[np.ndarray, np.ndarray], None]

FORMATS = ("zarr", "zarr-raw")
_BANDS_PER_CHUNK = 32
_ABSENT = 2**64 - 1  # offset and length of a chunk that was not written
_CRC = struct.Struct("<I")
CRC_BYTES = _CRC.size
# Blosc's own choice of half a megabyte compresses 3 % better, but its scratch memory then comes
# from fresh pages: 10 % slower with two threads.
_BLOSC = {"cname": "lz4hc", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 65536}
# Version, flags, bytes before compression, after compression.
_BLOSC_HEADER = struct.Struct("<BxBxI4xI")
_BLOSC_VERSION = 2
_BLOSC_FLAGS = 0x24  # bitshuffle and LZ4
_BLOSC_ANY = 0x12  # stored as it is, blocks not split
_BLOSC_OVERHEAD = 16  # the most that Blosc adds to a chunk
_MAX_RATIO = 256  # of LZ4, the most that a byte after compression stands for
_MAX_INDEX_BYTES = 2**26  # of a shard: four million chunks
_FILL = {"b": False, "i": 0, "u": 0, "f": 0.0}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # becomes the name of a folder

_PACKED, _UNPACKED = Scratch(), Scratch()

# Blosc's own threads hold the GIL and do not survive a fork; without them, callers' threads run in
# parallel.
numcodecs.blosc.use_threads = False


@dataclass(frozen=True)
class Kind:
    """Pixels of one sensor, dtype and shape [c, h, w], which share an array.

    Raises ValueError for values that an array cannot have.
    """

    format: str
    sensor: str
    dtype: str
    shape: tuple[int, int, int]

    def __post_init__(self):
        if not _NAME.fullmatch(self.sensor):
            raise ValueError(
                f"sensor {self.sensor!r} cannot name a folder of a Zarr store; expected letters, "
                "digits, '.', '-' and '_'"
            )
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"pixels of shape {list(self.shape)} cannot be a row of a Zarr array; expected [c, "
                "h, w], each at least 1"
            )
        record.check_array("array 'pixels'", self.dtype, self.shape)

    @functools.cached_property
    def name(self) -> str:
        return f"{self.sensor}-{self.dtype}-{'x'.join(map(str, self.shape))}"

    @functools.cached_property
    def chunks(self) -> int:
        """Chunks per sample."""
        return 1 if self.format == "zarr-raw" else -(-self.shape[0] // _BANDS_PER_CHUNK)

    @functools.cached_property
    def bands_per_chunk(self) -> int:
        return -(-self.shape[0] // self.chunks)

    @functools.cached_property
    def chunk_shape(self) -> tuple[int, int, int]:
        return (self.bands_per_chunk, *self.shape[1:])

    @functools.cached_property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")

    @functools.cached_property
    def has_differences(self) -> bool:
        return self.format == "zarr" and self.numpy_dtype.kind in "iu"

    @property
    def put_pixels(self) -> Put:
        """Writes pixels, whatever is stored."""
        return record.put_sums if self.has_differences else np.copyto

    @functools.cached_property
    def typesize(self) -> int:
        """Bytes that Blosc takes as one value."""
        return record.shuffle_width(self.numpy_dtype.itemsize, self.chunk_bytes)

    @functools.cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before compression."""
        return int(np.prod(self.chunk_shape, dtype=np.int64)) * self.numpy_dtype.itemsize

    @property
    def metadata_name(self) -> str:
        """zarr.json, relative to the store."""
        return f"pixels/{self.name}/zarr.json"

    def shard_name(self, number: int) -> str:
        """The file of a shard, relative to the store."""
        return f"pixels/{self.name}/c/{number}/0/0/0"

    def metadata(self, tasks: int, rows: int) -> bytes:
        """The zarr.json of an array of `tasks` shards with `rows` rows each."""
        return self._metadata(tasks, rows, self.typesize)

    def older_metadata(self, tasks: int, rows: int) -> bytes:
        """The same of a store whose chunks were compressed value by value."""
        return self._metadata(tasks, rows, self.numpy_dtype.itemsize)

    def _metadata(self, tasks: int, rows: int, typesize: int) -> bytes:
        compressor = (
            [{"name": "blosc", "configuration": {**_BLOSC, "typesize": typesize}}]
            if self.format == "zarr"
            else []
        )
        checksum = {"name": "crc32c"}
        sharding = {
            "chunk_shape": [1, *self.chunk_shape],
            "codecs": [_LITTLE_ENDIAN, *compressor, checksum],
            "index_codecs": [_LITTLE_ENDIAN, checksum],
            "index_location": "end",
        }
        shard_shape = [rows, self.chunks * self.bands_per_chunk, *self.shape[1:]]
        fields = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [tasks * rows, *self.shape],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _FILL[self.numpy_dtype.kind],
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["sample", "band", "row", "column"],
            "attributes": {
                "eo_jax": {
                    "band_difference": self.has_differences,
                    "bands_a_chunk": self.bands_per_chunk,
                }
            },
        }
        return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


# ------------------------------------------------------------------------------------------ writing


class ShardWriter:
    """Writes the pixel files of one shard, sample by sample, under temporary names until `finish`.

    A context manager: at its end, temporary files are removed.

    Attributes:
        chunk_crc32c: of each sample so far, the CRC-32C of each chunk.
    """

    def __init__(self, store: Path, number: int, format: str, rows: int):
        self.store, self.number, self.format, self.rows = store, number, format, rows
        self.chunk_crc32c: list[list[int]] = []
        self._files: dict[Kind, _OpenFile] = {}

    def put(self, sample: Sample) -> None:
        """Adds the pixels of a sample.

        Raises ValueError for pixels that a Zarr store cannot hold, OSError where the disk is full.
        """
        try:
            kind = Kind(self.format, sample.sensor, sample.pixels.dtype.name, sample.pixels.shape)
            index_bytes(kind, self.rows, _MAX_INDEX_BYTES)
        except ValueError as error:
            raise ValueError(f"sample {sample.id}: {error}") from error
        if kind not in self._files:
            temporary = files.temporary_beside(
                self.store / "shards" / f"{self.number:05d}.{kind.name}"
            )
            self._files[kind] = _OpenFile(temporary, self.store / kind.shard_name(self.number))
        file = self._files[kind]
        if len(file.index) == self.rows:
            raise ValueError(
                f"sample {sample.id}: shard {self.number} already has {self.rows} samples, the "
                "limit of this store"
            )
        self.chunk_crc32c.append(file.append_sample(_encode(sample.pixels, kind)))

    def finish(self) -> list[dict[str, Any]]:
        """Gives the files their names, and returns the manifest entry of each.

        An entry is {"array", "file", "samples", "bytes", "sha256"}.
        """
        return [
            self._finish(kind, self._files[kind])
            for kind in sorted(self._files, key=lambda kind: kind.name)
        ]

    def _finish(self, kind: Kind, file: _OpenFile) -> dict[str, Any]:
        samples = len(file.index)
        index = np.full((self.rows, kind.chunks, 2), _ABSENT, "<u8")
        index[:samples] = file.index
        file.append(_with_checksum(index.tobytes()))
        digest = files.sha256_file(file.temporary)
        with files.writing(file.final):
            file.final.parent.mkdir(parents=True, exist_ok=True)
            file.temporary.replace(file.final)
        return {
            "array": kind.name,
            "file": kind.shard_name(self.number),
            "samples": samples,
            "bytes": file.size,
            "sha256": digest,
        }

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *failure: object) -> None:
        for file in self._files.values():
            file.temporary.unlink(missing_ok=True)


@dataclass
class _OpenFile:
    """A file that grows under a temporary name.

    It is reopened for each chunk, since a shard may have as many kinds of pixels as samples.
    """

    temporary: Path
    final: Path
    index: list[list[tuple[int, int]]] = field(default_factory=list)  # byte ranges of each sample
    size: int = 0

    def append_sample(self, chunks: Iterator[bytes]) -> list[int]:
        """Appends the chunks of a sample, and returns their checksums."""
        byte_ranges, checksums = [], []
        for chunk in chunks:
            byte_ranges.append((self.size, len(chunk)))
            checksums.append(*_CRC.unpack_from(chunk, len(chunk) - CRC_BYTES))
            self.append(chunk)
        self.index.append(byte_ranges)
        return checksums

    def append(self, data: bytes) -> None:
        with files.writing(self.final), open(self.temporary, "ab" if self.size else "wb") as file:
            file.write(data)
        self.size += len(data)


def _encode(pixels: np.ndarray, kind: Kind) -> Iterator[bytes]:
    """The chunks of pixels [c, h, w]; the last one is zero-padded, as Zarr requires."""
    for first in range(0, kind.shape[0], kind.bands_per_chunk):
        bands = np.ascontiguousarray(pixels[first : first + kind.bands_per_chunk], kind.numpy_dtype)
        if kind.format == "zarr-raw":
            yield _with_checksum(bands.tobytes())
            continue
        chunk = np.zeros(kind.chunk_shape, kind.numpy_dtype)
        chunk[: len(bands)] = record.difference(bands)[0].view(kind.numpy_dtype)
        packed = numcodecs.blosc.compress(
            chunk.reshape(-1).view(f"V{kind.typesize}"),
            _BLOSC["cname"].encode(),
            _BLOSC["clevel"],
            numcodecs.blosc.BITSHUFFLE,
            _BLOSC["blocksize"],
        )
        yield _with_checksum(packed)


def _with_checksum(data: bytes) -> bytes:
    return data + _CRC.pack(google_crc32c.value(data))


# ------------------------------------------------------------------------------------------ reading


class Chunk(NamedTuple):
    """A chunk of a sample: its place in a file, and its CRC-32C by the index of the store.

    Attributes:
        offset: of its first byte.
        length: in bytes, with the checksum at its end.
        crc32c: None where the index, of an older version, has none.
    """

    offset: int
    length: int
    crc32c: int | None


def read_index(file: Path | str, kind: Kind, rows: int) -> np.ndarray:
    """uint64 [rows, chunks, 2], the byte range of every chunk of a shard file.

    Raises ValueError where the index is damaged, or has what the file cannot; OSError.
    """
    with open(file, "rb", buffering=0) as source:
        size = source.seek(0, 2)
        length = index_bytes(kind, rows, size)
        data = _read_checked(source, size - length, np.empty(length, np.uint8))
    return parse_index(data, kind, size)


def index_bytes(kind: Kind, rows: int, size: int) -> int:
    """Length of a shard index with its checksum.

    Raises ValueError where a file of `size` bytes is too short for it, or no index is so long.
    """
    length = rows * kind.chunks * 16 + CRC_BYTES
    if length > min(size, _MAX_INDEX_BYTES):
        raise ValueError(
            f"the index of {rows} samples in {kind.chunks} chunks has {length} bytes, expected at "
            f"most {min(size, _MAX_INDEX_BYTES)}"
        )
    return length


def parse_index(data: np.ndarray, kind: Kind, size: int) -> np.ndarray:
    """uint64 [rows, chunks, 2], the byte ranges in an index of a file of `size` bytes.

    Nothing is read and allocated later that was not checked here. Raises ValueError for a byte
    range that no chunk of this kind has, or that is beyond the end.
    """
    index = data.view("<u8").reshape(-1, kind.chunks, 2)
    compressed = kind.format == "zarr"
    least = CRC_BYTES + kind.chunk_bytes // (_MAX_RATIO if compressed else 1)
    most = CRC_BYTES + kind.chunk_bytes + (_BLOSC_OVERHEAD if compressed else 0)
    offset, length = index[..., 0], index[..., 1]
    fits = (length >= least) & (length <= min(most, size))
    fits &= offset <= np.uint64(size) - np.where(fits, length, 0)
    bad = ~fits & (offset != _ABSENT)
    if bad.any():
        offset, length = index[bad][0].tolist()
        raise ValueError(
            f"a chunk of {length} bytes from byte {offset} cannot be in a file of {size}: it has "
            f"{kind.chunk_bytes} before compression"
        )
    return index


def read_pixels(
    file: Path | str,
    kind: Kind,
    chunks: Sequence[Chunk],
    bands: Bands,
    rows: slice,
    columns: slice,
) -> np.ndarray:
    """Pixels [c', h', w'] of one sample, maybe a view of more.

    Args:
        file: the shard file.
        chunks: all of the sample, as the index of the shard has them.
        bands, rows, columns: the part to read. Only chunks with such bands are read.

    Raises:
        ValueError: the file is damaged, or a chunk is not the one that the index lists.
        IndexError: there is no such band.
        OSError: the file cannot be read.
    """
    chunk_of, band_of = np.divmod(np.arange(kind.shape[0])[bands], kind.bands_per_chunk)
    with open(file, "rb", buffering=0) as source:
        if kind.chunks == 1:
            return _read_bands(source, kind, chunks[0], kind.shape[0], rows, columns)[bands]
        sides = (
            len(range(side)[part])
            for side, part in zip(kind.shape[1:], (rows, columns), strict=True)
        )
        pixels = np.empty((len(band_of), *sides), kind.numpy_dtype)
        for number in np.unique(chunk_of).tolist():
            here = np.flatnonzero(chunk_of == number)
            read = _read_bands(source, kind, chunks[number], band_of[here].max() + 1, rows, columns)
            # Band by band: read[band_of[here]] would copy all of them twice.
            for to, band in zip(here, band_of[here], strict=True):
                pixels[to] = read[band]
    return pixels


def read_into(
    file: Path | str,
    kind: Kind,
    chunks: Sequence[Chunk],
    out: np.ndarray,
    rows: slice,
    columns: slice,
    put: Put,
) -> None:
    """Reads a part of one sample into `out` [c, h', w'] of the kind's dtype, chunk by chunk.

    `put` is the kind's `put_pixels`, or np.copyto for the numbers as they are stored. It uses only
    this thread's scratch memory. Other arguments and errors are those of `read_pixels`.
    """
    with open(file, "rb", buffering=0) as source:
        stored = (_read_stored(source, kind, chunk) for chunk in chunks)
        _put_chunks(out, kind, rows, columns, stored, put)


def copy_mapped(
    mapped: np.ndarray,
    kind: Kind,
    chunks: Sequence[Chunk],
    out: np.ndarray,
    rows: slice,
    columns: slice,
    put: Put,
) -> None:
    """The same from a memory-mapped shard file, whose checksums were verified before.

    They are compared with those that the index lists, but not computed. Raises ValueError.
    """
    stored = (_mapped_stored(mapped, kind, chunk) for chunk in chunks)
    _put_chunks(out, kind, rows, columns, stored, put)


def _put_chunks(
    out: np.ndarray,
    kind: Kind,
    rows: slice,
    columns: slice,
    stored: Iterable[np.ndarray],
    put: Put,
) -> None:
    for number, chunk in enumerate(stored):
        bands = out[number * kind.bands_per_chunk : (number + 1) * kind.bands_per_chunk]
        put(bands, chunk[: len(bands), rows, columns])


def map_shard(file: Path | str, size: int, kind: Kind, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(memory-mapped shard file, uint8 [size]; its index as of `read_index`, a view of the file).

    Raises ValueError, OSError.
    """
    mapped = _map_file(file, size)
    index = check_crc(mapped[size - index_bytes(kind, rows, size) :])
    return mapped, parse_index(index, kind, size)


def _map_file(file: Path | str, size: int) -> np.ndarray:
    """uint8 [size], the mapped file.

    Raises ValueError where it has another size: reading past its end would kill the process.
    """
    with open(file, "rb", buffering=0) as source:
        found = os.fstat(source.fileno()).st_size
        if found != size:
            raise ValueError(f"it has {found} bytes, the manifest says {size}")
        return np.frombuffer(mmap.mmap(source.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def _read_bands(
    source: BinaryIO, kind: Kind, chunk: Chunk, bands: int, rows: slice, columns: slice
) -> np.ndarray:
    """The first `bands` bands of a chunk [n, h', w']; differences after them are not undone."""
    stored = _read_stored(source, kind, chunk)[:bands]
    pixels = np.empty(stored[:, rows, columns].shape, kind.numpy_dtype)
    kind.put_pixels(pixels, stored[:, rows, columns])
    return pixels


def _read_stored(source: BinaryIO, kind: Kind, chunk: Chunk) -> np.ndarray:
    """A chunk as stored, its differences not undone, in this thread's scratch."""
    check_written(chunk)
    data = _read_checked(source, chunk.offset, _PACKED.take(chunk.length), chunk.crc32c)
    return _unpack(data, kind)


def _mapped_stored(mapped: np.ndarray, kind: Kind, chunk: Chunk) -> np.ndarray:
    """A chunk as stored, its differences not undone.

    It is in this thread's scratch, or, where it is not compressed, in the mapped file.
    """
    check_written(chunk)
    end = chunk.offset + chunk.length - CRC_BYTES
    if chunk.crc32c is not None:
        _check_listed(*_CRC.unpack_from(mapped, end), chunk.crc32c)
    return _unpack(mapped[chunk.offset : end], kind)


def _unpack(data: np.ndarray, kind: Kind) -> np.ndarray:
    chunk = _decompress(data, kind) if kind.format == "zarr" else data.view(kind.numpy_dtype)
    return chunk.reshape(kind.chunk_shape)


def check_written(chunk: Chunk) -> None:
    """Raises ValueError for a chunk that the index of its shard does not have."""
    if chunk.offset == _ABSENT:
        raise ValueError("its pixels were not written")


def _decompress(data: np.ndarray, kind: Kind) -> np.ndarray:
    """Checks first the lengths in the header, which Blosc itself would trust."""
    if len(data) < _BLOSC_HEADER.size:
        raise ValueError(f"a chunk of {len(data)} bytes is too short for Blosc")
    version, flags, before, after = _BLOSC_HEADER.unpack_from(data)
    if (before, after) != (kind.chunk_bytes, len(data)):
        raise ValueError(
            f"a chunk of {len(data)} bytes claims {after} bytes for {before} before compression, "
            f"expected {kind.chunk_bytes}"
        )
    if version != _BLOSC_VERSION or flags & ~_BLOSC_ANY != _BLOSC_FLAGS:
        raise ValueError("a chunk of an unknown kind, expected Blosc with bitshuffle and LZ4")
    chunk = _UNPACKED.take(kind.chunk_bytes)
    try:
        # Not numcodecs, whose wheels lack fast code for bitshuffle.
        blosc2.decompress2(data, dst=chunk, nthreads=1)
    except RuntimeError as error:
        raise ValueError(f"a chunk that Blosc cannot decompress ({error})") from error
    return chunk.view(kind.numpy_dtype)


def _read_checked(
    source: BinaryIO, offset: int, into: np.ndarray, listed: int | None = None
) -> np.ndarray:
    """uint8, bytes of a file without the checksum after them; `into` has room for both."""
    length = len(into)
    source.seek(offset)
    if length <= CRC_BYTES or source.readinto(into) != length:
        raise ValueError(f"{length} bytes from byte {offset} are not there")
    return check_crc(into, listed)


def check_crc(data: np.ndarray, listed: int | None = None) -> np.ndarray:
    """uint8, without the CRC-32C at its end.

    Raises ValueError where that does not match, or is not the one that the index of the store
    lists.
    """
    (checksum,) = _CRC.unpack_from(data, len(data) - CRC_BYTES)
    if google_crc32c.value(data[:-CRC_BYTES]) != checksum:
        raise ValueError("a checksum does not match")
    if listed is not None:
        _check_listed(checksum, listed)
    return data[:-CRC_BYTES]


def _check_listed(found: int, listed: int) -> None:
    if found != listed:
        raise ValueError(
            f"a checksum is {found:08x}, the index says {listed:08x}; {record.ANOTHER_FILE}"
        )
