"""Pixels of a Zarr store over a network: the byte ranges of the chunks that are wanted, each held
against its checksum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np

from eo_jax.data.store import remote, zarr_shards
from eo_jax.data.store.remote import Range, RemotePath
from eo_jax.data.store.zarr_reader import PixelFiles
from eo_jax.data.store.zarr_shards import Bands, Kind

_CRC_BYTES = 4
# than it had before that a compressed chunk may take, checksum included; zarr_shards knows the
# exact number
_MORE_BYTES = 64


class RemotePixels(PixelFiles):
    """Reads as PixelFiles does, from a RemotePath. Chunks that lie side by side come with one
    request; shard indices are kept in memory.
    """

    def __init__(self, store: RemotePath, manifest: dict[str, Any], index: dict[str, np.ndarray]):
        """Raises StoreError where manifest and index do not agree."""
        super().__init__(store, manifest, index)
        self._indices: dict[tuple[int, str], np.ndarray] = {}

    def read(self, i: int, shard: int, bands: Bands, rows: slice, columns: slice) -> np.ndarray:
        """Pixels [c', h', w'] of sample i. Raises as `read_into`, and IndexError where there is no
        such band.
        """
        kind = self._kinds[self._kind_of[i]]
        chunk_of, band_of = np.divmod(np.arange(kind.shape[0])[bands], kind.bands_per_chunk)
        chunks, number = np.unique(chunk_of, return_inverse=True)
        sides = (
            len(range(side)[part])
            for side, part in zip(kind.shape[1:], (rows, columns), strict=True)
        )
        out = np.empty((len(chunks) * kind.bands_per_chunk, *sides), kind.numpy_dtype)
        self._copy(i, shard, self._byte_ranges(i, shard, kind)[chunks], out, rows, columns)
        return out[number * kind.bands_per_chunk + band_of]

    def read_into(self, i: int, shard: int, out: np.ndarray, rows: slice, columns: slice) -> None:
        """Puts a part of the pixels of sample i into `out` [c, h', w'].

        Raises ValueError where the file is damaged, StoreError where it is refused, RemoteError.
        """
        self._copy(
            i, shard, self._byte_ranges(i, shard, self._kinds[self._kind_of[i]]), out, rows, columns
        )

    def index_range(self, i: int, shard: int) -> Range | None:
        """Where the shard index is that sample i needs; None where it is known. Raises ValueError
        where it cannot be.
        """
        kind = self._kinds[self._kind_of[i]]
        return None if (shard, kind.name) in self._indices else self._index_range(shard, kind)

    def ranges(self, i: int, shard: int) -> list[Range]:
        """Where all pixels of sample i are. Raises as `read_into`."""
        kind = self._kinds[self._kind_of[i]]
        return self._ranges(shard, kind, self._byte_ranges(i, shard, kind))

    def _copy(
        self,
        i: int,
        shard: int,
        byte_ranges: np.ndarray,
        out: np.ndarray,
        rows: slice,
        columns: slice,
    ) -> None:
        """Chunks at these byte_ranges, one after the other, into `out`."""
        kind = self._kinds[self._kind_of[i]]
        ranges = self._ranges(shard, kind, byte_ranges)
        lengths = byte_ranges[:, 1].astype(np.int64)
        here = np.stack(
            [np.cumsum(lengths) - lengths, lengths], 1
        )  # byte_ranges in what was fetched

        def attempt() -> None:
            data = _joined([remote.fetch(wanted) for wanted in ranges])
            for offset, length in here.tolist():
                _check(data[offset : offset + length])
            zarr_shards.copy_mapped(data, kind, here, out, rows, columns)

        remote.retrying(self.file(i, shard), attempt)

    def _byte_ranges(self, i: int, shard: int, kind: Kind) -> np.ndarray:
        """uint64 [chunks, 2], where the chunks of a sample are in its file."""
        key = (shard, kind.name)
        if key not in self._indices:  # no lock: two threads may read an index, and either is right
            wanted = self._index_range(shard, kind)
            self._indices[key] = remote.retrying(
                wanted.file, functools.partial(_fetch_index, wanted)
            ).reshape(self._rows, kind.chunks, 2)
        return self._indices[key][self._row(i, shard)]

    def _index_range(self, shard: int, kind: Kind) -> Range:
        entry, length = self._entries[shard][kind.name], self._rows * kind.chunks * 16 + _CRC_BYTES
        if length > entry["bytes"]:
            raise ValueError(f"{entry['bytes']} bytes are too few for an index of {length}")
        return Range(self.store / entry["file"], entry["bytes"] - length, length)

    def _ranges(self, shard: int, kind: Kind, byte_ranges: np.ndarray) -> list[Range]:
        """Where chunks are, those side by side as one. Raises ValueError for what the file cannot
        hold, before anything is allocated.
        """
        entry, runs = self._entries[shard][kind.name], []
        for offset, length in byte_ranges.tolist():
            if (
                offset + length > entry["bytes"]
                or not _CRC_BYTES < length <= kind.chunk_bytes + _MORE_BYTES
            ):
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
    """Says which samples, each with its shard, this thread reads next, all bands of them: the first
    ones are asked for at once, after their indices.

    Raises as `RemotePixels.read_into`.
    """
    remote.announce(filter(None, (pixels.index_range(i, shard) for pixels, i, shard in samples)))
    remote.announce([wanted for pixels, i, shard in samples for wanted in pixels.ranges(i, shard)])


def _fetch_index(wanted: Range) -> np.ndarray:
    """uint64, a shard index without its checksum."""
    data = np.frombuffer(remote.fetch(wanted), np.uint8)
    _check(data)
    return data[:-_CRC_BYTES].view("<u8")


def _joined(parts: list[bytes]) -> np.ndarray:
    """uint8, without a copy where there is one part."""
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def _check(data: np.ndarray) -> None:
    """Raises ValueError where the CRC-32C at the end of some bytes is not that of those
    before it.
    """
    if google_crc32c.value(data[:-_CRC_BYTES]) != int.from_bytes(
        data[-_CRC_BYTES:].tobytes(), "little"
    ):
        raise ValueError("a checksum does not match")
