"""Exact nearest neighbours of many features, in blocks of bounded memory."""

from __future__ import annotations

import numpy as np

_BLOCK_BYTES = 2**28
_SPARE = 16  # candidates beyond k that are compared exactly
_ROUNDING = 4 * np.finfo(np.float32).eps


def nearest(x: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(distance float64 [q, k], row of `x` int64 [q, k]) of the k nearest rows of x [m, d] to each
    query [q, d], nearest first; of equal distances, the first row first.

    |a|^2 - 2 ab + |b|^2 in float32 finds candidates. Its error is relative to the squared norms, so
    that distances of near duplicates are lost in it: candidates are compared by |a - b| in float64,
    and a query whose candidates could miss a neighbour by that error is compared with every row.
    """
    k = min(k, len(x))
    centre = x.mean(0, dtype=np.float64)  # smaller norms, smaller errors
    # Scaled, since float32 overflows above 1e19.
    scale = max(np.abs(x - centre).max(), np.abs(queries - centre).max(), 1e-300)
    near, asked = (((values - centre) / scale).astype(np.float32) for values in (x, queries))
    norms = np.square(near).sum(1)
    rows = max(1, _BLOCK_BYTES // (4 * len(x)))
    parts = [
        _nearest_of_block(x, near, norms, queries[i : i + rows], asked[i : i + rows], k, scale)
        for i in range(0, len(queries), rows)
    ]
    distances, indices = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def _nearest_of_block(
    x: np.ndarray,
    near: np.ndarray,
    norms: np.ndarray,
    queries: np.ndarray,
    asked: np.ndarray,
    k: int,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    asked_norms = np.square(asked).sum(1)
    squared = norms - 2 * (asked @ near.T) + asked_norms[:, None]
    count = min(k + _SPARE, len(x))
    if count == len(x):
        candidates = np.broadcast_to(np.arange(len(x)), squared.shape)
    else:
        candidates = np.sort(np.argpartition(squared, count - 1, axis=1)[:, :count], axis=1)
    distances, indices = _compared(x, queries, candidates, k)
    if count < len(x):
        # The error of a float32 sum of d products is below d x eps x the sum of their sizes.
        error = _ROUNDING * x.shape[1] * (asked_norms + norms.max())
        bound = np.take_along_axis(squared, candidates, 1).max(1) - 2 * error
        unsure = np.square(distances[:, -1] / scale) > bound
        for query in np.flatnonzero(unsure):
            every = np.arange(len(x))[None]
            distances[query], indices[query] = (
                part[0] for part in _compared(x, queries[query : query + 1], every, k)
            )
    return distances, indices


def _compared(
    x: np.ndarray, queries: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of candidates [q, n], ascending rows, by distances in float64."""
    distances = np.empty(candidates.shape)
    for query, rows in enumerate(candidates):
        difference = x[rows].astype(np.float64) - queries[query]
        distances[query] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1)
