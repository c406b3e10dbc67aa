"""Samples decoded once and held in memory, shared by all sources of a process that read the same
bands of the same store.
"""

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
    """Pixels and labels of sample i; `bands` are numbers from 0, () for all. Raises as
    `Store.pixels`.
    """
    if store.format == "array-record" or not bands:
        sample = store[i]
        return (sample.pixels[list(bands)] if bands else sample.pixels), sample.labels
    return store.pixels(i, list(bands)), store.labels(i)


class SampleCache:
    """Samples of one store, each decoded when it is first asked for and kept as long as any source
    uses this. Threads may share it.
    """

    def __init__(self, bands: tuple[int, ...]):
        self._bands = bands
        self._samples: dict[int, Arrays] = {}
        self._pending: dict[int, int] = {}  # bytes of what is to be decoded
        self._locks: dict[int, threading.Lock] = {}

    def reserve(self, store: Store, members: np.ndarray, where: str) -> None:
        """Says that these samples are going to be held. Nothing is decoded yet.

        Raises ValueError where all that is still to be decoded, for whatever source, takes more
        than half of the free memory; `where` is its setting.
        """
        sizes = zip(
            members.tolist(), _decoded_bytes(store, members, self._bands).tolist(), strict=True
        )
        pending = self._pending | {i: size for i, size in sizes if i not in self._samples}
        others = sum(
            sum(list(other._pending.values()))
            for other in list(_SHARED.values())
            if other is not self
        )
        needed, limit = sum(pending.values()) + others, free_memory() // 2
        if needed > limit:
            raise ValueError(
                f"{where}: 'memory' needs {needed:,} bytes for the decoded samples of {store.path} "
                f"and of other sources, expected at most {limit:,}, "
                "half of the free memory; use cache='none', fewer bands, or a machine with more "
                "memory"
            )
        self._pending = pending

    def arrays(self, store: Store, i: int) -> Arrays:
        """Pixels and labels of sample i of that store, not to be written to. Raises as
        `Store.pixels`; what failed is read anew the next time.
        """
        if i not in self._samples:
            with self._locks.setdefault(
                i, threading.Lock()
            ):  # one thread decodes a scene, the others wait for it
                if i not in self._samples:
                    self._samples[i] = _read_only(read_arrays(store, i, self._bands))
                    self._pending.pop(i, None)
        return self._samples[i]


_SHARED: weakref.WeakValueDictionary[tuple[str, tuple[int, ...]], SampleCache] = (
    weakref.WeakValueDictionary()
)


def shared(store: Store, bands: tuple[int, ...]) -> SampleCache:
    """What this process holds of these bands of a store, under whatever name it was opened."""
    return _SHARED.setdefault((store.content_hash, bands), SampleCache(bands))


def free_memory() -> int:
    """Bytes that can be allocated without swapping, as Linux reckons; on other systems, all the
    memory there is.
    """
    try:
        found = re.search(
            r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    return (
        1024 * int(found[1]) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def _decoded_bytes(store: Store, members: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """int64 [m], of each sample's pixels and label maps."""
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
