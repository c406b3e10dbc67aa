"""The one codec: a Sample as bytes and back, lossless, self-describing and checksummed.

Layout of a record, format version 1, little-endian:

    "EOJX" | uint16 version | uint32 length of header | header | array payloads in header order |
    uint32 CRC-32C of everything before it

The header is JSON: the fields of `schema.Sample` and, for each array, name, dtype, shape, filter
and payload length. A payload is one Blosc2 chunk (bitshuffle, LZ4). Integer cubes are band
differences: band k is stored as its difference to band k - 1 modulo 2^bits, which raises the
compression ratio of spectra (real EnMAP: from 1.4 to 2.1) and takes a third of a millisecond per
patch to undo, unless a device does it. Where a store keeps pixels in separate files, the header
still states their dtype and shape; the filter is "elsewhere" and the payload empty.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import blosc2
import google_crc32c
import numpy as np

from eo_jax.data.store.buffers import Scratch
from eo_jax.schema import Sample

FORMAT_VERSION = 1
_MAGIC = b"EOJX"
_PREFIX = struct.Struct("<4sHI")
_CHECKSUM = struct.Struct("<I")
DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
_BYTES = {name: np.dtype(name).itemsize for name in DTYPES}
_FILTERS = ("none", "band_difference", "elsewhere")
# A record that claims more is damaged or hostile: the largest real one (a 1000 x 1000 tile of 224
# int16 bands) has 0.45 GB.
_MAX_ARRAY_BYTES = 2**31 - 2**16
MAX_AXES = 8
MAX_PATCH_LABEL = 2**22  # values of a label or mask that is not a map of the pixels
# Labels and masks together: sixteen bytes per byte of pixels, or this, whichever is more.
_MAX_OTHER_BYTES = 2**26
_OTHER_PER_PIXEL_BYTE = 16
_MAX_HEADER_BYTES = 2**20
_PLAIN_FIELDS = {
    "sensor": str,
    "id": str,
    "group": str,
    "product": str | None,
    "time": int | None,
    "lonlat": list | None,
    "crs": str | None,
    "affine": list | None,
    "gsd_m": int | float | None,
}

# Bytes that bitshuffle takes as one value, where values have 2: 1.4 ms per patch instead of 2.2.
# Blosc's fast code is for multiples of 4 bytes. Blosc 1 splits blocks of values of up to 16 bytes,
# which then compress less, and shuffles no block that is not a multiple of 8 values.
_WIDE = 32
# Fits the second-level cache. On real EnMAP a little smaller and 10 % faster than Blosc2's choice.
_BLOCK_BYTES = 128 * 1024
_BANDS_AT_ONCE = 32  # of a patch of 128 x 128 pixels: these fit that cache, too

# Header of a Blosc2 chunk: flags, bytes of a value, bytes before compression, of a block and after
# compression, filters, more flags.
_CHUNK = struct.Struct("<2xBB3I6s9xB")
_MAX_BLOCK_BYTES = 2**24  # Blosc2 takes some of this memory
_STORED, _LZ4 = 0x02, 1
_PLAIN, _ZEROS = 0x00, 0x10  # the second flags: nothing special, or one run of zeros
_KNOWN_FILTERS = {0, blosc2.Filter.BITSHUFFLE.value}

_SCRATCH, _RESIDUAL = Scratch(), Scratch()

# The callers' threads decode in parallel, each in one thread of Blosc2.
blosc2.set_releasegil(True)


# What to do about a file that is intact and not the one that belongs there.
ANOTHER_FILE = (
    "the file is of another shard or store, as a half-finished copy leaves it: copy it again, or "
    "convert the archive again"
)


class RecordError(ValueError):
    """A record that cannot be decoded; the message names it."""


class Listed(NamedTuple):
    """What the index says of a record."""

    id: str
    sensor: str
    dtype: str
    shape: tuple[int, ...]


def encode(sample: Sample) -> bytes:
    """The record of a Sample. Raises ValueError for dtypes and sizes that the format excludes."""
    return _record(sample, [_pack(sample, name, array) for name, array in _named_arrays(sample)])


def encode_without_pixels(sample: Sample) -> bytes:
    """The record of a Sample whose pixels are stored elsewhere; `decode` needs them as an argument.

    Raises ValueError as `encode`.
    """
    (_, pixels), *others = _named_arrays(sample)
    check_array(f"sample {sample.id}: pixels", pixels.dtype.name, pixels.shape)
    elsewhere = _entry("pixels", pixels, "elsewhere", b"")
    return _record(
        sample, [(elsewhere, b""), *(_pack(sample, name, array) for name, array in others)]
    )


def _pack(sample: Sample, name: str, array: np.ndarray) -> tuple[dict[str, Any], bytes]:
    check_array(f"sample {sample.id}: {name}", array.dtype.name, array.shape)
    filtered, filter_name = difference(array)
    payload = _compress(filtered)
    return _entry(name, array, filter_name, payload), payload


def _entry(name: str, array: np.ndarray, filter_name: str, payload: bytes) -> dict[str, Any]:
    """The header's entry of an array."""
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": array.shape,
        "filter": filter_name,
        "bytes": len(payload),
    }


