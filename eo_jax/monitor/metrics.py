"""Metrics that every step has: how they describe themselves, and their values on the host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eo_jax.monitor.metric import Metric
from eo_jax.monitor.rankme import rankme
from eo_jax.schema import POOLED

# The display formats rates in units of their own, so they have no short name here.
_EVERY_STEP = {
    "loss": Metric("Loss", "loss", "log"),
    "lr": Metric("Learning rate", "lr"),
    "samples_per_s": Metric("Samples per second"),
    "flops_per_s": Metric(""),
    "grad_norm": Metric("Gradient norm", "grad", "log"),
    "update_norm": Metric("Norm of the updates", "update", "log"),
    "param_norm": Metric(""),
    "mfu": Metric("Model FLOPs utilisation"),
    "valid_fraction": Metric("Fraction of pixels with any valid band"),
}
_RANKME = {"rankme": Metric("RankMe of features", "RankMe")}

_SPREADS = ("feature_std", "embedding_std")
COLLAPSED_BELOW = 0.02  # spread of unit-length vectors; 1 where they point in all directions


def step_metrics(objective_metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """{name: description} of everything that a step may log, in the order of log line and report.

    Args:
        objective_metrics: `Objective.metrics`. Those of features and embeddings come before RankMe.
    """
    of_features = {
        name: metric
        for name, metric in objective_metrics.items()
        if name.startswith(("feature_", "embedding_"))
    }
    return {**_EVERY_STEP, **of_features, **_RANKME, **objective_metrics}


def to_scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The values of a step as floats; features "pooled/<source>" [m, d] become "rankme/<source>".

    RankMe is computed here and not on the device, which runs the next step meanwhile.
    """
    ranks = {
        f"rankme/{name.removeprefix(POOLED)}": rankme(value)
        for name, value in values.items()
        if name.startswith(POOLED)
    }
    scalars = {name: float(value) for name, value in values.items() if not name.startswith(POOLED)}
    return scalars | ranks


def collapse(step: int, steps: int, values: Mapping[str, float | str]) -> dict[str, str]:
    """{"collapsed": names of the spreads below their limit}; {} where there are none.

    The first tenth of a run is exempt, because embeddings of a fresh network are alike.
    """
    collapsed = [
        name
        for name, value in values.items()
        if name.startswith(_SPREADS) and value < COLLAPSED_BELOW
    ]
    return {"collapsed": ", ".join(collapsed)} if collapsed and step * 10 >= steps else {}
