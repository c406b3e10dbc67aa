"""A checksum of an array that does not depend on how it is spread over devices and processes.

It is the sum, modulo 2^32, of a hash of each word (32 bits, or one element where that is smaller)
and its position in the whole array. So the sums of parts add up to that of the whole, whoever holds
them. The hash is a bijection of the word: damage to one word always changes the sum, any other
damage but for a chance of 2^-32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from eo_jax import rules

_BLOCK = 1 << 16  # words at once: they and their hashes stay in the cache of a core
_THREADS = min(8, os.cpu_count() or 1)


def of_leaves(state: Any) -> dict[str, int]:
    """{path: checksum} of every leaf of a tree of jax.Arrays.

    Each process reads the parts of which it has the first replica, and all learn the sums: with
    several processes, all have to call this.
    """
    leaves = dict(rules.paths(state))
    with ThreadPoolExecutor(_THREADS) as threads:  # numpy releases Python's lock
        sums = np.array(list(threads.map(_of_own_parts, leaves.values())), np.uint32)
    if jax.process_count() > 1:
        sums = np.asarray(multihost_utils.process_allgather(sums)).sum(axis=0, dtype=np.uint32)
    return dict(zip(leaves, sums.tolist(), strict=True))


def _of_own_parts(leaf: jax.Array) -> int:
    parts = (shard for shard in leaf.addressable_shards if shard.replica_id == 0)
    total = sum(
        of_part(np.asarray(part.data), [axis.start or 0 for axis in part.index], leaf.shape)
        for part in parts
    )
    return total % 2**32


def of_array(array: np.ndarray) -> int:
    """The checksum of a whole array."""
    return of_part(array, (0,) * array.ndim, array.shape)


def of_part(part: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> int:
    """What the part that begins at index `start` adds to the checksum of an array of this shape."""
    size = part.dtype.itemsize
    rows, run = _contiguous_runs(shape, start, part.shape, words=max(1, size // 4))
    word = {1: np.uint8, 2: np.uint16}.get(size, np.uint32)
    words = np.ascontiguousarray(part).reshape(-1).view(word).reshape(len(rows), run)
    height, total = max(1, _BLOCK // max(1, run)), 0
    for top in range(0, len(rows), height):
        for left in range(0, run, _BLOCK):
            block = words[top : top + height, left : left + _BLOCK]
            columns = np.arange(left, left + block.shape[1], dtype=np.uint32)
            total += _sum_of_hashes(block, rows[top : top + height, None] + columns)
    return total % 2**32


def _contiguous_runs(
    shape: Sequence[int], start: Sequence[int], held: Sequence[int], words: int
) -> tuple[np.ndarray, int]:
    """(positions in the whole array where the runs of a part begin, words in each run).

    Positions are modulo 2^32.
    """
    axis, run = len(shape), words
    while axis and held[axis - 1] == shape[axis - 1]:
        axis -= 1
        run *= shape[axis]
    stride, rows = run, np.zeros(1, np.uint64)
    if axis:  # the last axis that is split: what is held of it is contiguous
        axis -= 1
        rows += np.uint64(start[axis] * stride)
        stride, run = stride * shape[axis], run * held[axis]
    while axis:
        axis -= 1
        offsets = np.arange(start[axis], start[axis] + held[axis], dtype=np.uint64)
        rows = (offsets[:, None] * np.uint64(stride) + rows).reshape(-1)
        stride *= shape[axis]
    return rows.astype(np.uint32), run


def _sum_of_hashes(words: np.ndarray, positions: np.ndarray) -> int:
    """Overwrites `positions`. The hash is the finalizer of MurmurHash3, of the word XOR the
    position times 2^32 / golden ratio.
    """
    x = positions
    x *= np.uint32(0x9E3779B9)
    x ^= words
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return int(x.sum(dtype=np.uint64))