def check_array(name: str, dtype: str, shape: Sequence[int]) -> None:
    """Raises ValueError, beginning with `name`, for a dtype or size that a store cannot hold."""
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    size = math.prod(shape) * _BYTES[dtype]
    if size > _MAX_ARRAY_BYTES:
        raise ValueError(
            f"{name} has {size} bytes, the format holds {_MAX_ARRAY_BYTES}; cut it into tiles"
        )


def _record(sample: Sample, arrays: list[tuple[dict[str, Any], bytes]]) -> bytes:
    fields: dict[str, Any] = {field: getattr(sample, field) for field in _PLAIN_FIELDS}
    if sample.wavelengths_nm is not None:
        fields["wavelengths_nm"] = [float(nm) for nm in sample.wavelengths_nm]
    entries, payloads = zip(*arrays, strict=True)
    header = json.dumps(
        {**fields, "arrays": entries}, sort_keys=True, separators=(",", ":"), default=_plain_number
    ).encode()
    try:
        _check_length(header)
        _check_entries(entries, sum(map(len, payloads)))
    except ValueError as error:  # what nobody could read
        raise ValueError(f"sample {sample.id}: {error}") from error
    parts = [_PREFIX.pack(_MAGIC, FORMAT_VERSION, len(header)), header, *payloads]
    # Part by part, so that megabytes are joined only once.
    checksum = functools.reduce(google_crc32c.extend, parts, 0)
    return b"".join([*parts, _CHECKSUM.pack(checksum)])


