"""Bootstrap intervals: the score of the whole test set, and of its resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 200
_LOW, _HIGH = 2.5, 97.5


class Estimate(NamedTuple):
    """A score of the whole set, and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


def estimates(
    score: Callable[[np.ndarray], Mapping[str, float]], units: int, seed: int = 0
) -> dict[str, Estimate]:
    """{name: Estimate} of `score`, which takes the weights of all units, float64 [units].

    Units, images for maps and samples otherwise, are drawn with replacement 200 times, as
    torchgeo-bench does; predictions stay. Resamples where a score is undefined (NaN) are left out.
    """
    whole = score(np.ones(units))
    draws = np.random.default_rng(seed).integers(0, units, (RESAMPLES, units))
    resampled = [score(np.bincount(draw, minlength=units).astype(np.float64)) for draw in draws]
    found = {}
    for name, value in whole.items():
        values = np.array([scores[name] for scores in resampled])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (_LOW, _HIGH)) if len(values) else (np.nan, np.nan)
        found[name] = Estimate(float(value), float(low), float(high))
    return found
