"""Upsamples a band [h, w] by an integer factor with aligned pixel areas: grid corners coincide."""

from __future__ import annotations

import functools

import numpy as np


def nearest(band: np.ndarray, factor: int) -> np.ndarray:
    """[h, w] -> [h * factor, w * factor]: each pixel repeated."""
    return band.repeat(factor, 0).repeat(factor, 1)


def bilinear(band: np.ndarray, factor: int, nodata: float | None) -> np.ndarray:
    """[h, w] -> [h * factor, w * factor] of the same dtype, with the geometry of OpenCV's
    INTER_LINEAR: pixel centres at halves, edges extended.

    Integers are rounded to the nearest one, halves to even. A value is no-data (NaN where there is
    no such value) wherever a pixel that it depends on is. Weights are integers over 2 x factor, so
    sums of integers are exact and the result is the same on every machine.
    """
    rows, columns = _weights(band.shape[0], factor), _weights(band.shape[1], factor)
    missing = _missing(band, nodata)
    values = np.where(missing, 0, band).astype(np.float64)
    fine = rows @ values @ columns.T / (2 * factor) ** 2
    fine = (np.rint(fine) if band.dtype.kind in "iu" else fine).astype(band.dtype)
    if missing.any():
        touched = rows @ missing.astype(np.float64) @ columns.T > 0
        fine[touched] = np.nan if nodata is None else nodata
    return fine


def _missing(band: np.ndarray, nodata: float | None) -> np.ndarray:
    missing = np.zeros(band.shape, bool) if nodata is None else band == nodata
    return missing | ~np.isfinite(band) if band.dtype.kind == "f" else missing


@functools.lru_cache(16)
def _weights(size: int, factor: int) -> np.ndarray:
    """Weights of coarse pixels in each fine one, [size * factor, size]; rows sum to 2 x factor."""
    fine = np.arange(size * factor)
    # The coarse centre before each fine one, and the distance between the two.
    before, rest = np.divmod(2 * fine + 1 - factor, 2 * factor)
    weights = np.zeros((size * factor, size))
    np.add.at(weights, (fine, np.maximum(before, 0)), 2 * factor - rest)
    np.add.at(weights, (fine, np.minimum(before + 1, size - 1)), rest)
    return weights