def _plain_number(value: Any) -> Any:
    """A numpy scalar as a Python number, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record's header cannot hold {value!r}; give plain Python numbers and text")


def checksum(data: bytes) -> int:
    """The CRC-32C at the end of a record; decoding compares it with the rest.

    Raises ValueError for less than a checksum.
    """
    if len(data) < _CHECKSUM.size:
        raise ValueError(f"{len(data)} bytes are too few for a record")
    return _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)[0]


def decode(
    data: bytes, name: str, pixels: np.ndarray | None = None, listed: Listed | None = None
) -> Sample:
    """The Sample of a record. Raises RecordError, beginning with `name`, unless it is intact.

    Args:
        data: the record.
        name: of the record, for errors.
        pixels: [c, h, w], of the dtype and shape that the record's header states; for a record of
            `encode_without_pixels`, and no other.
        listed: what the record has to be; None for any.
    """
    header, offset = _read_header(data, name, listed)
    arrays = {}
    for entry in header["arrays"]:
        if entry["name"] == "pixels":
            _check_elsewhere(entry, pixels, name)
        if entry["filter"] == "elsewhere":
            arrays["pixels"] = pixels
            continue
        arrays[entry["name"]] = _decompress(
            memoryview(data)[offset : offset + entry["bytes"]], entry, name
        )
        offset += entry["bytes"]
    fields = {field: header[field] for field in _PLAIN_FIELDS}
    for field in ("lonlat", "affine"):
        fields[field] = None if fields[field] is None else tuple(fields[field])
    nm = header.get("wavelengths_nm")
    return Sample(
        pixels=arrays["pixels"],
        wavelengths_nm=None if nm is None else np.array(nm, np.float64),
        labels={
            key.removeprefix("labels/"): value
            for key, value in arrays.items()
            if key.startswith("labels/")
        },
        masks={
            key.removeprefix("masks/"): value
            for key, value in arrays.items()
            if key.startswith("masks/")
        },
        **fields,
    )


def decode_pixels(
    data: bytes, name: str, listed: Listed, out: np.ndarray, rows: slice, columns: slice
) -> None:
    """Decodes a part of a record's pixels into `out` [c, h', w'], using only this thread's scratch.

    Raises RecordError as `decode`.
    """
    stored, filter_name = _stored_pixels(data, name, listed)
    put = put_sums if filter_name == "band_difference" else np.copyto
    put(out, stored[:, rows, columns])


def decode_differences(
    data: bytes, name: str, listed: Listed, out: np.ndarray, rows: slice, columns: slice
) -> None:
    """Decodes the differences of a part's integers over all bands; else as `decode_pixels`."""
    stored, filter_name = _stored_pixels(data, name, listed)
    np.copyto(out, stored[:, rows, columns])
    if filter_name != "band_difference":
        words = _words(out)
        words[1:] -= words[:-1].copy()


def _stored_pixels(data: bytes, name: str, listed: Listed) -> tuple[np.ndarray, str]:
    """(pixels of a record, their filter not undone, in this thread's scratch; that filter)."""
    header, offset = _read_header(data, name, listed)
    for entry in header["arrays"]:
        if entry["name"] == "pixels":
            break
        offset += entry["bytes"]
    _check_own_pixels(entry, name)
    payload = memoryview(data)[offset : offset + entry["bytes"]]
    if _check_payload(payload, entry, name) == _ZEROS:
        return np.broadcast_to(np.zeros((), entry["dtype"]), entry["shape"]), entry["filter"]
    return _inflate(payload, entry, name, _SCRATCH.take), entry["filter"]


def decode_labels(data: bytes, name: str, listed: Listed) -> dict[str, np.ndarray]:
    """The labels of a record, without its other arrays. Raises RecordError as `decode`."""
    header, offset = _read_header(data, name, listed)
    labels = {}
    for entry in header["arrays"]:
        if entry["name"].startswith("labels/"):
            labels[entry["name"].removeprefix("labels/")] = _decompress(
                memoryview(data)[offset : offset + entry["bytes"]], entry, name
            )
        offset += entry["bytes"]
    return labels


def _check_elsewhere(entry: dict, pixels: np.ndarray | None, name: str) -> None:
    stated = f"{entry['dtype']} {list(entry['shape'])}"
    expected = stated if entry["filter"] == "elsewhere" else "none"
    found = "none" if pixels is None else f"{pixels.dtype.name} {list(pixels.shape)}"
    if found != expected:
        raise RecordError(
            f"{name}: pixels from the store's pixel files: expected {expected} by the record's "
            f"header, found {found}; convert its shard again"
        )


def _check_own_pixels(entry: dict, name: str) -> None:
    if entry["filter"] == "elsewhere" or len(entry["shape"]) != 3:
        found = f"{entry['dtype']} {entry['shape']}, filter {entry['filter']!r}"
        raise RecordError(
            f"{name}: the record's header says that its pixels are {found}; expected [c, h, w] in "
            "the record; convert its shard again"
        )


