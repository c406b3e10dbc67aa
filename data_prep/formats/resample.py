"""Brings a band [h, w] onto a grid that is a whole number of times finer, pixel areas aligned: the
corners of both grids are the same points.
"""

from __future__ import annotations

import functools

import numpy as np


def nearest(band: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] -> [h * factor, w * factor]: each pixel repeated."""
    return band.repeat(factor, 0).repeat(factor, 1)


def bilinear(band: np.ndarray, factor: int, nodata: float | None) -> np.ndarray:
    """Integers [h, w] -> [h * factor, w * factor] of the same dtype, as OpenCV's INTER_LINEAR
    locations them: pixel centres at halves, edges held.

    The interpolated value is rounded to the nearest integer, halves to the even one. It is no-data
    wherever a pixel that it would draw on is. Weights are whole numbers over 2 x factor, so sums
    are exact and the outcome is the same on every machine.
    """
    rows, columns = _weights(band.shape[0], factor), _weights(band.shape[1], factor)
    fine = np.rint(rows @ band.astype(np.float64) @ columns.T / (2 * factor) ** 2).astype(
        band.dtype
    )
    if nodata is not None and (band == nodata).any():
        fine[rows @ (band == nodata).astype(np.float64) @ columns.T > 0] = nodata
    return fine


@functools.lru_cache(16)
def _weights(size: int, factor: int) -> np.ndarray:
    """[size * factor, size], each row adding up to 2 x factor: what each coarse pixel gives to each
    fine one.
    """
    fine = np.arange(size * factor)
    before, rest = np.divmod(
        2 * fine + 1 - factor, 2 * factor
    )  # the coarse centre before the fine one, and how far beyond it that lies
    weights = np.zeros((size * factor, size))
    np.add.at(weights, (fine, np.maximum(before, 0)), 2 * factor - rest)
    np.add.at(weights, (fine, np.minimum(before + 1, size - 1)), rest)
    return weights
