"""Reads pixels of a remote Zarr store: byte ranges of chunks, each checked against its CRC-32C."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from eo_jax.data.store import remote, zarr_shards
from eo_jax.data.store.remote import Range, RemotePath
from eo_jax.data.store.zarr_reader import PixelFiles
from eo_jax.data.store.zarr_shards import CRC_BYTES, Bands, Kind, check_crc, index_bytes

# The most bytes that compression and checksum add to a chunk; zarr_shards has the exact bound.
_OVERHEAD = 64


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
        self._fetch_into(i, shard, self._byte_ranges(i, shard, kind)[chunks], out, rows, columns)
        return out[number * kind.bands_per_chunk + band_of]

    def read_into(self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        """Reads a part of the pixels of sample i into `out` [c, h', w'].

        Raises ValueError where the file is damaged, StoreError where access is refused,
        RemoteError.
        """
        kind = self._kinds[self._kind_of[i]]
        self._fetch_into(i, shard, self._byte_ranges(i, shard, kind), out, rows, columns)

    def index_range(self, i: int, shard: int) -> Range | None:
        """The byte range of the shard index that sample i needs; None if it is in memory.

        Raises ValueError where the file is too short for an index.
        """
        kind = self._kinds[self._kind_of[i]]
        return None if (shard, kind.name) in self._indices else self._index_range(shard, kind)

    def ranges(self, i: int, shard: int) -> list[Range]:
        """The byte ranges of all pixels of sample i. Raises as `read_into`."""
        kind = self._kinds[self._kind_of[i]]
        return self._ranges(shard, kind, self._byte_ranges(i, shard, kind))

    def _fetch_into(
        self,
        i: int,
        shard: int,
        byte_ranges: np.ndarray,
        out: np.ndarray,
        rows: slice,
        columns: slice,
    ) -> None:
        """Reads the chunks at these byte ranges, one after the other, into `out`."""
        kind = self._kinds[self._kind_of[i]]
        ranges = self._ranges(shard, kind, byte_ranges)
        lengths = byte_ranges[:, 1].astype(np.int64)
        within = np.stack([np.cumsum(lengths) - lengths, lengths], 1)  # the ranges in fetched data

        def attempt() -> None:
            data = _join([remote.fetch(part) for part in ranges])
            for offset, length in within.tolist():
                check_crc(data[offset : offset + length])
            zarr_shards.copy_mapped(data, kind, within, out, rows, columns)

        remote.retry(self.file(i, shard), attempt)

    def _byte_ranges(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], the byte ranges of a sample's chunks in its file."""
        key = (shard, kind.name)
        if key not in self._indices:  # no lock: two threads may read an index, and either is right
            index_range = self._index_range(shard, kind)
            fetch = functools.partial(_fetch_index, index_range)
            index = remote.retry(index_range.file, fetch)
            self._indices[key] = index.reshape(self._rows, kind.chunks, 2)
        return self._indices[key][self._row(i, shard)]

    def _index_range(self, shard: int, kind: Kind) -> Range:
        entry = self._entries[shard][kind.name]
        length = index_bytes(kind, self._rows, entry["bytes"])
        return Range(self.store / entry["file"], entry["bytes"] - length, length)

    def _ranges(self, shard: int, kind: Kind, byte_ranges: np.ndarray) -> list[Range]:
        """Byte ranges of chunks, adjacent ones merged.

        Raises ValueError for a range that the file cannot have, before anything is allocated.
        """
        entry, runs = self._entries[shard][kind.name], []
        for offset, length in byte_ranges.tolist():
            is_length = CRC_BYTES < length <= kind.chunk_bytes + _OVERHEAD
            if not is_length or offset + length > entry["bytes"]:
                raise ValueError(
                    f"a chunk of {length} bytes from byte {offset} cannot be in a file of "
                    f"{entry['bytes']}"
                )
            if runs and sum(runs[-1]) == offset:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((offset, length))
        return [Range(self.store / entry["file"], *run) for run in runs]


def begin_reading(samples: Sequence[tuple[RemotePixels, int, int]]) -> None:
    """Starts requests for the samples, each with its shard, that this thread reads next.

    Their shard indices come first, then all their bands. Raises as `RemotePixels.read_into`.
    """
    remote.begin_reading(
        filter(None, (pixels.index_range(i, shard) for pixels, i, shard in samples))
    )
    remote.begin_reading([part for pixels, i, shard in samples for part in pixels.ranges(i, shard)])


def _fetch_index(index_range: Range) -> np.ndarray:
    """uint64, a shard index without its checksum."""
    return check_crc(np.frombuffer(remote.fetch(index_range), np.uint8)).view("<u8")


def _join(parts: list[bytes]) -> np.ndarray:
    """uint8, without a copy if there is only one part."""
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)
