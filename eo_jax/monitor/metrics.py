"""Metrics that every step has, as numbers of the host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eo_jax.monitor.rankme import rankme

_SPREADS = ("feature_std", "embedding_std")
_POOLED = "pooled/"  # what `step.make_pooled` gives
COLLAPSED_BELOW = 0.02  # of unit-length vectors; 1 is where they point everywhere alike


def to_scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What a step gave as numbers: of features "pooled/<source>" [m, d] their "rankme/<source>".

    They are taken apart here and not on the device, which runs the next step meanwhile.
    """
    ranks = {
        f"rankme/{name.removeprefix(_POOLED)}": rankme(value)
        for name, value in values.items()
        if name.startswith(_POOLED)
    }
    return {
        name: float(value) for name, value in values.items() if not name.startswith(_POOLED)
    } | ranks


def collapse(step: int, steps: int, values: Mapping[str, float | str]) -> dict[str, str]:
    """{"collapsed": what is below its limit} where embeddings have become the same for all samples,
    else nothing.

    Not in the first tenth of the run, when those of a fresh network still are the same.
    """
    flat = [
        name
        for name, value in values.items()
        if name.startswith(_SPREADS) and value < COLLAPSED_BELOW
    ]
    return {"collapsed": ", ".join(flat)} if flat and step * 10 >= steps else {}
