"""index.npz: the table of a store, one row per record, checked against its hash and its schema."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eo_jax.data.store import record
from eo_jax.data.store.files import StoreError, regular_size
from eo_jax.data.store.manifest import NO_TIME
from eo_jax.data.store.remote import RemotePath

# Columns: the dtypes that numpy gives them, and the sides after the first, which has one row per
# record. Text is "U" of any length.
_REQUIRED = {
    "id": (("U",), ()),
    "group": (("U",), ()),
    "split": (("U",), ()),
    "sensor": (("U",), ()),
    "shape": (("<i8", "<i4"), (3,)),
    "dtype": (("U",), ()),
    "time": (("<i8",), ()),
    "lonlat": (("<f8",), (2,)),
    "nodata_share": (("<f8",), ()),
    "shard": (("<i8", "<i4"), ()),
    "row": (("<i8", "<i4"), ()),
}
# Absent from stores of older versions. `chunk_crc32c` is of the Zarr formats, one column per chunk.
_OPTIONAL = {
    "group_code": (("<i4",), ()),
    "kind_code": (("<i4",), ()),
    "record_crc32c": (("<u4",), ()),
    "chunk_crc32c": (("<u4",), (None,)),
}
_ROW_COLUMNS = tuple(name for name in _REQUIRED if name not in ("shard", "row"))
CHECKSUMS = ("record_crc32c", "chunk_crc32c")  # in the results of `writer.write_shard`, too

# The largest index: real ones have 200 to 300 bytes per record, more with long ids. One that comes
# over a network is held in memory.
_FIXED_BYTES, _RECORD_BYTES, _MAX_MAPPED, _MAX_FETCHED = 2**16, 2**13, 2**36, 2**32
_TIMES = (-62_135_596_800, 253_402_300_799)  # the years 1 to 9999, as datetime has them
_LARGEST_CHARACTER = 0x10FFFF
_MAX_MEMBERS = 100
_ROWS_AT_ONCE = 2**12  # of those compared, so that opening a store copies no column

# Local header of a file in a zip: signature, method, packed and unpacked size, lengths of name and
# extra field.
_LOCAL = struct.Struct("<4s4xH8xIIHH")
_ZIP64 = struct.Struct("<HHQQ")  # the extra field that np.savez adds: id, length and both sizes
_SIGNATURE, _END_SIGNATURE, _END_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22
_MAGIC = b"\x93NUMPY\x01\x00"
# What np.savez writes. Python's parser of such headers raises errors of many kinds.
_HEADER = re.compile(
    rb"\{'descr': '([<|][A-Za-z][0-9]{0,5})', 'fortran_order': (False|True), "
    rb"'shape': \(([0-9]{1,15}(?:, [0-9]{1,15}){0,2}),?\), \} *\n"
)


# ------------------------------------------------------------------------------------------ writing


def index_bytes(rows: Sequence[list[dict]], shards: Sequence[dict[str, Any]]) -> bytes:
    """The index.npz of a store.

    Args:
        rows: of each shard, those of `writer.index_row`.
        shards: of each shard, the result of `writer.write_shard`, which has its checksums.
    """
    flat, counts = list(itertools.chain.from_iterable(rows)), [len(shard) for shard in rows]
    columns = {name: np.array([row[name] for row in flat]) for name in _ROW_COLUMNS}
    columns["shard"] = np.repeat(np.arange(len(rows)), counts)
    columns["row"] = np.concatenate([np.arange(0), *map(np.arange, counts)])
    columns["group_code"], columns["kind_code"] = group_codes(columns), kind_codes(columns)
    records = itertools.chain.from_iterable(shard["record_crc32c"] for shard in shards)
    columns["record_crc32c"] = np.array(list(records), np.uint32)
    chunks = [sample for shard in shards for sample in shard.get("chunk_crc32c", ())]
    if chunks:
        columns["chunk_crc32c"] = _padded(chunks)
    buffer = io.BytesIO()
    np.savez(buffer, **columns)  # every member is dated 1980-01-01: equal rows give equal bytes
    return buffer.getvalue()


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """uint32 [samples, most chunks], 0 where a sample has fewer."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.uint32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def group_codes(index: dict[str, np.ndarray]) -> np.ndarray:
    """int32 [samples], the number of each sample's group among the sorted names.

    It is stored because sorting the names of a million samples takes half a second.
    """
    if "group_code" in index:
        return index["group_code"]
    return np.unique(index["group"], return_inverse=True)[1].astype(np.int32)


