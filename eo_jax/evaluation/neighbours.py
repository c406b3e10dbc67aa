"""Exact nearest neighbours of many features, in blocks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_BLOCK_BYTES = 2**26  # of products
_SPARE = 16  # candidates beyond k that are compared exactly
_ROUNDING = 4 * np.finfo(np.float32).eps
_ROWS = 4096  # that are converted at a time


def nearest(x: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(distance float64 [q, k], row of `x` int64 [q, k]) of the k nearest rows of x [m, d] to each
    query [q, d], nearest first; of equal distances, the first row first.

    |a|^2 - 2 ab + |b|^2 in float32 finds candidates. Its error is relative to the squared norms, so
    that distances of near duplicates are lost in it: candidates are compared by |a - b| in float64,
    and so is every row that this error could hide.
    """
    k = min(k, len(x))
    centre = x.mean(0, dtype=np.float64)  # smaller norms, smaller errors
    # Scaled, since float32 overflows above 1e19.
    largest = [np.abs(part - centre).max() for values in (x, queries) for part in _parts(values)]
    scale = max(*largest, 1e-300)
    group = max(1, math.isqrt(len(x) // (k + _SPARE)))
    near, norms = _prepared(x, centre, scale, group)
    rows = max(1, _BLOCK_BYTES // near[:, :1].nbytes)
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    for block in _slices(len(queries), rows):
        asked = ((queries[block] - centre) / scale).astype(np.float32)
        squared = asked @ near.T
        squared += norms
        squared += np.square(asked).sum(1)[:, None]
        candidates = _smallest(squared, min(k + _SPARE, len(x)), group)
        found = _compared(x, queries[block], candidates, k)
        hidden = _hidden(squared, found[0][:, -1] / scale, candidates, asked, norms[: len(x)])
        for query, rows_of_query in hidden:
            one = queries[block][query : query + 1]
            again = _compared(x, one, rows_of_query[None], k)
            found[0][query], found[1][query] = again[0][0], again[1][0]
        distances[block], indices[block] = found
    return distances, indices


def _slices(count: int, rows: int) -> Iterator[slice]:
    return (slice(i, i + rows) for i in range(0, count, rows))


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[part] for part in _slices(len(values), _ROWS))


def _prepared(
    x: np.ndarray, centre: np.ndarray, scale: float, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """(-2 x scaled, float32 [m1, d]; squared norms [m1]); m1 is a multiple of `group`, and norms
    of the rows that were added are infinite.
    """
    padded = -(-len(x) // group) * group
    near = np.zeros((padded, x.shape[1]), np.float32)
    for part in _slices(len(x), _ROWS):
        near[part][: len(x[part])] = (x[part] - centre) / scale
    norms = np.full(padded, np.inf, np.float32)
    norms[: len(x)] = np.einsum("md,md->m", near, near)[: len(x)]
    near *= -2  # exact
    return near, norms


def _smallest(squared: np.ndarray, count: int, group: int) -> np.ndarray:
    """Columns int64 [q, count] of the smallest values [q, m1] of each row, ascending.

    They are in the `count` groups of columns with the smallest minima, since each of those has one
    at least; so that few values are sorted.
    """
    by_group = squared.reshape(len(squared), -1, group)
    minima = by_group.min(2)
    if count < minima.shape[1]:
        groups = np.argpartition(minima, count - 1, axis=1)[:, :count]
    else:
        groups = np.broadcast_to(np.arange(minima.shape[1]), minima.shape)
    values = np.take_along_axis(by_group, groups[:, :, None], 1).reshape(len(squared), -1)
    columns = (groups[:, :, None] * group + np.arange(group)).reshape(len(squared), -1)
    chosen = np.argpartition(values, count - 1, axis=1)[:, :count]
    return np.sort(np.take_along_axis(columns, chosen, 1), axis=1)


def _hidden(
    squared: np.ndarray,
    distances: np.ndarray,
    candidates: np.ndarray,
    asked: np.ndarray,
    norms: np.ndarray,
) -> Iterator[tuple[int, np.ndarray]]:
    """(query, every row that may be among its neighbours), where rows that are no candidates may.

    Args:
        distances: [q], scaled, exact, of the last neighbour found.
    """
    if candidates.shape[1] == len(norms):
        return
    # The error of a float32 sum of d products is below d x eps x the sum of their sizes.
    error = _ROUNDING * asked.shape[1] * (np.square(asked).sum(1) + norms.max())
    limit = np.square(distances) + 2 * error
    bound = np.take_along_axis(squared, candidates, 1).max(1)
    for query in np.flatnonzero(limit > bound):
        yield int(query), np.flatnonzero(squared[query] <= limit[query])


def _compared(
    x: np.ndarray, queries: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of candidates [q, n], ascending rows, by distances in float64."""
    distances = np.empty(candidates.shape)
    for query, rows in enumerate(candidates):
        for part in _slices(len(rows), _ROWS):
            difference = x[rows[part]].astype(np.float64) - queries[query]
            distances[query, part] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1)
