"""Decoded samples in memory, shared by a process's sources that read the same bands of a store."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from eo_jax.data.store.reader import Store

# Pixels [c, h, w] and labels by name.
Arrays: TypeAlias = tuple[np.ndarray, Mapping[str, np.ndarray]]


def read_arrays(store: Store, i: int, bands: tuple[int, ...]) -> Arrays:
    """Pixels and labels of sample i; `bands` are numbers from 0, () for all.

    Raises as `Store.pixels`.
    """
    if store.format == "array-record" or not bands:
        sample = store[i]
        return (sample.pixels[list(bands)] if bands else sample.pixels), sample.labels
    return store.pixels(i, list(bands)), store.labels(i)


class SampleCache:
    """Samples of one store, each decoded on first use and kept as long as a source uses the cache.

    Threads may share it.
    """

    def __init__(self, bands: tuple[int, ...]):
        self._bands = bands
        self._samples: dict[int, Arrays] = {}
        self._pending: dict[int, int] = {}  # bytes of samples still to be decoded
        self._locks: dict[int, threading.Lock] = {}

    def reserve(self, store: Store, members: np.ndarray, where: str) -> None:
        """Announces that these samples will be held. Nothing is decoded yet.

        Raises ValueError where all samples still to be decoded, for any source, need more than half
        of the free memory; `where` is the source's setting.
        """
        sizes = _decoded_bytes(store, members, self._bands).tolist()
        pending = self._pending | {
            i: size
            for i, size in zip(members.tolist(), sizes, strict=True)
            if i not in self._samples
        }
        others = [cache for cache in list(_CACHES.values()) if cache is not self]
        needed = sum(pending.values()) + sum(sum(list(c._pending.values())) for c in others)
        limit = free_memory() // 2
        if needed > limit:
            raise ValueError(
                f"{where}: 'memory' needs {needed:,} bytes for the decoded samples of {store.path} "
                f"and of other sources, expected at most {limit:,}, half of the free memory; use "
                "cache='none', fewer bands, or a machine with more memory"
            )
        self._pending = pending

    def arrays(self, store: Store, i: int) -> Arrays:
        """Pixels and labels of sample i of that store, read-only.

        Raises as `Store.pixels`; a failed read is repeated the next time.
        """
        if i not in self._samples:
            # One thread decodes a scene, the others wait for it.
            with self._locks.setdefault(i, threading.Lock()):
                if i not in self._samples:
                    self._samples[i] = _read_only(read_arrays(store, i, self._bands))
                    self._pending.pop(i, None)
        return self._samples[i]


_CACHES: weakref.WeakValueDictionary[tuple[str, tuple[int, ...]], SampleCache] = (
    weakref.WeakValueDictionary()
)


def cache_of(store: Store, bands: tuple[int, ...]) -> SampleCache:
    """This process's cache of these bands of a store, under whatever path it was opened."""
    return _CACHES.setdefault((store.content_hash, bands), SampleCache(bands))


def free_memory() -> int:
    """Bytes that can be allocated without swapping, by Linux' estimate; elsewhere, all memory."""
    try:
        found = re.search(
            r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _decoded_bytes(store: Store, members: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """int64 [m], bytes of each sample's pixels and label maps."""
    shapes = store.index["shape"][members].astype(np.int64)
    dtypes, dtype_of = np.unique(store.index["dtype"][members], return_inverse=True)
    widths = np.array([np.dtype(str(name)).itemsize for name in dtypes])[dtype_of]
    maps = sum(
        np.dtype(about["dtype"]).itemsize
        for about in store.manifest.get("labels", {}).values()
        if about["shape"] == "map"
    )
    return shapes[:, 1:].prod(1) * ((len(bands) or shapes[:, 0]) * widths + maps)


def _read_only(arrays: Arrays) -> Arrays:
    pixels, labels = arrays
    for array in (pixels, *labels.values()):
        array.setflags(write=False)
    return arrays
