"""manifest.json and index.npz: written last, read first, checked against their hashes."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import mmap
import struct
import zipfile
from pathlib import Path

import numpy as np

from eo_jax.data.store.files import StoreError
from eo_jax.data.store.remote import RemoteError, RemotePath

STORE_FORMAT = 1
NO_TIME = np.iinfo(np.int64).min  # `time` of a sample that has none
PIXEL_SPLIT = "pixel"  # `split` of a scene whose labels are split by pixel, see PIXEL_SPLITS
PIXEL_SPLITS = ("", "train", "val", "test")  # the codes in its label map `<name>.split`
_ROW_COLUMNS = (
    "id",
    "group",
    "split",
    "sensor",
    "shape",
    "dtype",
    "time",
    "lonlat",
    "nodata_share",
)
_COLUMNS = (*_ROW_COLUMNS, "shard", "row")
_CODES = ("group_code", "kind_code")  # absent from stores of older versions
# Local header of a file in a zip: lengths of its name and of the extra field before its content.
_LOCAL_HEADER = struct.Struct("<26x2H")


def content_sha256(manifest: dict) -> str:
    """SHA-256 of a manifest, which has the hash of every file, without its own `content_sha256`."""
    rest = {key: value for key, value in manifest.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def format_of(manifest: dict) -> str:
    """The format of the store, one of `reader.FORMATS` unless this eo_jax is too old for it."""
    return manifest.get("format", "array-record")  # the only one when manifests did not name it


def read_manifest(path: Path | RemotePath) -> dict:
    """The manifest of a store.

    Raises StoreError where it is absent, of another format, or changed since it was written;
    RemoteError.
    """
    file = path / "manifest.json"
    if isinstance(path, Path):
        _check_finished(path)
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["store_format"] != STORE_FORMAT:
            raise StoreError(
                f"{file}: store_format {manifest['store_format']}, this eo_jax reads "
                f"{STORE_FORMAT}; convert the archive again"
            )
        stated, actual = str(manifest["content_sha256"]), content_sha256(manifest)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); convert the archive again") from error
    if stated != actual:
        raise StoreError(
            f"{file}: content_sha256 is {stated[:12]}..., its content gives {actual[:12]}...: it "
            "was edited or damaged; convert again"
        )
    return manifest


def _check_finished(path: Path) -> None:
    if not path.is_dir():
        raise StoreError(
            f"{path}: no such store. `python -m data_prep convert --help` says how to make one."
        )
    if not (path / "manifest.json").is_file():
        raise StoreError(
            f"{path}: no manifest.json, so this is not a store or its conversion did not finish; "
            "run the same convert command again"
        )


# -------------------------------------------------------------------------------------------- index


def index_bytes(rows: list[list[dict]]) -> bytes:
    """The index.npz of rows as `writer.index_row` makes them, one list per shard."""
    flat, counts = list(itertools.chain.from_iterable(rows)), [len(shard) for shard in rows]
    columns = {name: np.array([row[name] for row in flat]) for name in _ROW_COLUMNS}
    columns["shard"] = np.repeat(np.arange(len(rows)), counts)
    columns["row"] = np.concatenate([np.arange(0), *map(np.arange, counts)])
    columns["group_code"], columns["kind_code"] = group_codes(columns), kind_codes(columns)
    buffer = io.BytesIO()
    np.savez(buffer, **columns)  # every member is dated 1980-01-01: equal rows give equal bytes
    return buffer.getvalue()


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


def read_index(path: Path | RemotePath, sha256: str) -> dict[str, np.ndarray]:
    """{column: array with one row per record}, read-only.

    A local index stays memory-mapped: processes share its 200 bytes per record, and unused columns
    cost nothing. Raises StoreError where it is absent or its SHA-256 is not the manifest's;
    RemoteError.
    """
    file = path / "index.npz"
    try:
        data = _map(file) if isinstance(file, Path) else file.read_checked(sha256)
    except RemoteError:
        raise
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; convert the archive again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(
            f"{file}: damaged, its SHA-256 is not the manifest's; convert the archive again"
        )
    try:
        columns = _columns(data)
        _check_codes(columns)
        return columns
    except (ValueError, KeyError, OverflowError, struct.error, zipfile.BadZipFile) as error:
        raise StoreError(f"{file}: not an index ({error}); convert the archive again") from error


def _map(file: Path) -> mmap.mmap | bytes:
    """A memory-mapped file. Stores replace files only by rename, which leaves a map intact."""
    with open(file, "rb") as source:
        empty = source.seek(0, io.SEEK_END) == 0  # cannot be mapped
        return b"" if empty else mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)


def _columns(data: mmap.mmap | bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz, without a copy.

    np.load would copy all of them and compute a CRC-32 of each besides the SHA-256 of the whole.
    """
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    with zipfile.ZipFile(source) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    names = [*_COLUMNS, *(name for name in _CODES if name in members)]
    return {name: _column(data, source, members[name]) for name in names}


def _column(
    data: mmap.mmap | bytes, source: mmap.mmap | io.BytesIO, member: zipfile.ZipInfo
) -> np.ndarray:
    """One array of an npz, a view of `data`; `source` is the same data as a file.

    Raises ValueError for anything that np.savez does not write.
    """
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed; expected it stored")
    source.seek(member.header_offset)
    name_and_extra = _LOCAL_HEADER.unpack(source.read(_LOCAL_HEADER.size))
    source.seek(sum(name_and_extra), io.SEEK_CUR)
    version = np.lib.format.read_magic(source)
    if version != (1, 0):
        raise ValueError(f"{member.filename} is of npy version {version}; expected (1, 0)")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(source)
    if is_fortran:
        raise ValueError(f"{member.filename} is in Fortran order; expected C order")
    # frombuffer refuses objects, and anything beyond the end.
    return np.frombuffer(data, dtype, math.prod(shape), source.tell()).reshape(shape)


def _check_codes(columns: dict[str, np.ndarray]) -> None:
    """Raises ValueError for impossible codes; without them, counts per code stay small."""
    samples = len(columns["id"])
    for name in _CODES:
        codes = columns.get(name, np.zeros(samples, np.int32))
        if (
            codes.dtype != np.int32
            or codes.shape != (samples,)
            or codes.min(initial=0) < 0
            or codes.max(initial=-1) >= samples
        ):
            raise ValueError(
                f"{name}: {codes.dtype} {list(codes.shape)}; expected int32 [{samples}] from 0 to "
                f"{samples - 1}"
            )
