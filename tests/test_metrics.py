"""Tests of `eo_jax.monitor.metrics`: what is timed and what is not, and lines that any JSON reader
reads.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from eo_jax.monitor import metrics


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""

    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def after(clock, throughput: metrics.Throughput, seconds: float) -> None:
    clock.now += seconds
    throughput.arrived()


# --- throughput


def test_throughput_is_samples_over_the_time_between_steps(clock):
    throughput = metrics.Throughput(batch_size=8, multiply_adds=1000)
    after(clock, throughput, 30.0)  # compiling: only starts the clock
    assert throughput.take() == {}
    after(clock, throughput, 2.0)
    after(clock, throughput, 6.0)
    assert throughput.take() == {"samples_per_s": 2.0, "flops_per_s": 2.0 * 6000}
    assert throughput.take() == {}


def test_pauses_and_what_came_before_the_last_call_do_not_count(clock):
    throughput = metrics.Throughput(batch_size=8, multiply_adds=1)
    after(clock, throughput, 1.0)
    after(clock, throughput, 100.0)
    throughput.take()
    after(clock, throughput, 4.0)
    throughput.pause()
    clock.now += 1000.0  # evaluation
    after(clock, throughput, 500.0)  # the first step after it
    after(clock, throughput, 4.0)
    assert throughput.take()["samples_per_s"] == 2.0


def test_utilisation_is_a_share_of_the_data_sheet_and_absent_where_there_is_none(
    clock, monkeypatch
):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(metrics.jax, "devices", lambda: [Device()] * 4)
    monkeypatch.setattr(metrics.jax, "device_count", lambda: 4)
    throughput = metrics.Throughput(batch_size=1, multiply_adds=int(989e12))
    after(clock, throughput, 0.0)
    after(clock, throughput, 3.0)
    assert throughput.take()["mfu"] == pytest.approx(6 / 3 / 4)
    monkeypatch.setattr(Device, "device_kind", "Quantum 9000")
    assert metrics.peak_flops() is None


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v4", 275),
        ("NVIDIA A100-SXM4-80GB", 312),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_own_row(monkeypatch, kind, teraflops):
    monkeypatch.setattr(metrics.jax, "devices", lambda: [type("Device", (), {"device_kind": kind})])
    monkeypatch.setattr(metrics.jax, "device_count", lambda: 1)
    assert metrics.peak_flops() == teraflops * 1e12


# --- metrics.jsonl


def written(workdir, *lines: tuple[int, dict], first_step: int = 0) -> list[str]:
    writer = metrics.Writer(workdir, first_step, ())
    for step, values in lines:
        writer.write(step, values)
    writer.close()
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_nan_and_infinity_become_null(tmp_path):
    (line,) = written(tmp_path, (3, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5}))
    strict = json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert strict == {"step": 3, "loss": None, "grad_norm": None, "lr": 0.5}


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = metrics.Writer(tmp_path, 0, ())
    writer.write(1, {"loss": 1.0})
    assert metrics.read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]
    writer.close()


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    written(tmp_path, (1, {"loss": 1.0}), (2, {"loss": 0.5}))
    path = tmp_path / "metrics.jsonl"
    for cut in range(1, len('{"step": 2, "loss": 0.5}')):
        content = path.read_bytes()
        path.write_bytes(content[: -1 - cut])
        assert metrics.read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]
        path.write_bytes(content)


def test_a_folder_without_metrics_has_none(tmp_path):
    assert metrics.read_metrics(tmp_path) == []


def test_resuming_cuts_what_was_logged_after_the_checkpoint_and_goes_on(tmp_path):
    written(tmp_path, *((step, {"loss": 1.0}) for step in range(1, 6)))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    lines = written(tmp_path, (4, {"loss": 2.0}), first_step=3)
    assert [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_that_is_not_installed_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ValueError,
        match=r"config\.run\.writers: 'tensorboard' needs tensorboardX: pip install "
        r"'eo_jax\[log\]'",
    ):
        metrics.Writer(tmp_path, 0, ("tensorboard",))


# --- what a person sees


def test_a_plain_line_has_the_numbers_and_the_time_left(clock, capsys):
    display = metrics.Display(first_step=10, steps=40)
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
    metrics.Display(0, 10).log(1, found)
    assert "  rank s1 2.5  RankMe s1 3  RankMe s2 nan  accuracy 0.5  " in capsys.readouterr().out


def test_a_collapsed_run_says_so_but_not_a_fresh_one(capsys):
    display = metrics.Display(0, 100)
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
