"""Recycled batch buffers, per-thread scratch memory, and what the C library does with freed memory.

Fresh pages cost more than decoding into them.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import math
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np

# Of glibc's <malloc.h>. It comes to these limits by itself, once an array of 32 MiB was freed.
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 2**26
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**25
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")

_ALIGNMENT = 64  # JAX on CPU uses an array in place, without a copy, if it starts at a multiple


class BufferPool:
    """Arrays of one shape and dtype, on buffers that return to the pool by themselves.

    An array from `take` is the caller's for as long as anything refers to it or to a view of it: a
    variable, a tensor, a jax.Array that aliases it, a transfer in progress. Then its buffer is
    free. An empty pool allocates, so nobody waits and nothing in use is ever overwritten.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype, max_free: int):
        """Keeps at most `max_free` free buffers; the rest goes back to the system."""
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._free: collections.deque[np.ndarray] = collections.deque(maxlen=max_free)

    def take(self) -> np.ndarray:
        """An uninitialised array, aligned to 64 bytes. Threads may share the pool."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = _allocate(math.prod(self.shape) * self.dtype.itemsize)
        # Over a memoryview, since views of views refer to the first array: without it that would
        # be the buffer, and the root would die early.
        root = np.frombuffer(buffer.data, self.dtype)
        weakref.finalize(root, self._free.append, buffer).atexit = False
        return root.reshape(self.shape)


class Scratch(threading.local):
    """Short-lived memory, separate for each thread; it grows to the largest request and is kept."""

    def __init__(self):
        self._bytes = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        """uint8 [size], uninitialised; the thread's next call reuses it."""
        if len(self._bytes) < size:
            self._bytes = _allocate(size)
        return self._bytes[:size]


@functools.cache
def keep_freed_memory() -> None:
    """Lets this process keep up to 64 MiB of freed memory (per arena) for what it allocates next.

    Otherwise glibc gives the megabytes of each record back to the system, and their pages, fetched
    again for the next one, take more time than everything else. Limits that the environment sets
    stay; other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not any(map(os.environ.get, _USERS_OWN)):
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def _allocate(size: int) -> np.ndarray:
    """uint8 [size], aligned."""
    whole = np.empty(size + _ALIGNMENT, np.uint8)
    first = -whole.ctypes.data % _ALIGNMENT
    return whole[first : first + size]
