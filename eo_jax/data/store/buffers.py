"""Memory that is used again: batch buffers whose last user is gone, and scratch of one thread.
Fresh pages cost more than decoding into them.
"""

from __future__ import annotations

import collections
import math
import threading
import weakref
from collections.abc import Sequence

import numpy as np

_ALIGNMENT = 64  # at a multiple of it JAX on CPU takes an array as it is instead of copying it


class Pool:
    """Arrays of one shape and dtype on buffers that return by themselves.

    An array from `take` is the caller's for as long as anything refers to it or to a view of it: a
    variable, a tensor, a jax.Array that aliases it, a transfer under way. Then its buffer is free.
    An empty pool allocates, so nobody waits and nothing in use is ever overwritten.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype, most: int):
        """`most` is the number of free buffers that are kept; those beyond it go back to the
        system.
        """
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._free: collections.deque[np.ndarray] = collections.deque(maxlen=most)

    def take(self) -> np.ndarray:
        """An array of any content, aligned to 64 bytes. Threads may share the pool."""
        try:
            slot = self._free.pop()
        except IndexError:
            slot = _allocate(math.prod(self.shape) * self.dtype.itemsize)
        # Over a memoryview, since views of views refer to the first array: over the slot itself
        # that would be the slot, and the root would die early.
        root = np.frombuffer(slot.data, self.dtype)
        weakref.finalize(root, self._free.append, slot).atexit = False
        return root.reshape(self.shape)


class Scratch(threading.local):
    """Bytes for a moment's work, of each thread its own. They grow to the largest request
    and stay.
    """

    def __init__(self):
        self._bytes = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        """uint8 [size], of any content, until the thread's next call."""
        if len(self._bytes) < size:
            self._bytes = _allocate(size)
        return self._bytes[:size]


def _allocate(size: int) -> np.ndarray:
    """uint8 [size], aligned."""
    whole = np.empty(size + _ALIGNMENT, np.uint8)
    first = -whole.ctypes.data % _ALIGNMENT
    return whole[first : first + size]
