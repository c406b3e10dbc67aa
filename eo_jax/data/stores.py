"""A store on disk: shards of records, one index, one manifest; written once, then only read.

STORE/manifest.json                      what is in it, and the SHA-256 of everything else
STORE/index.npz                          one row a record: id, group, split, shard, row, sensor, shape, dtype, time, lonlat, no-data share
STORE/shards/00000.array_record ...      the records, see record.py
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from eo_jax.data import record
from eo_jax.schema import Sample

STORE_FORMAT = 1
_INDEX_COLUMNS = ("id", "group", "split", "shard", "row", "sensor", "shape", "dtype", "time", "lonlat", "nodata_share")
_NO_TIME = np.iinfo(np.int64).min


class StoreError(ValueError):
    """A store that is missing, unfinished or damaged; the message says what to do."""


def open_store(path: str | os.PathLike) -> Store:
    """Opens a store for reading. Raises StoreError where it is absent, unfinished, of another format, or not what its manifest says."""
    return Store(Path(path))


class Store(Sequence[Sample]):
    """A read-only sequence of Samples. Threads may share it; a forked or spawned process opens its own readers.

    Attributes:
        manifest: the parsed manifest.json.
        index: {column: array of one row a record}; see the module docstring.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest = _read_manifest(path)
        self.index = _read_index(path, self.manifest["index_sha256"])
        counts = [shard["samples"] for shard in self.manifest["shards"]]
        self._first_of_shard = np.cumsum([0, *counts]).tolist()
        if len(self.index["id"]) != self._first_of_shard[-1]:
            raise StoreError(f"{path}: index has {len(self.index['id'])} rows, the shards {self._first_of_shard[-1]} records; convert again")
        for shard in self.manifest["shards"]:
            _check_size(path / shard["file"], shard["bytes"])
        self._open_readers()

    def __len__(self) -> int:
        return self._first_of_shard[-1]

    def __getitem__(self, i: int) -> Sample:
        return record.decode(self.read(i), self.record_name(i))

    def read(self, i: int) -> bytes:
        """The bytes of record i, not yet decoded. Raises IndexError, or RecordError where the shard is damaged there."""
        shard, row = self._locate(i)
        try:
            return self._reader(shard).read([row])[0]
        except (RuntimeError, OSError, IndexError) as error:
            raise record.RecordError(f"{self.record_name(i)}: cannot be read ({error}); run `python -m data_prep verify {self.path}`") from error

    def record_name(self, i: int) -> str:
        """What errors call record i: store, shard, row and id."""
        shard, row = self._locate(i)
        return f"{self.path}/{self.manifest['shards'][shard]['file']} record {row} (id {self.index['id'][self._wrap(i)]})"

    @property
    def content_hash(self) -> str:
        """SHA-256 over manifest, index and shards: the identity that checkpoints cite."""
        return self.manifest["content_sha256"]

    def _wrap(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.path}: sample {i} of {len(self)}")
        return i % len(self)

    def _locate(self, i: int) -> tuple[int, int]:
        i = self._wrap(i)
        shard = bisect.bisect_right(self._first_of_shard, i) - 1
        return shard, i - self._first_of_shard[shard]

    def _open_readers(self) -> None:
        self._readers: dict[tuple[int, int], ArrayRecordReader] = {}

    def _reader(self, shard: int) -> ArrayRecordReader:
        key = (os.getpid(), shard)  # a reader does not survive a fork
        if key not in self._readers:  # no lock, which a fork could copy while it is held: two threads may open a shard, one reader is kept
            self._readers.setdefault(key, _open_shard(self.path / self.manifest["shards"][shard]["file"]))
        return self._readers[key]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_readers()


# ---------------------------------------------------------------------------------------------------------------------- writing


def index_row(sample: Sample, split: str, nodata_share: float) -> dict[str, Any]:
    """What the index says of one sample; shard and row are added when the store is finished."""
    return {
        "id": sample.id,
        "group": sample.group,
        "split": split,
        "sensor": sample.sensor,
        "shape": list(sample.pixels.shape),
        "dtype": sample.pixels.dtype.name,
        "time": _NO_TIME if sample.time is None else sample.time,
        "lonlat": [float("nan")] * 2 if sample.lonlat is None else list(sample.lonlat),
        "nodata_share": nodata_share,
    }


