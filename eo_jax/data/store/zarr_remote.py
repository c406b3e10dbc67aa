"""Reads pixels of a remote Zarr store: byte ranges of chunks, each checked against its CRC-32C."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eo_jax.data.store import remote, zarr_shards
from eo_jax.data.store.remote import Range, RemotePath
from eo_jax.data.store.zarr_reader import PixelFiles
from eo_jax.data.store.zarr_shards import (
    Bands,
    Chunk,
    Kind,
    Put,
    check_crc,
    index_bytes,
    parse_index,
)


class RemotePixels(PixelFiles):
    """PixelFiles of a RemotePath.

    Adjacent chunks come with one request; shard indices are kept in memory.
    """

    def __init__(self, store: RemotePath, manifest: dict[str, Any], index: dict[str, np.ndarray]):
        """Raises StoreError where manifest and index do not agree."""
        super().__init__(store, manifest, index)
        self._indices: dict[tuple[int, str], np.ndarray] = {}

    def read(self, i: int, shard: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        """Pixels [c', h', w'] of sample i.

        Raises as `read_into`, and IndexError where there is no such band.
        """
        kind = self._kinds[self._kind_of[i]]
        chunk_of, band_of = np.divmod(np.arange(kind.shape[0])[bands], kind.bands_per_chunk)
        chunks, number = np.unique(chunk_of, return_inverse=True)
        sides = (
            len(range(side)[part])
            for side, part in zip(kind.shape[1:], (rows, columns), strict=True)
        )
        out = np.empty((len(chunks) * kind.bands_per_chunk, *sides), kind.numpy_dtype)
        wanted = self._chunks(i, shard, kind)
        wanted = [wanted[chunk] for chunk in chunks.tolist()]
        self._fetch_into(i, shard, wanted, out, rows, columns, kind.put_pixels)
        return out[number * kind.bands_per_chunk + band_of]

    def _read_into(
        self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice, put: Put
    ) -> None:
        """Reads a part of sample i into `out` [c, h', w'].

        Raises ValueError where the file is damaged, StoreError where access is refused,
        RemoteError.
        """
        kind = self._kinds[self._kind_of[i]]
        self._fetch_into(i, shard, self._chunks(i, shard, kind), out, rows, columns, put)

    def index_range(self, i: int, shard: int) -> Range | None:
        """The byte range of the shard index that sample i needs; None if it is in memory.

        Raises ValueError where the file is too short for an index.
        """
        kind = self._kinds[self._kind_of[i]]
        return None if (shard, kind.name) in self._indices else self._index_range(shard, kind)

    def ranges(self, i: int, shard: int) -> list[Range]:
        """The byte ranges of all pixels of sample i. Raises as `read_into`."""
        kind = self._kinds[self._kind_of[i]]
        return self._ranges(shard, kind, self._chunks(i, shard, kind))

    def _fetch_into(
        self,
        i: int,
        shard: int,
        chunks: Sequence[Chunk],
        out: np.ndarray,
        rows: slice,
        columns: slice,
        put: Put,
    ) -> None:
        """Reads these chunks, one after the other, into `out`."""
        kind = self._kinds[self._kind_of[i]]
        ranges = self._ranges(shard, kind, chunks)
        ends = itertools.accumulate(chunk.length for chunk in chunks)
        within = [  # the fetched data
            chunk._replace(offset=end - chunk.length)
            for chunk, end in zip(chunks, ends, strict=True)
        ]

        def attempt() -> None:
            data = _join([remote.fetch(part) for part in ranges])
            for offset, length, crc32c in within:
                check_crc(data[offset : offset + length], crc32c)
            zarr_shards.copy_mapped(data, kind, within, out, rows, columns, put)

        remote.retry(self.file(i, shard), attempt)

    def _byte_ranges(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], the byte ranges of a sample's chunks in its file."""
        key = (shard, kind.name)
        if key not in self._indices:  # no lock: two threads may read an index, and either is right
            index_range = self._index_range(shard, kind)
            size = self._entries[shard][kind.name]["bytes"]
            fetch = functools.partial(_fetch_index, index_range, kind, size)
            self._indices[key] = remote.retry(index_range.file, fetch)
        return self._indices[key][self._row(i, shard)]

    def _index_range(self, shard: int, kind: Kind) -> Range:
        entry = self._entries[shard][kind.name]
        length = index_bytes(kind, self._rows, entry["bytes"])
        return Range(self.store / entry["file"], entry["bytes"] - length, length)

    def _ranges(self, shard: int, kind: Kind, chunks: Sequence[Chunk]) -> list[Range]:
        """Byte ranges of chunks, adjacent ones merged. Raises ValueError for an absent one."""
        file, runs = self.store / self._entries[shard][kind.name]["file"], []
        for chunk in chunks:
            zarr_shards.check_written(chunk)
            if runs and sum(runs[-1]) == chunk.offset:
                runs[-1] = (runs[-1][0], runs[-1][1] + chunk.length)
            else:
                runs.append((chunk.offset, chunk.length))
        return [Range(file, *run) for run in runs]


def begin_reading(samples: Sequence[tuple[RemotePixels, int, int]]) -> None:
    """Starts requests for the samples, each with its shard, that this thread reads next.

    Their shard indices come first, then all their bands. Raises as `RemotePixels.read_into`.
    """
    remote.begin_reading(
        filter(None, (pixels.index_range(i, shard) for pixels, i, shard in samples))
    )
    remote.begin_reading([part for pixels, i, shard in samples for part in pixels.ranges(i, shard)])


def _fetch_index(index_range: Range, kind: Kind, size: int) -> np.ndarray:
    """uint64 [rows, chunks, 2], the index of a shard file of `size` bytes."""
    data = check_crc(np.frombuffer(remote.fetch(index_range), np.uint8))
    return parse_index(data, kind, size)


def _join(parts: list[bytes]) -> np.ndarray:
    """uint8, without a copy if there is only one part."""
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)
