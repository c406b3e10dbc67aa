"""Tests of `eo_jax.monitor.throughput`: the time that counts, and the peak of a device."""

from __future__ import annotations

import pytest

from eo_jax.monitor import throughput as module
from eo_jax.monitor.throughput import Throughput, peak_flops


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


def after(clock, throughput: Throughput, seconds: float) -> None:
    clock.now += seconds
    throughput.arrived()


def test_throughput_is_samples_over_the_time_between_steps(clock):
    throughput = Throughput(batch_size=8, sample_flops=6000)
    after(clock, throughput, 30.0)  # compiling: only starts the clock
    assert throughput.take() == {}
    after(clock, throughput, 2.0)
    after(clock, throughput, 6.0)
    assert throughput.take() == {"samples_per_s": 2.0, "flops_per_s": 2.0 * 6000}
    assert throughput.take() == {}


def test_pauses_and_what_came_before_the_last_call_do_not_count(clock):
    throughput = Throughput(batch_size=8, sample_flops=1)
    after(clock, throughput, 1.0)
    after(clock, throughput, 100.0)
    throughput.take()
    after(clock, throughput, 4.0)
    throughput.pause()
    clock.now += 1000.0  # evaluation
    after(clock, throughput, 500.0)  # the first step after it
    after(clock, throughput, 4.0)
    assert throughput.take()["samples_per_s"] == 2.0


def test_utilisation_is_a_fraction_of_the_data_sheet_and_absent_where_there_is_none(
    clock, monkeypatch
):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(module.jax, "devices", lambda: [Device()] * 4)
    monkeypatch.setattr(module.jax, "device_count", lambda: 4)
    throughput = Throughput(batch_size=1, sample_flops=6 * 989e12)
    after(clock, throughput, 0.0)
    after(clock, throughput, 3.0)
    assert throughput.take()["mfu"] == pytest.approx(6 / 3 / 4)
    monkeypatch.setattr(Device, "device_kind", "Quantum 9000")
    assert peak_flops() is None


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
    monkeypatch.setattr(module.jax, "devices", lambda: [type("Device", (), {"device_kind": kind})])
    monkeypatch.setattr(module.jax, "device_count", lambda: 1)
    assert peak_flops() == teraflops * 1e12
