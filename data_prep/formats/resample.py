"""Upsamples a band [h, w] by an integer factor with aligned pixel areas: grid corners coincide."""

from __future__ import annotations

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
    missing = _missing(band, nodata)
    fine = _weighted(np.where(missing, 0, band), factor) / (2 * factor) ** 2
    fine = (np.rint(fine) if band.dtype.kind in "iu" else fine).astype(band.dtype)
    if missing.any():
        fine[_weighted(missing, factor) > 0] = np.nan if nodata is None else nodata
    return fine


def _missing(band: np.ndarray, nodata: float | None) -> np.ndarray:
    missing = np.zeros(band.shape, bool) if nodata is None else band == nodata
    return missing | ~np.isfinite(band) if band.dtype.kind == "f" else missing


def _weighted(band: np.ndarray, factor: int) -> np.ndarray:
    """Sums [h * factor, w * factor] of the up to four coarse pixels around each fine one; weights
    add up to (2 x factor)^2.
    """
    height, width = band.shape
    before, after, rest = _neighbours(height, factor)
    rows = band.astype(np.float64)
    rows = rows[before] * (2 * factor - rest[:, None]) + rows[after] * rest[:, None]
    before, after, rest = _neighbours(width, factor)
    return rows[:, before] * (2 * factor - rest) + rows[:, after] * rest


def _neighbours(size: int, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each fine pixel along an axis, the coarse one before it, the one after it, and the weight
    of that, over 2 x factor.
    """
    # The coarse centre before each fine one, and the distance between the two.
    before, rest = np.divmod(2 * np.arange(size * factor) + 1 - factor, 2 * factor)
    return np.maximum(before, 0), np.minimum(before + 1, size - 1), rest
