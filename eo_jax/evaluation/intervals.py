"""Bootstrap intervals: the score of the whole test set, and of its resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 200
_LOW, _HIGH = 2.5, 97.5

# Weights of all units, float64 [units] -> {name: a number, or one per class [k]}.
Score = Callable[[np.ndarray], Mapping[str, "float | np.ndarray"]]


class Estimate(NamedTuple):
    """A score of the whole set, and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


class Resampled(NamedTuple):
    """A score of the whole set, a number or [k], and of its resamples [200] or [200, k].

    The same seed draws the same units, so that two candidates are compared resample by resample.
    """

    value: np.ndarray
    draws: np.ndarray


def resampled(score: Score, units: int, seed: int = 0) -> dict[str, Resampled]:
    """{name: Resampled} of `score`.

    Units, images for maps and samples otherwise, are drawn with replacement 200 times, as
    torchgeo-bench does; predictions stay.
    """
    whole = score(np.ones(units))
    draws = np.random.default_rng(seed).integers(0, units, (RESAMPLES, units))
    found = [score(np.bincount(draw, minlength=units).astype(np.float64)) for draw in draws]
    return {
        name: Resampled(np.asarray(value), np.array([scores[name] for scores in found]))
        for name, value in whole.items()
    }


def interval(value: float, draws: np.ndarray) -> Estimate:
    """A number with the interval of its resamples [200]; those where it is undefined (NaN) are left
    out.
    """
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, (_LOW, _HIGH)) if len(draws) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def estimates(score: Score, units: int, seed: int = 0) -> dict[str, Estimate]:
    """{name: Estimate} of `score`, which gives numbers."""
    return {name: interval(*found) for name, found in resampled(score, units, seed).items()}