def kind_codes(index: dict[str, np.ndarray]) -> np.ndarray:
    """int32 [samples], the number of each sample's (sensor, dtype, shape), by first use."""
    if "kind_code" in index:
        return index["kind_code"]
    numbers: dict[tuple, int] = {}
    kinds = zip(
        index["sensor"].tolist(),
        index["dtype"].tolist(),
        map(tuple, index["shape"].tolist()),
        strict=True,
    )
    return np.array([numbers.setdefault(kind, len(numbers)) for kind in kinds], np.int32)


def kinds(index: dict[str, np.ndarray]) -> list[tuple[str, str, tuple[int, int, int]]]:
    """(sensor, dtype, shape [c, h, w]) of the pixels of each kind, by its number."""
    first = _first_of_kind(kind_codes(index))
    sensors, dtypes, shapes = (index[name][first].tolist() for name in ("sensor", "dtype", "shape"))
    return list(zip(sensors, dtypes, map(tuple, shapes), strict=True))


def _first_of_kind(codes: np.ndarray) -> np.ndarray:
    """int64 [kinds], the first sample of each kind. Raises ValueError where a number is skipped."""
    highest = np.maximum.accumulate(codes)  # ascending, as numbers count up by first use
    numbers = np.arange(highest[-1] + 1 if len(codes) else 0, dtype=codes.dtype)
    first = np.searchsorted(highest, numbers)
    if not np.array_equal(highest[first], numbers):
        raise ValueError("kind_code skips a number")
    return first


# ------------------------------------------------------------------------------------------ reading


