"""Tests of `eo_jax.monitor.usefulness`: when a run that learns nothing ends."""

from __future__ import annotations

import pytest

from eo_jax.monitor.usefulness import Usefulness

GOOD = {"skipped": 0.0, "spike": 0.0, "loss": 1.0, "grad_norm": 1.0, "valid_fraction/s2": 0.5}
NAN = GOOD | {"skipped": 1.0, "loss": float("nan")}


def watch(first: int = 0, steps: int = 100, max_skipped: int = 3) -> Usefulness:
    return Usefulness(first, steps, max_skipped, lambda n: f"batch {n}, source 's2'", "runs/x")


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
    watch(first=2, steps=3).check(3, NAN)  # resumed


def test_a_batch_without_a_valid_value_of_a_source_ends_the_run_by_name():
    both = GOOD | {"valid_fraction/s1": 0.0}
    with pytest.raises(ValueError) as error:
        watch().check(7, both)
    message = str(error.value)
    assert "step 7: no view of source 's1' has a valid value" in message
    assert "batch 6, source 's2'" in message and "--max-nodata" in message
