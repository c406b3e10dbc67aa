"""Tests of `eo_jax.monitor.usefulness`: when a run that learns nothing ends."""

from __future__ import annotations

import pytest

from eo_jax.monitor.usefulness import Usefulness

GOOD = {"skipped": 0.0, "spike": 0.0, "loss": 1.0, "grad_norm": 1.0, "valid_fraction/s2": 0.5}
NAN = GOOD | {"skipped": 1.0, "loss": float("nan")}


def watch(steps: int = 100, max_skipped: int = 3, components: str = "a") -> Usefulness:
    """`components` are drawn in turn."""

    def component(n: int) -> str:
        return components[n % len(components)]

    return Usefulness(steps, max_skipped, component, lambda n: f"batch {n}, source 's2'", "runs/x")


def test_steps_that_are_skipped_in_a_row_end_the_run_at_the_first_too_many_by_name():
    watched = watch()
    for step, values in enumerate([NAN, NAN, NAN, GOOD, NAN, NAN, NAN], start=1):
        watched.check(step, values)
    with pytest.raises(ValueError) as error:
        watched.check(8, NAN)
    message = str(error.value)
    assert "step 8: 4 steps in a row changed nothing (config.run.max_skipped: 3)" in message
    assert "loss (nan)" in message and "The last was on batch 7, source 's2'" in message
    assert "python -m eo_jax.replay --workdir=runs/x --step=8" in message


def test_spikes_in_a_row_are_called_so():
    watched = watch(max_skipped=1)
    watched.check(1, NAN)
    with pytest.raises(ValueError, match="because their losses were spikes"):
        watched.check(2, GOOD | {"skipped": 1.0, "spike": 1.0})


def test_a_run_that_skipped_all_of_its_few_steps_is_not_done():
    watched = watch(steps=2)
    watched.check(1, NAN)
    with pytest.raises(ValueError, match="step 2: 2 steps in a row changed nothing"):
        watched.check(2, NAN)


def test_the_last_steps_of_a_run_may_be_skipped_once_it_has_learned():
    watched = watch(steps=3)
    for step, values in enumerate([GOOD, NAN, NAN], start=1):
        watched.check(step, values)


def test_a_resumed_run_counts_on_from_the_steps_that_were_skipped_before():
    """Or a run that is stopped more often than every few steps would never end."""
    resumed = watch()
    resumed.resume(7, [1, 5, 6, 7])
    with pytest.raises(ValueError, match="step 8: 4 steps in a row changed nothing"):
        resumed.check(8, NAN)
    healthy = watch()
    healthy.resume(7, [4, 5, 6])
    healthy.check(8, NAN)
    learned = watch(steps=3)
    learned.resume(2, [2])
    learned.check(3, NAN)
    useless = watch(steps=3)
    useless.resume(2, [1, 2])
    with pytest.raises(ValueError, match="step 3: 3 steps in a row changed nothing"):
        useless.check(3, NAN)


def test_steps_are_counted_among_those_of_their_mixture_component():
    """A change of level makes spikes of the next losses of each."""
    mixed = watch(components="abc")
    for step in range(1, 10):
        mixed.check(step, NAN)
    with pytest.raises(ValueError, match="step 10: 4 steps in a row"):
        mixed.check(10, NAN)
    one = watch(components="ab")
    one.resume(6, [2, 4, 6])
    one.check(7, GOOD)
    with pytest.raises(ValueError, match="step 8: 4 steps in a row"):
        one.check(8, NAN)


def test_a_batch_without_a_valid_value_of_a_source_ends_the_run_by_name():
    both = GOOD | {"valid_fraction/s1": 0.0}
    with pytest.raises(ValueError) as error:
        watch().check(7, both)
    message = str(error.value)
    assert "step 7: no view of source 's1' has a valid value" in message
    assert "batch 6, source 's2'" in message and "--max-nodata" in message