def write_shard(path: Path, records: Iterable[bytes]) -> dict[str, Any]:
    """Writes records to `path` under a temporary name, then renames. Returns {"samples", "bytes", "sha256"}; leaves nothing behind on failure."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        samples = _write_records(temporary, records, path)
        digest = sha256_file(temporary)
        size = temporary.stat().st_size
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"samples": samples, "bytes": size, "sha256": digest}


def _write_records(temporary: Path, records: Iterable[bytes], path: Path) -> int:
    """Number of records written. What ArrayRecord itself raises becomes an OSError about `path`; errors of the iterator pass through."""

    def checked(call: Callable, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except RuntimeError as error:  # a full disk, too
            raise OSError(f"{path}: cannot be written ({error}). Free space on that disk and run the same command again.") from error

    # Random access wants one record a group; the payloads are compressed already.
    writer = checked(ArrayRecordWriter, str(temporary), "group_size:1,uncompressed")
    samples = 0
    try:
        for data in records:
            checked(writer.write, data)
            samples += 1
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is the one to tell
            writer.close()
        raise
    checked(writer.close)
    return samples


def finish_store(path: Path, shards: list[dict], rows: list[list[dict]], about: dict) -> None:
    """Writes index and manifest, the manifest last: a store without one is unfinished.

    Args:
        shards: {"file", "samples", "bytes", "sha256"} each, in order.
        rows: for each shard, `index_row` of each record, in order.
        about: archive, sensors, splits, labels, statistics; goes into the manifest as it is.
    """
    flat = [{**row, "shard": s, "row": r} for s, shard_rows in enumerate(rows) for r, row in enumerate(shard_rows)]
    index = _index_bytes(flat)
    write_atomically(path / "index.npz", index)
    manifest = {"store_format": STORE_FORMAT, "record_format": record.FORMAT_VERSION, **about, "samples": len(flat), "shards": shards}
    manifest["index_sha256"] = hashlib.sha256(index).hexdigest()
    manifest = json.loads(json.dumps(manifest))  # what a reader will see: text keys
    manifest["content_sha256"] = content_sha256(manifest)
    write_atomically(path / "manifest.json", (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


def content_sha256(manifest: dict) -> str:
    """SHA-256 of a manifest without its own `content_sha256`; the manifest names the hash of every other file."""
    rest = {key: value for key, value in manifest.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name in the same folder, then renames: readers see the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk is reported without a name
        raise OSError(
            error.errno, f"{error.strerror}: cannot be written; mend that (free space?), then run the same command again", str(path)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------- reading


def _read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if not path.is_dir():
        raise StoreError(f"{path}: no such store. `python -m data_prep convert --help` says how to make one.")
    if not file.is_file():
        raise StoreError(f"{path}: no manifest.json, so this is no store or its conversion did not finish; run the same convert command again")
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["store_format"] != STORE_FORMAT:
            raise StoreError(f"{file}: store_format {manifest['store_format']}, this eo_jax reads {STORE_FORMAT}; convert the archive again")
        stated, actual = str(manifest["content_sha256"]), content_sha256(manifest)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); convert the archive again") from error
    if stated != actual:
        raise StoreError(f"{file}: content_sha256 is {stated[:12]}..., its content gives {actual[:12]}...: it was edited or damaged; convert again")
    return manifest


def _index_bytes(rows: list[dict]) -> bytes:
    columns = {name: np.array([row[name] for row in rows]) for name in _INDEX_COLUMNS}
    buffer = io.BytesIO()
    np.savez(buffer, **columns)  # numpy stamps every member 1980-01-01, so equal rows give equal bytes
    return buffer.getvalue()


def _read_index(path: Path, sha256: str) -> dict[str, np.ndarray]:
    file = path / "index.npz"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; convert the archive again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(f"{file}: SHA-256 is not the manifest's, so it is damaged; convert the archive again")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in _INDEX_COLUMNS}
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"{file}: not an index ({error}); convert the archive again") from error


def _check_size(file: Path, expected: int) -> None:
    found = file.stat().st_size if file.is_file() else None
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes"
        raise StoreError(f"{file}: {state}, the manifest says {expected} bytes; copy it again or run the convert command again")


def _open_shard(file: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(file), "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768)
