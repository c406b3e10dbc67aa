"""Reads pixels of a Zarr store; the array, file and row of each sample are checked on opening."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data.store import index_file, zarr_shards
from eo_jax.data.store.files import StoreError, check_size, regular_size
from eo_jax.data.store.remote import RemotePath
from eo_jax.data.store.zarr_shards import Bands, Chunk, Kind, Put

# Mapped files per store: each takes a file descriptor, of which a process often has only 1024.
_MAPPED_FILES = 256
_INDICES = 64  # cached shard indices per store, of files that are not mapped: some megabytes


class PixelFiles:
    """The pixel files of a store.

    None is kept open except by memory map, so threads may share them and a fork does no harm. It
    remembers which samples' checksums it has verified, in one byte per sample, and the shard
    indices read last; those of mapped files stay in the files.
    """

    def __init__(
        self, store: Path | RemotePath, manifest: dict[str, Any], index: dict[str, np.ndarray]
    ):
        """Raises StoreError where files do not match manifest and index."""
        self.store = store
        self._kinds = [Kind(manifest["format"], *kind) for kind in index_file.kinds(index)]
        self._kind_of = index_file.kind_codes(index)
        counts = [shard["samples"] for shard in manifest["shards"]]
        self._first_of_shard = np.cumsum([0, *counts]).tolist()
        self._rows = manifest["samples_a_shard"]
        self._crc32c = index.get("chunk_crc32c")
        self._entries = [
            {entry["array"]: entry for entry in shard["pixels"]} for shard in manifest["shards"]
        ]
        self._check_counts(np.repeat(np.arange(len(counts)), counts))
        self._check_checksums()
        for kind in self._kinds:
            _check_metadata(store, kind, manifest)
        for entries in self._entries:
            for entry in entries.values():
                check_size(store, entry["file"], entry["bytes"])
        self._open()

    def file(self, i: int, shard: int) -> Path | RemotePath:
        """The pixel file of sample i, which is in that shard."""
        return self.store / self._entries[shard][self._kinds[self._kind_of[i]].name]["file"]

    def read(self, i: int, shard: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        """Pixels [c', h', w'] of sample i, which is in that shard.

        Raises as `zarr_shards.read_pixels`.
        """
        kind = self._kinds[self._kind_of[i]]
        return zarr_shards.read_pixels(
            self.file(i, shard), kind, self._chunks(i, shard, kind), bands, rows, columns
        )

    def read_into(self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        """Reads a part of the pixels of sample i, which is in that shard, into `out` [c, h', w'].

        `out` has the dtype of the pixels. The first time, whole chunks are read, their checksums
        computed and compared with those in the index; after that, pixels come from a memory map,
        and checksums are only compared. Raises as `zarr_shards.read_pixels`.
        """
        put = self._kinds[self._kind_of[i]].put_pixels
        self._read_into(i, shard, out, rows, columns, put)

    def read_differences_into(
        self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice
    ) -> None:
        """The same without undoing differences, see `difference_bands`."""
        self._read_into(i, shard, out, rows, columns, np.copyto)

    def difference_bands(self, i: int) -> int:
        """After how many bands the stored differences of sample i start again; 0 without any."""
        kind = self._kinds[self._kind_of[i]]
        return kind.bands_per_chunk if kind.has_differences else 0

    def _read_into(
        self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice, put: Put
    ) -> None:
        kind = self._kinds[self._kind_of[i]]
        file = self._local_file(shard, kind)
        if self._verified[i]:
            mapped, index = self._map(
                file, self._entries[shard][kind.name]["bytes"], kind, self._rows
            )
            chunks = self._listed(i, kind, index[self._row(i, shard)])
            zarr_shards.copy_mapped(mapped, kind, chunks, out, rows, columns, put)
        else:
            chunks = self._chunks(i, shard, kind)
            zarr_shards.read_into(file, kind, chunks, out, rows, columns, put)
            self._verified[i] = True

    def _chunks(self, i: int, shard: int, kind: Kind) -> list[Chunk]:
        """All chunks of a sample."""
        return self._listed(i, kind, self._byte_ranges(i, shard, kind))

    def _listed(self, i: int, kind: Kind, byte_ranges: np.ndarray) -> list[Chunk]:
        """The chunks of a sample at these byte ranges, with their checksums in the index."""
        checksums = [None] * kind.chunks
        if self._crc32c is not None:
            checksums = self._crc32c[i, : kind.chunks].tolist()
        pairs = zip(byte_ranges.tolist(), checksums, strict=True)
        return [Chunk(offset, length, crc32c) for (offset, length), crc32c in pairs]

    def _byte_ranges(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], the byte ranges of a sample's chunks in its file."""
        return self._index(self._local_file(shard, kind), kind, self._rows)[self._row(i, shard)]

    def _local_file(self, shard: int, kind: Kind) -> str:
        """The path of a pixel file, as text: pathlib would double the time of a small read."""
        return f"{self.store}/{self._entries[shard][kind.name]['file']}"

    def _row(self, i: int, shard: int) -> int:
        """The row of sample i in its file: how many samples of its shard and kind precede it."""
        before = self._kind_of[self._first_of_shard[shard] : i]
        return int(np.count_nonzero(before == self._kind_of[i]))

    def _open(self) -> None:
        """Creates the state that is separate for each process."""
        self._verified = np.zeros(len(self._kind_of), bool)
        self._map = functools.lru_cache(_MAPPED_FILES)(zarr_shards.map_shard)
        self._index = functools.lru_cache(_INDICES)(zarr_shards.read_index)

    def __getstate__(self) -> dict:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_map", "_index", "_verified")
        }

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def _check_counts(self, shard_of: np.ndarray) -> None:
        """Raises StoreError unless manifest and index agree on the number of rows of each file."""
        files, counts = np.unique(shard_of * len(self._kinds) + self._kind_of, return_counts=True)
        shards_and_kinds = (divmod(file, len(self._kinds)) for file in files.tolist())
        indexed = {
            (s, self._kinds[k].name): n
            for (s, k), n in zip(shards_and_kinds, counts.tolist(), strict=True)
        }
        stated = {
            (s, name): entry["samples"]
            for s, entries in enumerate(self._entries)
            for name, entry in entries.items()
        }
        for shard, name in sorted(indexed.keys() | stated.keys()):
            found, expected = indexed.get((shard, name), 0), stated.get((shard, name), 0)
            if found != expected or found > self._rows:
                where = f"{name} in shard {shard}, counted from 0,"
                raise StoreError(
                    f"{self.store}: {where} has {found} samples in the index, {expected} in the "
                    "manifest; convert again"
                )

    def _check_checksums(self) -> None:
        most = max((kind.chunks for kind in self._kinds), default=0)
        if self._crc32c is not None and self._crc32c.shape[1:] != (most,) and most:
            raise StoreError(
                f"{self.store / 'index.npz'}: chunk_crc32c is {list(self._crc32c.shape)}, expected "
                f"{[len(self._kind_of), most]}, the chunks of a sample; convert again"
            )


def _check_metadata(store: Path | RemotePath, kind: Kind, manifest: dict[str, Any]) -> None:
    """Raises StoreError unless zarr.json is, byte for byte, the one that a writer makes or made.

    Nothing in it is trusted.
    """
    rows = manifest["tasks"], manifest["samples_a_shard"]
    expected = [kind.metadata(*rows), kind.older_metadata(*rows)]
    name, file = kind.metadata_name, store / kind.metadata_name
    if isinstance(file, Path):
        # One that is as long as neither is refused before it is read.
        lengths = {len(text) for text in expected}
        length = regular_size(file)
        check_size(store, name, length if length in lengths else len(expected[0]))
        found = file.read_bytes()
    else:
        found = file.read_bytes(max(map(len, expected)))
    if found not in expected:
        raise StoreError(
            f"{store / name}: does not describe {kind.name} as this store has it; copy it again or "
            "convert again"
        )
