"""The largest batch that fits, and the least recomputation that makes a batch fit, with few
compilations: bytes are linear in the batch, to a compiler's whims.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

# From no recomputation to the most.
REMAT = ("none", "cheap", "block")


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that fits.

    Attributes:
        batch: samples; 0 where not even the smallest fits.
        bytes: on one device.
        verified: whether it was compiled, not only predicted.
    """

    batch: int
    bytes: float
    verified: bool


def largest_batch(
    known: Mapping[int, float],
    slope: float,
    limit: float,
    multiple: int,
    measure: Callable[[int], float],
    compiles: int,
) -> Largest:
    """Follows the line through what is known, and compiles where it meets the limit.

    Args:
        known: {batch: bytes on a device}; one at least.
        slope: bytes per sample, until two are known.
        limit: bytes of a device.
        multiple: a batch is a multiple of it.
        measure: batch -> bytes.
        compiles: calls of `measure` at most.
    """
    points, left = dict(known), compiles
    while True:
        fixed, rise = _line(points, slope, limit)
        batch = max(0, int((limit - fixed) / rise) // multiple * multiple)
        smallest_too_large = [size for size, bytes in points.items() if bytes > limit]
        if smallest_too_large:
            batch = min(batch, (min(smallest_too_large) - 1) // multiple * multiple)
        if batch in points or not batch or not left:
            break
        points[batch] = measure(batch)
        left -= 1
    return Largest(batch, points.get(batch, fixed + rise * batch), batch in points)


def _line(points: Mapping[int, float], slope: float, limit: float) -> tuple[float, float]:
    """(bytes without samples, bytes per sample) through the two points nearest to the limit."""
    nearest = sorted(points.items(), key=lambda point: abs(point[1] - limit))[:2]
    if len(nearest) == 2:
        (a, bytes_a), (b, bytes_b) = nearest
        slope = max((bytes_b - bytes_a) / (b - a), slope / 4)  # never flat, however odd the points
    batch, bytes = nearest[0]
    return bytes - slope * batch, slope


def least_remat(predicted: Mapping[str, float], limit: float) -> str:
    """The first of `REMAT` whose bytes are within the limit; "" for none of them."""
    return next((name for name in REMAT if predicted.get(name, limit + 1) <= limit), "")
