"""Tests of `eo_jax.monitor.display` and of the metrics that it shows."""

from __future__ import annotations

import numpy as np
import pytest

from eo_jax.monitor import display as module
from eo_jax.monitor import metrics
from eo_jax.monitor.display import Display


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""

    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_plain_line_has_the_numbers_and_the_time_left(clock, capsys):
    display = Display(first_step=10, steps=40)
    clock.now += 20.0
    rates = {"samples_per_s": 12.34, "flops_per_s": 5.6e9, "mfu": 0.321}
    display.log(20, {"loss": 0.12342, "lr": 1e-3, "grad_norm": 2.0, "skipped": 0.0, **rates})
    display.log(30, {"loss": float("nan"), "lr": 1e-3, "grad_norm": 2.0, "skipped": 1.0})
    display.close()
    first, second = capsys.readouterr().out.splitlines()
    assert (
        first
        == "step     20/40  loss 0.1234  lr 1.00e-03  grad 2.000  12.3 samples/s  5.6 GFLOP/s  MFU "
        "32.1%  left 0:40"
    )
    assert second.endswith("loss nan  lr 1.00e-03  grad 2.000  NOT FINITE: step skipped  left 0:10")


def test_features_become_their_rankme_and_are_shown_by_source(capsys):
    features = np.eye(6, 4)[:, :3] * [2.0, 2.0, 2.0]
    values = {
        "loss": np.float32(1),
        "lr": np.float32(0),
        "grad_norm": np.float32(1),
        "pooled/s1": features,
        "pooled/s2": np.full((4, 3), np.nan),
    }
    found = metrics.to_scalars(
        values | {"feature_rank/s1": np.float32(2.5), "accuracy": np.float32(0.5)}
    )
    assert found.keys() == {
        "loss",
        "lr",
        "grad_norm",
        "feature_rank/s1",
        "accuracy",
        "rankme/s1",
        "rankme/s2",
    }
    assert all(type(value) is float for value in found.values())
    assert found["rankme/s1"] == pytest.approx(3, rel=1e-4) and np.isnan(found["rankme/s2"])
    Display(0, 10).log(1, found)
    assert "  rank s1 2.5  RankMe s1 3  RankMe s2 nan  accuracy 0.5  " in capsys.readouterr().out


def test_a_collapsed_run_says_so_but_not_a_fresh_one(capsys):
    display = Display(0, 100)
    line = {
        "loss": 1.0,
        "lr": 1e-3,
        "grad_norm": 0.1,
        "feature_std/s1": 0.001,
        "feature_std/s2": 0.8,
    }
    fine = line | {"feature_std/s1": 0.5}
    for step, values in (
        (1, line),
        (50, line),
        (51, fine),
        (52, fine | {"embedding_std/s2": 0.01}),
    ):
        display.log(step, values | metrics.collapse(step, 100, values))
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert "COLLAPSED: feature_std/s1 below 0.02" in second and "COLLAPSED" not in first + third
    assert "COLLAPSED: embedding_std/s2 below 0.02" in last
