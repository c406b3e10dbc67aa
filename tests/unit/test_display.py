"""Tests of `eo_jax.monitor.display`: the lines that a person reads."""

from __future__ import annotations

import pytest

from eo_jax.monitor import display as module
from eo_jax.monitor import metrics
from eo_jax.monitor.display import Display
from eo_jax.monitor.metric import Metric

METRICS = metrics.step_metrics(
    {"feature_rank": Metric("", "rank"), "accuracy": Metric("", "accuracy")}
)


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
    display = Display(10, 40, METRICS)
    clock.now += 20.0
    rates = {"samples_per_s": 12.34, "flops_per_s": 5.6e9, "mfu": 0.321}
    display.log(20, {"loss": 0.12342, "lr": 1e-3, "grad_norm": 2.0, "skipped": 0.0, **rates})
    display.log(30, {"loss": float("nan"), "lr": 1e-3, "grad_norm": 2.0, "skipped": 1.0})
    display.log(31, {"loss": 9.0, "lr": 1e-3, "grad_norm": 2.0, "skipped": 1.0, "spike": 1.0})
    display.close()
    first, second, third = capsys.readouterr().out.splitlines()
    assert (
        first
        == "step     20/40  loss 0.1234  lr 1.00e-03  grad 2.000  12.3 samples/s  5.6 GFLOP/s  MFU "
        "32.1%  left 0:40"
    )
    assert second.endswith("loss nan  lr 1.00e-03  grad 2.000  NOT FINITE: step skipped  left 0:10")
    assert "loss 9.0000  lr 1.00e-03  grad 2.000  LOSS SPIKE: step skipped" in third


def test_metrics_are_shown_by_their_short_names_and_sources(capsys):
    values = {
        "loss": 1.0,
        "lr": 0.0,
        "grad_norm": 1.0,
        "param_norm": 9.0,
        "feature_rank/s1": 2.5,
        "accuracy": 0.5,
        "rankme/s1": 3.0,
        "rankme/s2": float("nan"),
        "unknown": 1.0,
    }
    Display(0, 10, METRICS).log(1, values)
    assert capsys.readouterr().out.startswith(
        "step      1/10  loss 1.0000  lr 0.00e+00  grad 1.000  rank s1 2.5  RankMe s1 3  RankMe s2 "
        "nan  accuracy 0.5  left "
    )


def test_the_component_of_a_mixture_comes_first_and_what_went_wrong_last(capsys):
    values = {
        "loss": 1.0,
        "component": "s1",
        "mixture/s1": 0.25,
        "mixture/s2": 0.75,
        "bad_records": 2.0,
        "collapsed": "feature_std",
    }
    Display(0, 10, METRICS).log(1, values)
    line = capsys.readouterr().out
    assert "  s1 (so far s1 25.0%, s2 75.0%)  loss 1.0000  " in line
    assert "  bad records 2  COLLAPSED: feature_std below 0.02  left " in line
