"""RankMe: the effective rank of features."""

from __future__ import annotations

import numpy as np

_EPSILON = 1e-7


def rankme(features: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of features [m, d] (Garrido et al. 2023,
    equations 1, 2): the number of directions in use. NaN where a feature is not finite.
    """
    if not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    weights = values / max(values.sum(), 1e-300) + _EPSILON
    return float(np.exp(-(weights * np.log(weights)).sum()))
