"""Tests of `eo_jax.monitor.goodput`: every moment is counted once, and waiting costs nothing while
the device computes.
"""

from __future__ import annotations

import time

import jax.numpy as jnp
import pytest

from eo_jax.monitor import goodput

SECOND = 10**9


class Watch:
    """Time that moves only when told to, and a step that is done when told so."""

    def __init__(self):
        self.now, self.done = 5 * SECOND + 1, None

    def perf_counter_ns(self) -> int:
        return self.now

    def finished(self) -> int | None:
        return self.done

    def spend(self, clock: goodput.Clock, phase: str, seconds: float) -> None:
        clock.enter(phase)
        self.now += int(seconds * SECOND)


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(goodput, "time", watch)
    return watch


def seconds(taken: dict[str, float]) -> dict[str, float]:
    """{phase: seconds} from the result of `take`."""
    return {
        name.removeprefix("time/"): value * taken["time/wall_s"]
        for name, value in taken.items()
        if name != "time/wall_s"
    }


def test_phases_sum_to_the_wall_time(watch):
    clock = goodput.Clock()
    watch.now += 3 * SECOND
    for phase, spent in (
        ("compile", 7),
        ("step", 0.25),
        ("data", 1 / 3),
        ("other", 0),
        ("step", 2),
        ("checkpoint", 1),
    ):
        watch.spend(clock, phase, spent)
    taken = clock.take()
    assert taken["time/wall_s"] == pytest.approx(13.25 + 1 / 3, rel=1e-9)
    assert seconds(taken) == pytest.approx(
        {"start": 3, "compile": 7, "step": 2.25, "data": 1 / 3, "checkpoint": 1}, rel=1e-8
    )
    assert sum(taken.values()) - taken["time/wall_s"] == pytest.approx(1, abs=1e-12)


def test_take_starts_over_in_the_same_phase_and_the_summary_does_not(watch):
    clock = goodput.Clock()
    watch.spend(clock, "step", 6)
    clock.take()
    watch.now += 2 * SECOND
    watch.spend(clock, "data", 2)
    assert clock.take() == {"time/step": 0.5, "time/data": 0.5, "time/wall_s": 4.0}
    assert goodput.summary(clock.total()) == "time: step 80%, data 20%"


def test_an_unknown_phase_is_an_error(watch):
    clock = goodput.Clock()
    clock.enter("dada")
    with pytest.raises(KeyError, match="dada"):
        clock.enter("step")


# --- while the device computes


def test_waiting_for_data_behind_a_running_step_is_step(watch):
    clock = goodput.Clock()
    clock.dispatched(watch.finished)
    watch.spend(clock, "data", 4)
    assert seconds(clock.take()) == {"step": 4}


def test_waiting_for_data_counts_from_when_the_device_had_nothing_to_do(watch):
    clock = goodput.Clock()
    clock.dispatched(watch.finished)
    clock.enter("data")
    watch.now += 3 * SECOND
    watch.done = watch.now
    watch.now += 1 * SECOND
    assert seconds(clock.take()) == {"step": 3, "data": 1}
    watch.spend(clock, "data", 2)
    assert seconds(clock.take()) == {"data": 2}


def test_a_step_that_ends_while_the_next_is_handed_over_leaves_no_gap(watch):
    clock = goodput.Clock()
    clock.dispatched(lambda: None)
    watch.spend(clock, "step", 2)
    clock.dispatched(watch.finished)
    watch.now += 5 * SECOND  # waiting for the metrics of the first, then logging them
    watch.done = watch.now - SECOND
    watch.spend(clock, "checkpoint", 1)
    assert seconds(clock.take()) == {"step": 6, "other": 1, "checkpoint": 1}


def test_a_finish_noted_after_the_question_counts_up_to_the_question(watch):
    clock = goodput.Clock()
    clock.dispatched(watch.finished)
    watch.now += 2 * SECOND
    watch.done = watch.now + 1
    assert seconds(clock.take()) == {"step": 2}


def test_the_finish_of_arrays_is_noted_without_waiting_for_them():
    before = time.perf_counter_ns()
    finished = goodput.finish_of({"loss": jnp.ones(3) + 1})
    deadline = time.monotonic() + 60
    while finished() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert before < finished() < time.perf_counter_ns()


# --- many lines


def test_the_shares_of_a_run_weigh_its_lines_by_their_time():
    lines = [
        {"step": 1, "loss": 1.0, "time/compile": 1.0, "time/wall_s": 6.0},
        {"step": 1, "eval/x": 1.0},
        {"step": 2, "time/step": 0.75, "time/data": 0.25, "time/wall_s": 2.0},
    ]
    fractions = goodput.fractions_of(lines)
    assert fractions == {"time/compile": 0.75, "time/step": 0.1875, "time/data": 0.0625}
    assert goodput.format_fractions(fractions) == "compile 75%, step 19%, data 6%"
    assert goodput.fractions_of(lines[1:2]) == {}