def _named_arrays(sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    yield "pixels", sample.pixels
    for name, array in sorted(sample.labels.items()):
        yield f"labels/{name}", np.asarray(array)
    for name, array in sorted(sample.masks.items()):
        yield f"masks/{name}", np.asarray(array)


def difference(array: np.ndarray) -> tuple[np.ndarray, str]:
    """(array to compress, contiguous and little-endian; name of its filter).

    Integers [c, h, w] become band differences, in memory that the thread's next call reuses: fresh
    pages for every patch would cost as much as the difference itself.
    """
    array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    if array.ndim != 3 or array.dtype.kind not in "iu":
        return array, "none"
    # Unsigned, so that the difference wraps and the sum wraps back.
    words = _words(array)
    residual = _RESIDUAL.take(words.nbytes).view(words.dtype).reshape(words.shape)
    residual[:1] = words[:1]
    np.subtract(words[1:], words[:-1], out=residual[1:])
    return residual, "band_difference"


def undo_difference(residual: np.ndarray) -> None:
    """Turns unsigned band differences [c, h, w] back into bands, in place."""
    # One addition per band: ten times faster than np.cumsum over the first axis.
    for before, band in itertools.pairwise(residual):
        np.add(band, before, out=band)


def put_sums(out: np.ndarray, differences: np.ndarray) -> None:
    """Writes the integers that band differences [c, h, w] stand for into `out`, of that shape."""
    for first in range(0, len(out), _BANDS_AT_ONCE):
        bands = slice(first, first + _BANDS_AT_ONCE)
        # Copied first, since `out` has no gaps: faster than adding what a crop left of each row.
        np.copyto(out[bands], differences[bands])
        undo_difference(_words(out[max(first - 1, 0) : bands.stop]))


def _words(array: np.ndarray) -> np.ndarray:
    """The integers as unsigned ones, whose differences and sums wrap around."""
    return array.view(f"u{array.itemsize}")


def _compress(array: np.ndarray) -> bytes:
    if array.size == 0:
        return b""
    return blosc2.compress2(
        array,
        codec=blosc2.Codec.LZ4,
        clevel=9,
        filters=[blosc2.Filter.BITSHUFFLE],
        typesize=shuffle_width(array.itemsize, array.nbytes),
        blocksize=_BLOCK_BYTES,
        nthreads=1,  # the converter runs one process per core; threads would not change a byte
    )


def shuffle_width(itemsize: int, size: int) -> int:
    """Bytes that bitshuffle takes as one value, in a chunk of `size` bytes."""
    return _WIDE if itemsize == 2 and size % (8 * _WIDE) == 0 else itemsize


def _decompress(payload: memoryview, entry: dict, name: str) -> np.ndarray:
    if _check_payload(payload, entry, name) == _ZEROS:
        return _zeros(entry, name)
    out = _inflate(payload, entry, name, functools.partial(np.empty, dtype=np.uint8))
    if entry["filter"] == "band_difference":
        undo_difference(_words(out))
    return out


def _zeros(entry: dict, name: str) -> np.ndarray:
    """Zeros, or no values, whatever the filter: a payload of no size, which takes no memory."""
    try:
        return np.zeros(entry["shape"], entry["dtype"])
    except MemoryError as error:
        raise _too_large(entry, name) from error


def _too_large(entry: dict, name: str) -> RecordError:
    size = f"{entry['dtype']} {entry['shape']}"
    return RecordError(f"{name}: array {entry['name']!r} of {size} does not fit into the memory")


def _check_payload(payload: memoryview, entry: dict, name: str) -> int:
    """_ZEROS where the array has only zeros or no values, else _PLAIN.

    Raises RecordError, before anything is allocated, for a chunk that is not `_compress`ed: Blosc2
    would load a library for another codec, or leave the memory of the array as it was.
    """
    expected = _size(entry)
    if expected == 0:
        return _ZEROS
    wrong = _wrong_chunk(payload, expected, _BYTES[entry["dtype"]])
    if wrong:
        raise RecordError(
            f"{name}: array {entry['name']!r} of {entry['dtype']} {entry['shape']}: {wrong}; "
            "convert its shard again"
        )
    return payload[_CHUNK.size - 1]


def _wrong_chunk(payload: memoryview, expected: int, itemsize: int) -> str:
    """What is wrong with the header of a chunk of `expected` bytes before compression, or ""."""
    if len(payload) < _CHUNK.size:
        return f"{len(payload)} bytes are too few for a chunk"
    flags, width, before, block, after, filters, special = _CHUNK.unpack_from(payload)
    if before != expected or after != len(payload):
        return f"a chunk of {after} bytes for {before}, expected {len(payload)} for {expected}"
    is_known = flags & _STORED or flags >> 5 == _LZ4
    if not (is_known and set(filters) <= _KNOWN_FILTERS and special in (_PLAIN, _ZEROS)):
        return "a chunk of an unknown kind, expected bitshuffle and LZ4"
    # Older records have the values themselves.
    is_known = width in (itemsize, shuffle_width(itemsize, expected))
    if not is_known or not 0 < block <= _MAX_BLOCK_BYTES:
        return f"a chunk of blocks of {block} bytes and values of {width}"
    return ""


def _inflate(
    payload: memoryview, entry: dict, name: str, allocate: Callable[[int], np.ndarray]
) -> np.ndarray:
    """The values of a checked payload, its filter not undone."""
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    try:
        out = allocate(_size(entry)).view(dtype).reshape(shape)
        blosc2.decompress2(payload, dst=out, nthreads=1)
    except MemoryError as error:
        raise _too_large(entry, name) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise RecordError(
            f"{name}: array {entry['name']!r} cannot be decompressed ({error}); convert its shard "
            "again"
        ) from error
    return out


def _read_header(data: bytes, name: str, listed: Listed | None) -> tuple[dict, int]:
    """The checked header of a record and the offset of the first payload."""
    damaged = (
        f"{name}: record is damaged ({{}}); run `python -m data_prep verify` on the store, then "
        "convert its shard again"
    )
    if len(data) < _PREFIX.size + _CHECKSUM.size:
        raise RecordError(damaged.format(f"{len(data)} bytes are too few"))
    magic, version, length = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise RecordError(damaged.format(f"it begins with {magic!r}, expected {_MAGIC!r}"))
    (checksum,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
    # As an array, since a slice of bytes would be a copy.
    if google_crc32c.value(np.frombuffer(data, np.uint8)[: -_CHECKSUM.size]) != checksum:
        raise RecordError(damaged.format("its checksum does not match"))
    if version != FORMAT_VERSION:
        raise RecordError(
            f"{name}: record format {version}, this eo_jax reads {FORMAT_VERSION}; convert the "
            "archive again"
        )
    offset = _PREFIX.size + length
    try:
        _check_length(data[_PREFIX.size : offset])
        header = json.loads(data[_PREFIX.size : offset])
        _check_fields(header)
        _check_entries(header["arrays"], len(data) - _CHECKSUM.size - offset)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(damaged.format(f"header: {error}")) from error
    _check_listed(header, name, listed)
    return header, offset


def _check_listed(header: dict, name: str, listed: Listed | None) -> None:
    """Raises RecordError where the index lists another record here."""
    if listed is None:
        return
    pixels = next(entry for entry in header["arrays"] if entry["name"] == "pixels")
    found = Listed(header["id"], header["sensor"], pixels["dtype"], tuple(pixels["shape"]))
    if found == listed:
        return
    pairs = zip(Listed._fields, found, listed, strict=True)
    field, there, here = next(pair for pair in pairs if pair[1] != pair[2])
    raise RecordError(
        f"{name}: the record's {field} is {there!r:.200}, the index says {here!r:.200}; "
        f"{ANOTHER_FILE}"
    )


def _check_length(header: bytes) -> None:
    if len(header) > _MAX_HEADER_BYTES:
        raise ValueError(f"it has {len(header)} bytes, expected at most {_MAX_HEADER_BYTES}")


def _check_fields(header: dict) -> None:
    for field, kind in _PLAIN_FIELDS.items():
        if not isinstance(header[field], kind):
            raise ValueError(f"{field} is {header[field]!r:.100}")
    for field, length in (("lonlat", 2), ("affine", 6), ("wavelengths_nm", None)):
        values = header.get(field)
        if values is not None and (
            not isinstance(values, list)
            or len(values) != (length or len(values))
            or not all(map(_is_number, values))
        ):
            raise ValueError(f"{field} is {values!r:.100}")


def _is_number(value: Any) -> bool:
    """Whether numpy can hold it; NaN and infinity count."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _check_entries(entries: Sequence[dict], available: int) -> None:
    """Checks sizes before anything is allocated: a valid checksum does not make input trusted."""
    for entry in entries:
        _check_entry(entry)
    if sum(entry["bytes"] for entry in entries) != available:
        raise ValueError(f"payload lengths do not add up to the {available} bytes there are")
    others = {entry["name"]: entry for entry in entries}
    if len(others) != len(entries):
        raise ValueError("two arrays have the same name")
    if "pixels" not in others:
        raise ValueError("no array named 'pixels'")
    _check_others(others.pop("pixels"), others.values())


def _check_others(pixels: dict, others: Iterable[dict]) -> None:
    """Checks that labels and masks are maps of the pixels, or small, and not too many."""
    total, most = 0, max(_MAX_OTHER_BYTES, _OTHER_PER_PIXEL_BYTE * _size(pixels))
    for entry in others:
        total += _size(entry)
        is_map = list(entry["shape"]) == list(pixels["shape"][1:])
        if not is_map and math.prod(entry["shape"]) > MAX_PATCH_LABEL:
            raise ValueError(
                f"array {entry['name']!r:.100} of shape {entry['shape']} is not a map of pixels of "
                f"shape {pixels['shape']}, and has more than {MAX_PATCH_LABEL} values"
            )
    if total > most:
        raise ValueError(
            f"labels and masks have {total} bytes, with pixels of {_size(pixels)} at most {most}"
        )


def _size(entry: dict) -> int:
    return math.prod(entry["shape"]) * _BYTES[entry["dtype"]]


def _check_entry(entry: dict) -> None:
    name, shape, size = entry["name"], entry["shape"], entry["bytes"]
    if not isinstance(name, str) or not all(
        isinstance(number, int) and number >= 0 for number in (*shape, size)
    ):
        raise ValueError(f"array {name!r:.100} claims shape {shape!r:.100} in {size!r:.100} bytes")
    if len(shape) > MAX_AXES:
        raise ValueError(f"array {name!r:.100} has {len(shape)} axes, expected at most {MAX_AXES}")
    if entry["dtype"] not in DTYPES or entry["filter"] not in _FILTERS:
        raise ValueError(
            f"array {name!r:.100} has dtype {entry['dtype']!r:.100}, filter "
            f"{entry['filter']!r:.100}"
        )
    if entry["filter"] == "elsewhere" and (name != "pixels" or size):
        raise ValueError(
            f"array {name!r:.100} of {size} bytes has filter 'elsewhere', which is for pixels and "
            "has no payload"
        )
    if entry["filter"] == "band_difference" and len(shape) != 3:
        raise ValueError(
            f"array {name!r:.100} of shape {shape} has filter 'band_difference', which takes "
            "[c, h, w]"
        )
    elements = math.prod(max(side, 1) for side in shape)
    if elements * _BYTES[entry["dtype"]] > _MAX_ARRAY_BYTES:
        raise ValueError(f"array {name!r:.100} claims shape {shape}")
