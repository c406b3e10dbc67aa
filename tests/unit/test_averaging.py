"""Averages over windows, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from eo_jax.averaging import Likeness, likeness, mean_of_similar, mean_of_window


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [7, 9, 3] of very different channels, and a mask with holes."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(7, 9, 3)) * (1, 100, 0.01) + (0, 5000, 0)
    return features.astype(np.float32), rng.random((7, 9)) < 0.8


def by_loops(features: np.ndarray, valid: np.ndarray, window: int, like: Likeness) -> np.ndarray:
    height, width = valid.shape
    half, found = window // 2, np.zeros(features.shape)
    for r, c in np.ndindex(height, width):
        total, weights = np.zeros(features.shape[-1]), 0.0
        for y in range(max(0, r - half), min(height, r + half + 1)):
            for x in range(max(0, c - half), min(width, c + half + 1)):
                if valid[y, x]:
                    apart = (features[y, x] - features[r, c] * valid[r, c]) * like.per_channel
                    weight = np.exp(-np.square(apart).sum() / like.scale)
                    total, weights = total + weight * features[y, x], weights + weight
        found[r, c] = total / weights if weights else 0
    return found


@pytest.mark.parametrize("window", [1, 3, 5])
def test_means_are_those_by_loops(window):
    features, valid = scene()
    like = likeness(features, valid)
    equal = Likeness(np.zeros(3), np.float32(1))
    inside = valid  # elsewhere a pixel has no features that others could be like
    for found, expected in (
        (
            mean_of_similar(features, valid, window, like),
            by_loops(features, valid, window, like),
        ),
        (mean_of_window(features, valid, window), by_loops(features, valid, window, equal)),
    ):
        np.testing.assert_allclose(found[inside], expected[inside], rtol=2e-5, atol=1e-3)


def test_distances_are_of_channels_of_unit_variance():
    features, valid = scene()
    like = likeness(features, valid)
    np.testing.assert_allclose(like.per_channel, 1 / features[valid].std(0), rtol=1e-4)
    scaled = features * like.per_channel
    steps = [
        np.square(scaled[a] - scaled[b]).sum()
        for a in np.ndindex(valid.shape)
        for b in ((a[0] + 1, a[1]), (a[0], a[1] + 1))
        if b[0] < 7 and b[1] < 9 and valid[a] and valid[b]
    ]
    np.testing.assert_allclose(like.scale, np.median(steps), rtol=1e-4)


def test_a_border_stays_where_the_plain_mean_blurs_it():
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(20)[:, None, None] < 10, 0.0, 1.0) * np.ones((20, 20, 4))
    noisy = (clean + 0.1 * rng.normal(size=clean.shape)).astype(np.float32)
    valid = np.ones((20, 20), bool)
    at_border = slice(9, 11)
    error = {
        "none": np.abs(noisy - clean),
        "mean": np.abs(mean_of_window(noisy, valid, 5) - clean),
        "similar": np.abs(mean_of_similar(noisy, valid, 5, likeness(noisy, valid)) - clean),
    }
    assert error["mean"][at_border].mean() > 3 * error["none"][at_border].mean()
    assert error["similar"][at_border].mean() < 0.7 * error["none"][at_border].mean()


def test_what_has_no_spread_or_no_data_stays_finite():
    constant, valid = np.full((4, 4, 2), 7, np.float32), np.ones((4, 4), bool)
    found = mean_of_similar(constant, valid, 3, likeness(constant, valid))
    np.testing.assert_array_equal(found, constant)
    nothing = np.zeros((4, 4), bool)
    holes = np.full((4, 4, 2), np.nan, np.float32)
    found = mean_of_similar(holes, nothing, 3, likeness(holes, nothing))
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("window", [0, 2, -3])
def test_an_even_window_is_refused(window):
    features, valid = scene()
    with pytest.raises(ValueError, match=rf"window: {window}; expected an odd number of pixels"):
        mean_of_window(features, valid, window)
