"""Reads a store: shards of records, one index, one manifest; written once, then only read.

    STORE/manifest.json                  contents, and the SHA-256 of every other file
    STORE/index.npz                      one row per record, see index_file.py
    STORE/shards/00000.array_record ...  the records, see record.py
    STORE/pixels/KIND/zarr.json, c/...   the pixels of the Zarr formats, see zarr_shards.py

"array-record" has whole compressed samples of any shape. "zarr" compresses as well and reads a few
bands without the others; "zarr-raw" does not compress, which is fastest where the disk is. The Zarr
formats have one array per kind of pixels (sensor, dtype and shape), so there should be few kinds.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from eo_jax.data.store import index_file, record, shard_cache, zarr_remote
from eo_jax.data.store.buffers import keep_freed_memory
from eo_jax.data.store.files import StoreError, check_size
from eo_jax.data.store.manifest import PIXEL_SPLIT, PIXEL_SPLITS, format_of, read_manifest
from eo_jax.data.store.manifest_schema import FORMATS as FORMATS
from eo_jax.data.store.remote import RemoteError, RemotePath, is_url
from eo_jax.data.store.zarr_reader import PixelFiles
from eo_jax.data.store.zarr_remote import RemotePixels
from eo_jax.data.store.zarr_shards import Bands
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

_ALL = slice(None)
# Open shards per store: each takes a file descriptor, of which a process often has only 1024.
_OPEN_SHARDS = 128


def open_store(path: str | os.PathLike) -> Store:
    """Opens a store for reading: a folder, or a URL (s3, gs, http or https), see remote.py.

    Raises StoreError where it is absent, unfinished, of another format, or different from its
    manifest; RemoteError where the network fails.
    """
    return Store(RemotePath(path) if is_url(path) else Path(path))


def begin_reading(samples: Iterable[tuple[Store, int]]) -> None:
    """Starts requests for the samples whose bands this thread reads next, in this order.

    A network then serves them in parallel. It only saves time, and does nothing for local stores.
    Raises RemoteError.
    """
    remotely = [
        (store._pixel_files, store._wrap(i), store._locate(i)[0])
        for store, i in samples
        if isinstance(store._pixel_files, RemotePixels)
    ]
    with contextlib.suppress(ValueError):  # the error is raised when the sample is read
        zarr_remote.begin_reading(remotely)


class Store(Sequence[Sample]):
    """A read-only sequence of Samples.

    Threads may share it; a forked or spawned process opens its own readers. From a URL, methods
    that read also raise RemoteError where the network fails, whatever the state of the data, and a
    process must not fork.

    Attributes:
        manifest: the parsed manifest.json.
        index: {column: array with one row per record}, see index_file.py.
    """

    def __init__(self, path: Path | RemotePath):
        self.path = path
        self.manifest = read_manifest(path)
        self.index = index_file.read_index(path, self.manifest)
        counts = [shard["samples"] for shard in self.manifest["shards"]]
        self._first_of_shard = np.cumsum([0, *counts]).tolist()
        self._kinds, self._kind_of = index_file.kinds(self.index), index_file.kind_codes(self.index)
        _check_bands(path, self.manifest, self._kinds)
        self._dtypes = [np.dtype(dtype) for _, dtype, _ in self._kinds]
        for shard in self.manifest["shards"]:
            check_size(path, shard["file"], shard["bytes"])
        self._pixel_files = _open_pixels(path, self.manifest, self.index)
        self._sensors: dict[str, Sensor] = {}
        self._open_readers()

    def __len__(self) -> int:
        return self._first_of_shard[-1]

    def __getitem__(self, i: int) -> Sample:
        pixels = None if self._pixel_files is None else self.pixels(i)
        return record.decode(self.read(i), self.record_name(i), pixels, self._listed(i))

    def read(self, i: int) -> bytes:
        """The bytes of record i, not yet decoded.

        Raises IndexError, or RecordError where the shard is damaged there, or has another record
        than the index.
        """
        shard, row = self._locate(i)
        try:
            data = self._read_record(shard, row)
            checksum = record.checksum(data)
        except (StoreError, RemoteError):
            raise
        except (RuntimeError, OSError, IndexError, ValueError) as error:
            # A reader that once failed to open its file fails for ever.
            self._opener().cache_clear()
            raise record.RecordError(
                f"{self.record_name(i)}: cannot be read ({error}); run `python -m data_prep verify "
                f"{self.path}`"
            ) from error
        listed = self.index.get("record_crc32c")
        if listed is not None and checksum != listed[i]:
            raise record.RecordError(
                f"{self.record_name(i)}: its checksum is {checksum:08x}, the index says "
                f"{listed[i]:08x}; {record.ANOTHER_FILE}"
            )
        return data

    def _listed(self, i: int) -> record.Listed:
        return record.Listed(str(self.index["id"][i]), *self._kinds[self._kind_of[i]])

    def _read_record(self, shard: int, row: int) -> bytes:
        if isinstance(self.path, Path):
            file = f"{self.path}/{self.manifest['shards'][shard]['file']}"
            return self._opener()(file).read([row])[0]
        entry = self.manifest["shards"][shard]
        source = self.path / entry["file"]
        # ArrayRecord reads only files. It is opened for each record, which takes 0.1 ms, so that
        # the shard can leave the cache in between.
        with shard_cache.local_copy(source, entry["bytes"], entry["sha256"]) as file:
            return _open_shard(str(file)).read([row])[0]

    def pixels(
        self, i: int, bands: Bands = _ALL, rows: slice = _ALL, columns: slice = _ALL
    ) -> np.ndarray:
        """A part of the pixels of sample i, [c', h', w'], maybe a view.

        `bands` is a slice or band numbers from 0. The Zarr formats read only the chunks they need.
        Raises IndexError where there is no such sample or band, or RecordError where the shard is
        damaged there.
        """
        if self._pixel_files is None:
            return self[i].pixels[bands][:, rows, columns]
        return self._read_pixels(i, bands, rows, columns)

    def read_into(self, i: int, out: np.ndarray, rows: slice = _ALL, columns: slice = _ALL) -> None:
        """Reads a part of the pixels of sample i into `out` [c, h', w']; faster than `pixels`.

        Raises IndexError, RecordError, or ValueError where `out` has another shape.
        """
        i = self._wrap(i)
        self._check_part(i, out, rows, columns)
        if out.dtype != self._dtypes[self._kind_of[i]]:
            out[:] = self.pixels(i, rows=rows, columns=columns)
        elif self._pixel_files is None:
            data, name = self.read(i), self.record_name(i)
            record.decode_pixels(data, name, self._listed(i), out, rows, columns)
        else:
            with self._naming_pixels(i) as shard:
                self._pixel_files.read_into(i, shard, out, rows, columns)

    def difference_bands(self, i: int) -> int:
        """After how many bands the differences that `read_differences_into` reads start again.

        0 for pixels that are not stored as differences.
        """
        i = self._wrap(i)
        if self._pixel_files is not None:
            return self._pixel_files.difference_bands(i)
        kind = self._kind_of[i]
        return self._kinds[kind][2][0] if self._dtypes[kind].kind in "iu" else 0

    def read_differences_into(
        self, i: int, out: np.ndarray, rows: slice = _ALL, columns: slice = _ALL
    ) -> None:
        """Reads a part of sample i into `out` [c, h', w'] of its dtype, as differences of bands.

        Bands 0, n, 2n ... with n = `difference_bands(i)` are pixels, every other one its difference
        to the band before it, modulo 2^bits. Raises as `read_into`, and ValueError for a sample
        without differences.
        """
        i = self._wrap(i)
        self._check_part(i, out, rows, columns)
        stored = self._dtypes[self._kind_of[i]]
        if out.dtype != stored or not self.difference_bands(i):
            raise ValueError(
                f"{self.record_name(i)}: {stored} has no differences to read into {out.dtype}; use "
                "`read_into`"
            )
        if self._pixel_files is None:
            data, name = self.read(i), self.record_name(i)
            record.decode_differences(data, name, self._listed(i), out, rows, columns)
        else:
            with self._naming_pixels(i) as shard:
                self._pixel_files.read_differences_into(i, shard, out, rows, columns)

    def _check_part(self, i: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        bands, height, width = self._kinds[self._kind_of[i]][2]
        shape = (bands, len(range(height)[rows]), len(range(width)[columns]))
        if out.shape != shape:
            raise ValueError(
                f"{self.record_name(i)}: the part to read has shape {shape}, the array to read "
                f"into {out.shape}"
            )

    def labels(self, i: int) -> dict[str, np.ndarray]:
        """The labels of sample i, without its pixels. Raises IndexError, RecordError."""
        return record.decode_labels(self.read(i), self.record_name(i), self._listed(i))

    def _read_pixels(self, i: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        i = self._wrap(i)
        with self._naming_pixels(i) as shard:
            return self._pixel_files.read(i, shard, bands, rows, columns)

    @contextlib.contextmanager
    def _naming_pixels(self, i: int) -> Iterator[int]:
        """Yields the shard of sample i; errors inside become a RecordError with sample and file."""
        shard, _ = self._locate(i)
        try:
            yield shard
        except (StoreError, RemoteError):
            raise
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            file = self._pixel_files.file(i, shard)
            raise record.RecordError(
                f"{self.record_name(i)}: pixels cannot be read from {file} ({error}); run `python "
                f"-m data_prep verify {self.path}`, then convert again"
            ) from error

    def record_name(self, i: int) -> str:
        """The name of record i in errors: store, shard, row and id."""
        shard, row = self._locate(i)
        file, sample_id = self.manifest["shards"][shard]["file"], self.index["id"][self._wrap(i)]
        return f"{self.path}/{file} record {row} (id {sample_id})"

    def about(self, field: str) -> Any:
        """A field of the manifest that describes what the store holds, such as "archive".

        Raises StoreError where it is absent: stores that `convert` did not write may lack it.
        """
        if field not in self.manifest:
            raise StoreError(f"{self.path}/manifest.json: has no {field!r}; convert again")
        return self.manifest[field]

    def sensor(self, sensor_id: str) -> Sensor:
        """The sensor row that the samples were written with.

        Raises StoreError where the manifest has none of that id.
        """
        if sensor_id not in self._sensors:
            rows = self.manifest.get("sensors", {})
            if sensor_id not in rows:
                names = ", ".join(rows) or "none"
                raise StoreError(
                    f"{self.path}/manifest.json: no sensor {sensor_id!r}; there is {names}. "
                    "Convert the archive again"
                )
            self._sensors[sensor_id] = _parse_sensor(self.path, rows[sensor_id])
        return self._sensors[sensor_id]

    def sensor_of(self, i: int) -> Sensor:
        """The sensor of sample i. Raises IndexError, StoreError."""
        return self.sensor(str(self.index["sensor"][self._wrap(i)]))

    def in_split(self, split: str) -> np.ndarray:
        """bool [samples]: True for samples of that split; "all" is every sample.

        A scene whose labels are split by pixel belongs to each split that its map can name; labels
        of the others are set to 0 on reading. Raises ValueError where no sample does.
        """
        splits = self.index["split"]
        found = np.isin(splits, (split, PIXEL_SPLIT) if split in PIXEL_SPLITS else split)
        found |= split == "all"
        if not found.any():
            names = set(splits.tolist())
            if PIXEL_SPLIT in names:
                names = names - {PIXEL_SPLIT} | set(PIXEL_SPLITS[1:])
            raise ValueError(
                f"{self.path}: split {split!r} is empty; the store has "
                f"{', '.join(sorted(names)) or 'no samples'}. Convert with --val or --val-fraction "
                "to make one."
            )
        return found

    @property
    def format(self) -> str:
        """One of FORMATS."""
        return format_of(self.manifest)

    @property
    def content_hash(self) -> str:
        """SHA-256 over manifest, index and shards: the identity of the store in data.json."""
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
        self._readers: dict[int, functools._lru_cache_wrapper[ArrayRecordReader]] = {}

    def _opener(self) -> functools._lru_cache_wrapper[ArrayRecordReader]:
        """`_open_shard` with this process's cache of open files."""
        # A reader does not survive a fork and cannot be closed after one, so the parent's are kept.
        process = os.getpid()
        if process not in self._readers:  # without a lock, which a fork could copy while it is held
            self._readers.setdefault(process, functools.lru_cache(_OPEN_SHARDS)(_open_shard))
        return self._readers[process]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_readers()


def _open_pixels(
    path: Path | RemotePath, manifest: dict, index: dict[str, np.ndarray]
) -> PixelFiles | None:
    """None where the records hold the pixels."""
    if format_of(manifest) == "array-record":
        if isinstance(path, RemotePath):
            shard_cache.warn_if_small(path, sum(shard["bytes"] for shard in manifest["shards"]))
        return None
    try:
        return (PixelFiles if isinstance(path, Path) else RemotePixels)(path, manifest, index)
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(
            f"{path}/manifest.json: does not describe a Zarr store ({error}); convert the archive "
            "again"
        ) from error


def _check_bands(
    path: Path | RemotePath, manifest: dict, kinds: Iterable[tuple[str, str, tuple[int, int, int]]]
) -> None:
    """Raises StoreError where the manifest has another number of bands than the pixels."""
    for sensor, _, shape in kinds:
        row, moments = (manifest.get(field, {}).get(sensor) for field in ("sensors", "statistics"))
        for what, values in (
            ("sensors", row and row["bands"]["name"]),
            ("statistics", moments and moments["mean"]),
        ):
            if values is not None and len(values) != shape[0]:
                raise StoreError(
                    f"{path}/manifest.json: {what}.{sensor:.100} has {len(values)} bands, its "
                    f"pixels have {shape[0]} by the index; convert the archive again"
                )


def _parse_sensor(path: Path | RemotePath, row: dict) -> Sensor:
    try:
        return Sensor.from_row(row)
    except ValueError as error:
        raise StoreError(
            f"{path}/manifest.json: sensors: {error}; convert the archive again"
        ) from error


def _open_shard(file: str) -> ArrayRecordReader:
    keep_freed_memory()
    return ArrayRecordReader(
        file, "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
    )
