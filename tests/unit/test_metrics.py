"""Tests of `eo_jax.monitor.metrics`: values of a step as numbers, and how they are described."""

from __future__ import annotations

import numpy as np
import pytest

from eo_jax.monitor import metrics
from eo_jax.monitor.metric import Metric


def test_features_become_their_rankme_by_source():
    features = np.eye(6, 4)[:, :3] * [2.0, 2.0, 2.0]
    found = metrics.to_scalars(
        {
            "loss": np.float32(1),
            "pooled/s1": features,
            "pooled/s2": np.full((4, 3), np.nan),
            "feature_rank/s1": np.float32(2.5),
        }
    )
    assert found.keys() == {"loss", "feature_rank/s1", "rankme/s1", "rankme/s2"}
    assert all(type(value) is float for value in found.values())
    assert found["rankme/s1"] == pytest.approx(3, rel=1e-4) and np.isnan(found["rankme/s2"])


def test_metrics_of_the_objective_follow_those_of_every_step_and_its_features_come_before_rankme():
    own = {name: Metric(name) for name in ("accuracy", "feature_rank", "embedding_std")}
    described = metrics.step_metrics(own)
    assert list(described)[:2] == ["loss", "lr"]
    assert list(described)[-4:] == ["feature_rank", "embedding_std", "rankme", "accuracy"]
    assert own.items() <= described.items()


def test_collapse_is_reported_by_name_but_not_in_the_first_tenth_of_a_run():
    collapsed = {"loss": 1e-3, "feature_std/s1": 0.001, "feature_std/s2": 0.8}
    healthy = collapsed | {"feature_std/s1": 0.5}
    assert metrics.collapse(1, 100, collapsed) == {}
    assert metrics.collapse(50, 100, collapsed) == {"collapsed": "feature_std/s1"}
    assert metrics.collapse(50, 100, healthy) == {}
    found = metrics.collapse(50, 100, collapsed | {"embedding_std/s2": 0.01})
    assert found == {"collapsed": "feature_std/s1, embedding_std/s2"}
