"""Exact quantiles of data larger than memory, by counting 16-bit digits, one pass per digit.

Values become unsigned integers in the same order, of one digit (8 and 16 bits), two (32 bits) or
four (64 bits). The first pass counts the upper digits; each later pass counts the next digit, but
only of values that share their upper digits with a wanted value. A single pass in bounded memory
could only approximate. The counts of a pass take at most bands x 65,536 x 10 bytes per wanted
prefix, of which there is one in the first pass and twice the number of quantiles in later ones;
digits that do not occur take no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_BITS = 16
_DIGITS = 2**_BITS


class Counts(NamedTuple):
    """Histogram of a digit: digits uint16 [n], ascending, and counts int64 [n]."""

    digits: np.ndarray
    counts: np.ndarray


# Counts of digits by (band, the digits above them as one number).
PrefixCounts = dict[tuple[int, int], Counts]


def passes(dtype: np.dtype) -> int:
    """Number of passes over the data for a dtype."""
    return max(1, dtype.itemsize * 8 // _BITS)


def count(band: int, values: np.ndarray, number: int, prefixes: Sequence[int]) -> PrefixCounts:
    """Counts of the next digit of values [n] without NaN, for each of the prefixes, in pass
    `number`, from 0.
    """
    keys = to_sortable(values)
    shift = _BITS * (passes(values.dtype) - 1 - number)
    if number == 0:
        return {(band, 0): _counts(keys >> shift)}
    upper = keys >> (shift + _BITS)
    return {
        (band, prefix): _counts((keys[upper == prefix] >> shift) & (_DIGITS - 1))
        for prefix in prefixes
    }


def merge(into: PrefixCounts, found: Mapping[tuple[int, int], Counts]) -> None:
    """Adds counts to `into`."""
    for key, counts in found.items():
        into[key] = _sum(into[key], counts) if key in into else counts


class Selection:
    """The quantiles of every band of one sensor, narrowed down pass by pass."""

    def __init__(self, dtype: np.dtype, bands: int, levels: Sequence[float]):
        """`dtype` of the values, number of bands, and levels in [0, 1]."""
        self.dtype, self.levels = dtype, tuple(levels)
        self.prefixes: list[list[int]] = [[0]] * bands
        self._sizes = [0] * bands
        # Per band: {rank: (prefix of the value at that rank, its rank among values of that prefix)}
        self._ranks: list[dict[int, tuple[int, int]]] = [{} for _ in range(bands)]

    def narrow(self, number: int, found: PrefixCounts) -> None:
        """Applies the counts of pass `number` over all the data."""
        if number == 0:
            self._begin(found)
        for band, ranks in enumerate(self._ranks):
            self._ranks[band] = {
                rank: _descend(found[band, prefix], prefix, left)
                for rank, (prefix, left) in ranks.items()
            }
            self.prefixes[band] = sorted({prefix for prefix, _ in self._ranks[band].values()})

    def result(self) -> list[list[float | None]]:
        """For each level one value per band, interpolated as np.quantile does; None for a band
        without values.
        """
        return [
            [self._quantile(band, level) for band in range(len(self._sizes))]
            for level in self.levels
        ]

    def _begin(self, found: PrefixCounts) -> None:
        for band in range(len(self._sizes)):
            size = int(found[band, 0].counts.sum()) if (band, 0) in found else 0
            self._sizes[band] = size
            neighbours = (
                [rank for level in self.levels for rank in _neighbours(level, size)] if size else []
            )
            self._ranks[band] = {rank: (0, rank) for rank in neighbours}

    def _quantile(self, band: int, level: float) -> float | None:
        size = self._sizes[band]
        if not size:
            return None
        low, high = (self._value(band, rank) for rank in _neighbours(level, size))
        weight = (size - 1) * level % 1
        # Written this way, it does not overflow.
        return float(low) if low == high else (1 - weight) * low + weight * high

    def _value(self, band: int, rank: int) -> int | float:
        return from_sortable(self._ranks[band][rank][0], self.dtype)


def to_sortable(values: np.ndarray) -> np.ndarray:
    """Unsigned integers of the same width and order as the values, none of which may be NaN."""
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    if values.dtype.kind in "bu":
        return bits
    sign = bits.dtype.type(1 << (8 * values.itemsize - 1))
    if values.dtype.kind == "i":
        return bits ^ sign
    return np.where(bits & sign, ~bits, bits | sign)  # negative floats count downwards


def from_sortable(key: int, dtype: np.dtype) -> int | float:
    """The inverse of `to_sortable` for one value."""
    sign = 1 << (8 * dtype.itemsize - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key = key ^ sign if key & sign else ~key & (2 * sign - 1)
    return np.array(key, f"u{dtype.itemsize}").view(dtype).item()


def _neighbours(level: float, size: int) -> tuple[int, int]:
    """The ranks between which a quantile of `size` values is interpolated."""
    low = math.floor((size - 1) * level)
    return low, min(low + 1, size - 1)


def _descend(counts: Counts, prefix: int, left: int) -> tuple[int, int]:
    """The prefix with the next digit of the value at rank `left` in `counts`, and the rank of that
    value among those of the new prefix.
    """
    ends = np.cumsum(counts.counts)
    index = int(np.searchsorted(ends, left, side="right"))
    start = int(ends[index] - counts.counts[index])
    return prefix << _BITS | int(counts.digits[index]), left - start


def _counts(digits: np.ndarray) -> Counts:
    if not len(digits):
        return Counts(np.empty(0, np.uint16), np.empty(0, np.int64))
    low = int(digits.min())
    counts = np.bincount((digits - digits.dtype.type(low)).astype(np.int64))
    present = np.flatnonzero(counts)
    return Counts((present + low).astype(np.uint16), counts[present])


def _sum(one: Counts, other: Counts) -> Counts:
    counts = np.zeros(_DIGITS, np.int64)
    counts[one.digits] += one.counts
    counts[other.digits] += other.counts
    present = np.flatnonzero(counts)
    return Counts(present.astype(np.uint16), counts[present])
