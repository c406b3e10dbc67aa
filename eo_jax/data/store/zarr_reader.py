"""Where the pixels of each sample of a Zarr store are: which array, which file, which row; checked
when the store is opened.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data.store import zarr_shards
from eo_jax.data.store.files import StoreError, check_size
from eo_jax.data.store.manifest import kind_codes
from eo_jax.data.store.remote import RemotePath
from eo_jax.data.store.zarr_shards import Bands, Kind

# of a store at a time: each takes a file descriptor, of which a process often has no more than 1024
_MAPPED_FILES = 256
_INDICES = (
    64  # of shards, remembered of a store at a time, for what is not mapped: some megabytes at most
)


class PixelFiles:
    """The pixel files of a store. It keeps none open but by memory map, so threads may share it and
    a fork does not harm it.

    It remembers whose checksums it has verified, a byte a sample, and the last shard indices; those
    of mapped files stay there.
    """

    def __init__(
        self, store: Path | RemotePath, manifest: dict[str, Any], index: dict[str, np.ndarray]
    ):
        """Raises StoreError where files are not what manifest and index say."""
        self.store = store
        self._kinds, self._kind_of = _kinds(manifest["format"], index)
        counts = [shard["samples"] for shard in manifest["shards"]]
        self._first_of_shard = np.cumsum([0, *counts]).tolist()
        self._rows = manifest["samples_a_shard"]
        self._entries = [
            {entry["array"]: entry for entry in shard["pixels"]} for shard in manifest["shards"]
        ]
        self._check_counts(np.repeat(np.arange(len(counts)), counts))
        for kind in self._kinds:
            _check_metadata(store, kind, manifest)
        for entries in self._entries:
            for entry in entries.values():
                check_size(store, entry["file"], entry["bytes"])
        self._begin()

    def file(self, i: int, shard: int) -> Path | RemotePath:
        """The file that holds the pixels of sample i, a sample of that shard."""
        return self.store / self._entries[shard][self._kinds[self._kind_of[i]].name]["file"]

    def read(self, i: int, shard: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        """Pixels [c', h', w'] of sample i, a sample of that shard. Raises as
        `zarr_shards.read_pixels`.
        """
        kind = self._kinds[self._kind_of[i]]
        return zarr_shards.read_pixels(
            self.file(i, shard), kind, self._byte_ranges(i, shard, kind), bands, rows, columns
        )

    def read_into(self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        """Puts a part of the pixels of sample i, a sample of that shard, into `out` [c, h', w'] of
        their dtype. Raises as `zarr_shards.read_pixels`.

        The first time they are read whole and held against their checksums; after that they come
        out of a memory map.
        """
        kind = self._kinds[self._kind_of[i]]
        file = self._local(shard, kind)
        if self._verified[i]:
            mapped, index = self._map(
                file, self._entries[shard][kind.name]["bytes"], kind, self._rows
            )
            zarr_shards.copy_mapped(mapped, kind, index[self._row(i, shard)], out, rows, columns)
        else:
            zarr_shards.read_into(file, kind, self._byte_ranges(i, shard, kind), out, rows, columns)
            self._verified[i] = True

    def _byte_ranges(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], where the chunks of a sample are in its file."""
        return self._index(self._local(shard, kind), kind, self._rows)[self._row(i, shard)]

    def _local(self, shard: int, kind: Kind) -> str:
        """The path of a pixel file; pathlib would take as long as the rest of the reading of a
        small sample.
        """
        return f"{self.store}/{self._entries[shard][kind.name]['file']}"

    def _row(self, i: int, shard: int) -> int:
        """The row of sample i in its file: how many of its shard and kind come before it."""
        return int(
            np.count_nonzero(self._kind_of[self._first_of_shard[shard] : i] == self._kind_of[i])
        )

    def _begin(self) -> None:
        """What every process has for itself."""
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
        self._begin()

    def _check_counts(self, shard_of: np.ndarray) -> None:
        """Manifest and index have to agree on how many rows each file has."""
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


def _kinds(format: str, index: dict[str, np.ndarray]) -> tuple[list[Kind], np.ndarray]:
    """Every kind of pixels, and int [samples], which of them a sample is of."""
    kind_of = kind_codes(index)
    first = np.flatnonzero(
        np.diff(np.maximum.accumulate(kind_of), prepend=-1)
    )  # samples: a kind that is new has a number above those before
    if len(first) != kind_of.max(initial=-1) + 1:
        raise ValueError("kind_code of the index leaves out a number")
    of_first = (index[column][first].tolist() for column in ("sensor", "dtype", "shape"))
    return [
        Kind(format, sensor, dtype, tuple(shape))
        for sensor, dtype, shape in zip(*of_first, strict=True)
    ], kind_of


def _check_metadata(store: Path | RemotePath, kind: Kind, manifest: dict[str, Any]) -> None:
    """zarr.json has to be, byte for byte, the one this module would have written; nothing in it is
    believed.
    """
    expected = kind.metadata(manifest["tasks"], manifest["samples_a_shard"])
    name = kind.metadata_name
    check_size(store, name, len(expected))
    if (store / name).read_bytes() != expected:
        raise StoreError(
            f"{store / name}: is not the description of {kind.name} that belongs to this store; "
            "copy it again or convert again"
        )