def read_index(path: Path | RemotePath, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """{column: array with one row per record}, read-only.

    A local index stays memory-mapped: processes share its 200 bytes per record, and unused columns
    cost nothing. Raises StoreError where it is absent, its SHA-256 is not the manifest's, or it
    says what no index of this manifest does; RemoteError.
    """
    file, counts = path / "index.npz", [shard["samples"] for shard in manifest["shards"]]
    sha256, most = manifest["index_sha256"], _FIXED_BYTES + _RECORD_BYTES * sum(counts)
    data = (
        _map(file, min(most, _MAX_MAPPED))
        if isinstance(file, Path)
        else file.read_checked(sha256, min(most, _MAX_FETCHED))
    )
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(
            f"{file}: damaged, its SHA-256 is not the manifest's; convert the archive again"
        )
    try:
        columns = _columns(data)
        if len(columns["id"]) != sum(counts):
            raise ValueError(
                f"index has {len(columns['id'])} rows, the shards {sum(counts)} records"
            )
        if sum(counts):
            _check(columns, counts)
    except (ValueError, struct.error) as error:
        raise StoreError(f"{file}: not an index ({error}); convert the archive again") from error
    return columns


def _map(file: Path, most: int) -> mmap.mmap | bytes:
    """A memory-mapped file. Stores replace files only by rename, which leaves a map intact."""
    size = regular_size(file)
    if size > most:
        raise StoreError(
            f"{file}: has {size} bytes, expected at most {most} for the samples in the manifest; "
            "convert the archive again"
        )
    with open(file, "rb") as source:
        return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if size else b""


def _columns(data: mmap.mmap | bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz, without a copy. Raises ValueError for what np.savez does not write.

    np.load would copy all of them and compute a CRC-32 of each besides the SHA-256 of the whole.
    """
    found = {}
    for count, (name, offset, length) in enumerate(_members(data)):
        if count == _MAX_MEMBERS:
            raise ValueError(f"it has more than {_MAX_MEMBERS} columns")
        if name in found:
            raise ValueError(f"{name} occurs twice")
        if name in _REQUIRED or name in _OPTIONAL:
            found[name] = _column(data, name, offset, length)
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise ValueError(f"there is no column {missing[0]!r}")
    return found


class _Member(NamedTuple):
    """A file in a zip; without ".npy"."""

    name: str
    offset: int
    length: int


def _members(data: mmap.mmap | bytes) -> Iterator[_Member]:
    """The files of a zip, in order. Their table at the end says the same, and is not read."""
    at = 0
    while data[at : at + 4] == _SIGNATURE:
        _, method, packed, length, of_name, of_extra = _LOCAL.unpack_from(data, at)
        start = at + _LOCAL.size
        name = data[start : start + of_name].decode("ascii").removesuffix(".npy")
        if method:
            raise ValueError(f"{name} is compressed; expected it stored")
        if of_extra == _ZIP64.size:
            _, _, length, packed = _ZIP64.unpack_from(data, start + of_name)
        offset = start + of_name + of_extra
        if packed != length or offset + length > len(data):
            raise ValueError(f"{name} has {length} bytes, which the file does not")
        yield _Member(name, offset, length)
        at = offset + length
    if data[-_END_BYTES:][:4] != _END_SIGNATURE:
        raise ValueError(f"it is cut off, or has something else at byte {at}")


def _column(data: mmap.mmap | bytes, name: str, offset: int, length: int) -> np.ndarray:
    """One array of an npz, a view of `data`."""
    head = len(_MAGIC) + 2
    if data[offset : offset + len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{name} is not an array of npy version (1, 0)")
    (of_header,) = struct.unpack_from("<H", data, offset + len(_MAGIC))
    header = _HEADER.fullmatch(data[offset + head : offset + head + of_header])
    if header is None:
        raise ValueError(f"{name} has a header that numpy does not write")
    if header[2] != b"False":
        raise ValueError(f"{name} is in Fortran order; expected C order")
    dtypes, _ = {**_REQUIRED, **_OPTIONAL}[name]
    descr, shape = header[1].decode(), tuple(map(int, header[3].split(b", ")))
    is_text = descr.startswith("<U") and dtypes == ("U",)
    is_empty = (descr, shape) == ("<f8", (0,))  # in a store without samples
    if not (is_text or descr in dtypes or is_empty):
        raise ValueError(f"{name}: {descr} {list(shape)}; expected {' or '.join(dtypes)}")
    dtype = np.dtype(descr)
    if math.prod(shape) * dtype.itemsize != length - head - of_header:
        raise ValueError(f"{name}: {descr} {list(shape)} is not what its {length} bytes hold")
    return np.frombuffer(data, dtype, math.prod(shape), offset + head + of_header).reshape(shape)


# ----------------------------------------------------------------------------------------- checking


def _check(columns: dict[str, np.ndarray], counts: Sequence[int]) -> None:
    """Raises ValueError for values that no index of shards with so many samples has.

    Adds the kind_code that an older version did not store.
    """
    for name, column in columns.items():
        _check_shape(name, column, sum(counts))
        if column.dtype.kind == "U":
            _check_text(name, column)
    columns["kind_code"] = kind_codes(columns)
    for name in ("group_code", "kind_code"):
        if name in columns:
            _check_codes(name, columns[name])
    _check_places(columns, counts)
    _check_kinds(columns)
    first, last = _TIMES
    time, share = columns["time"], columns["nodata_share"]
    for name, inside, expected in (
        ("time", (time == NO_TIME) | ((time >= first) & (time <= last)), "the years 1 to 9999"),
        ("nodata_share", (share >= 0) & (share <= 1), "0 to 1"),
    ):
        if not inside.all():
            raise ValueError(f"{name}: a value is not in {expected}")


def _check_shape(name: str, column: np.ndarray, samples: int) -> None:
    _, sides = {**_REQUIRED, **_OPTIONAL}[name]
    expected = (samples, *(column.shape[-1] if side is None else side for side in sides))
    if column.shape != expected:
        raise ValueError(
            f"{name}: {column.dtype} {list(column.shape)}; expected {column.dtype} {list(expected)}"
        )


def _check_text(name: str, column: np.ndarray) -> None:
    if column.view(np.uint32).max() > _LARGEST_CHARACTER:
        raise ValueError(f"{name}: a value is not text")


def _check_codes(name: str, codes: np.ndarray) -> None:
    """Without impossible codes, counts per code stay small."""
    if codes.min() < 0 or codes.max() >= len(codes):
        raise ValueError(
            f"{name}: {codes.dtype} {list(codes.shape)}; expected int32 [{len(codes)}] from 0 to "
            f"{len(codes) - 1}"
        )


def _check_places(columns: dict[str, np.ndarray], counts: Sequence[int]) -> None:
    first = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    shard, row = np.repeat(np.arange(len(counts)), counts), np.arange(len(first)) - first
    for name, expected in (("shard", shard), ("row", row)):
        if not np.array_equal(columns[name], expected):
            raise ValueError(f"{name}: expected shard after shard, and in each the rows from 0")


def _check_kinds(columns: dict[str, np.ndarray]) -> None:
    """Checks the pixels of each kind, and that all samples of a kind have them."""
    for sensor, dtype, shape in kinds(columns):
        record.check_array(f"pixels of {sensor:.100}", dtype, shape)
        if min(shape) < 1:
            raise ValueError(f"shape: {list(shape)}; expected [c, h, w], each at least 1")
    codes = columns["kind_code"]
    first = _first_of_kind(codes)
    for name in ("sensor", "dtype", "shape"):
        words = columns[name].view(np.uint32).reshape(len(codes), -1)  # compares faster than text
        of_kind = words[first]
        for start in range(0, len(codes), _ROWS_AT_ONCE):
            here = slice(start, start + _ROWS_AT_ONCE)
            if not np.array_equal(words[here], of_kind.take(codes[here], 0)):
                raise ValueError(f"kind_code: samples of one kind differ in {name}")
