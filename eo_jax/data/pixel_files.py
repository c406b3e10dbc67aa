"""Where the pixels of each sample of a Zarr store are: which array, which file, which row; checked when the store is opened."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data import zarr_shards
from eo_jax.data.files import StoreError, check_size
from eo_jax.data.remote import RemotePath
from eo_jax.data.zarr_shards import Bands, Kind

_MAPPED_FILES = 256  # of a store at a time: each takes a file descriptor, of which a process often has no more than 1024


class PixelFiles:
    """The pixel files of a store. It keeps none open but by memory map, so threads may share it and a fork does not harm it.

    It remembers the shard indices it has read, 16 bytes a chunk, and whose checksums it has verified, a byte a sample.
    """

    def __init__(self, store: Path | RemotePath, manifest: dict[str, Any], index: dict[str, np.ndarray]):
        """Raises StoreError where files are not what manifest and index say."""
        self.store = store
        self._kinds, self._kind_of = _kinds(manifest["format"], index)
        shard_of = np.repeat(np.arange(len(manifest["shards"])), [shard["samples"] for shard in manifest["shards"]])
        self._row_of = _rows_in_files(shard_of, self._kind_of)
        self._rows = manifest["samples_a_shard"]
        self._entries = [{entry["array"]: entry for entry in shard["pixels"]} for shard in manifest["shards"]]
        self._check_counts(shard_of)
        for kind in self._kinds:
            _check_metadata(store, kind, manifest)
        for entries in self._entries:
            for entry in entries.values():
                check_size(store, entry["file"], entry["bytes"])
        self._indices: dict[tuple[int, str], np.ndarray] = {}
        self._begin()

    def file(self, i: int, shard: int) -> Path | RemotePath:
        """The file that holds the pixels of sample i, a sample of that shard."""
        return self.store / self._entries[shard][self._kinds[self._kind_of[i]].name]["file"]

    def read(self, i: int, shard: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        """Pixels [c', h', w'] of sample i, a sample of that shard. Raises as `zarr_shards.read_pixels`."""
        kind = self._kinds[self._kind_of[i]]
        return zarr_shards.read_pixels(self.file(i, shard), kind, self._places(i, shard, kind), bands, rows, columns)

    def read_into(self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        """Puts a part of the pixels of sample i, a sample of that shard, into `out` [c, h', w'] of their dtype. Raises as `zarr_shards.read_pixels`.

        The first time they are read whole and held against their checksums; after that they come out of a memory map.
        """
        kind = self._kinds[self._kind_of[i]]
        places, entry = self._places(i, shard, kind), self._entries[shard][kind.name]
        file = self.store / entry["file"]
        if self._verified[i]:
            zarr_shards.copy_mapped(self._map(file, entry["bytes"]), kind, places, out, rows, columns)
        else:
            zarr_shards.read_into(file, kind, places, out, rows, columns)
            self._verified[i] = True

    def _places(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], where the chunks of a sample are in its file."""
        key = (shard, kind.name)
        if key not in self._indices:  # no lock: two threads may read an index, and either is right
            self._indices[key] = zarr_shards.read_index(self.file(i, shard), kind, self._rows)
        return self._indices[key][self._row_of[i]]

    def _begin(self) -> None:
        """What every process has for itself."""
        self._verified = np.zeros(len(self._row_of), bool)
        self._map = functools.lru_cache(_MAPPED_FILES)(zarr_shards.map_file)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_map", "_verified")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._begin()

    def _check_counts(self, shard_of: np.ndarray) -> None:
        """Manifest and index have to agree on how many rows each file has."""
        (shards, kinds), counts = np.unique([shard_of, self._kind_of], axis=1, return_counts=True)
        indexed = {(s, self._kinds[k].name): n for s, k, n in zip(shards.tolist(), kinds.tolist(), counts.tolist(), strict=True)}
        stated = {(s, name): entry["samples"] for s, entries in enumerate(self._entries) for name, entry in entries.items()}
        for shard, name in sorted(indexed.keys() | stated.keys()):
            found, expected = indexed.get((shard, name), 0), stated.get((shard, name), 0)
            if found != expected or found > self._rows:
                where = f"{name} in shard {shard}, counted from 0,"
                raise StoreError(f"{self.store}: {where} has {found} samples in the index, {expected} in the manifest; convert again")


def _kinds(format: str, index: dict[str, np.ndarray]) -> tuple[list[Kind], np.ndarray]:
    """Every kind of pixels, and int [samples], which of them a sample is of."""
    numbers: dict[tuple, int] = {}
    columns = zip(index["sensor"].tolist(), index["dtype"].tolist(), map(tuple, index["shape"].tolist()), strict=True)
    kind_of = [numbers.setdefault(key, len(numbers)) for key in columns]
    return [Kind(format, *key) for key in numbers], np.array(kind_of, np.int64)


def _rows_in_files(shard_of: np.ndarray, kind_of: np.ndarray) -> np.ndarray:
    """int [samples], the row of each sample in its file: how many of its shard and kind come before it. Both arguments are int [samples]."""
    group = shard_of * (kind_of.max(initial=0) + 1) + kind_of
    order = np.argsort(group, kind="stable")
    _, first, count = np.unique(group[order], return_index=True, return_counts=True)
    rows = np.empty(len(group), np.int64)
    rows[order] = np.arange(len(group)) - np.repeat(first, count)
    return rows


def _check_metadata(store: Path | RemotePath, kind: Kind, manifest: dict[str, Any]) -> None:
    """zarr.json has to be, byte for byte, the one this module would have written; nothing in it is believed."""
    expected = kind.metadata(manifest["tasks"], manifest["samples_a_shard"])
    name = kind.metadata_name
    check_size(store, name, len(expected))
    if (store / name).read_bytes() != expected:
        raise StoreError(f"{store / name}: is not the description of {kind.name} that belongs to this store; copy it again or convert again")
