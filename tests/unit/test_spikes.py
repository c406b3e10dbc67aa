"""Tests of `eo_jax.spikes`, and of steps whose loss is a spike."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from eo_jax.spikes import WINDOW, check_sigma, empty, is_spike, most_in_a_row, with_loss

SIGMA = 6.0


@jax.jit
def see(recent, loss, sigma):
    """(whether the loss is a spike, the recent losses with it)."""
    return is_spike(recent, loss, sigma), with_loss(recent, loss)


def judged(losses, sigma=SIGMA) -> np.ndarray:
    """Whether each of the losses is a spike among those before it."""
    recent, found = empty(), []
    for loss in np.asarray(losses, np.float32):
        spike, recent = see(recent, loss, sigma)
        found.append(bool(spike))
    return np.array(found)


def by_definition(losses) -> np.ndarray:
    """The same, by the rule written out over the finite losses before each."""
    spikes = np.zeros(len(losses), bool)
    for n, loss in enumerate(losses):
        before = [x for x in losses[:n] if np.isfinite(x)][-WINDOW:]
        if len(before) == WINDOW:
            spikes[n] = loss > np.mean(before) + SIGMA * np.std(before)
    return spikes


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(3.0, 0.1, 3 * WINDOW)


def test_a_loss_far_above_the_last_128_is_a_spike_and_no_other_is(noise):
    losses = noise.copy()
    losses[[5, WINDOW - 1, WINDOW, 300]] = 5.0  # the first two come before there are 128
    losses[200] = np.nan
    losses[250] = 0.0  # far below
    found = judged(losses)
    assert np.flatnonzero(found).tolist() == [WINDOW, 300]
    assert np.array_equal(found, by_definition(losses))


def test_a_loss_that_is_not_finite_does_not_blind_the_next_128(noise):
    losses = noise.copy()
    losses[200], losses[201], losses[202] = np.nan, np.inf, 5.0
    assert judged(losses)[202] and not judged(losses)[203:].any()


@pytest.mark.parametrize("step", [1.0, 10.0, 1e6])
@pytest.mark.parametrize(("sigma", "most"), [(6.0, 4), (4.0, 8), (3.5, 10), (3.0, 13)])
def test_losses_that_stay_high_are_spikes_for_a_few_steps_at_most(noise, step, sigma, most):
    losses = noise[:260].copy()
    losses[200:] += step
    in_a_row = np.argmin(judged(losses, sigma)[200:])  # before the first that is not
    assert 0 < in_a_row <= most == most_in_a_row(sigma)
    assert step < 1e6 or in_a_row == most


@pytest.mark.parametrize(
    ("sigma", "max_skipped", "least"), [(3.0, 10, "3.5"), (3.4, 10, "3.5"), (6.0, 3, "6.5")]
)
def test_a_sigma_whose_spikes_would_end_a_healthy_run_is_refused(sigma, max_skipped, least):
    with pytest.raises(ValueError, match=rf"spike_sigma: .* expected at least {least}, or 0"):
        check_sigma(sigma, max_skipped)
    for allowed in (float(least), 0.0):
        check_sigma(allowed, max_skipped)
