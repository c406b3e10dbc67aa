"""Encoders that are trained further: heads by kind of task and pooled feature."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from exported import IMAGE, SENSOR, tiny_encoder

from eo_jax.evaluation.features import Features
from eo_jax.evaluation.fine_tuning import Pixels
from eo_jax.evaluation.pooled_encoder import pooled_by
from eo_jax.evaluation.protocol import find_protocol
from eo_jax.trained_encoder import TrainedEncoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pooling"), [("spectral_earth:fine_tune", "contract"), ("plain:fine_tune", "both")]
)
def test_numbers_are_learnt_from_brightness(name, pooling):
    """By SpectralEarth's perceptron, and by a linear layer on class token and mean."""
    mean, std = (np.asarray(values, np.float32) for values in (SENSOR.mean, SENSOR.std))
    encoder = pooled_by(tiny_encoder(), pooling)
    params, statistics = encoder.network.init(jax.random.key(0))
    trained = TrainedEncoder("s2", encoder, params, statistics, mean, std, IMAGE)

    def drawn(count: int, seed: int) -> Features:
        random = np.random.default_rng(seed)
        level = random.normal(size=count).astype(np.float32)
        noise = 0.2 * random.normal(size=(count, len(mean), IMAGE, IMAGE))
        normalised = level[:, None, None, None] + noise
        x = mean[:, None, None] + std[:, None, None] * normalised
        return Features(x.astype(np.float32), np.stack([level, -level], axis=1))

    protocol = dataclasses.replace(find_protocol(name), epochs=30, batch=16)
    train, val, test = drawn(96, 0), drawn(32, 1), drawn(32, 2)
    predict = protocol.fine_tune(trained, "regression", train, val, 2, 0)
    error = np.square(predict(test.x) - test.target).mean()
    assert error < 0.2 * test.target.var()


def test_of_two_dates_both_windows_are_kept():
    """Not their difference, of which no encoder could make features."""
    before, after = np.zeros((2, 3, 4, 4)), np.ones((2, 3, 4, 4))
    both = Pixels.compared(before, after)
    assert both.shape == (2, 2, 3, 4, 4)
    assert (both[:, 0] == 0).all() and (both[:, 1] == 1).all()


def test_equal_dates_are_the_same_whatever_they_show():
    """The head sees the difference of features: without any, a map has one class everywhere."""
    mean, std = (np.asarray(values, np.float32) for values in (SENSOR.mean, SENSOR.std))
    encoder = tiny_encoder()
    params, statistics = encoder.network.init(jax.random.key(0))
    trained = TrainedEncoder("s2", encoder, params, statistics, mean, std, IMAGE)
    random = np.random.default_rng(0)
    x = mean[:, None, None] + std[:, None, None] * random.normal(
        size=(8, 1, len(mean), IMAGE, IMAGE)
    )
    features = Features(
        np.repeat(x, 2, axis=1).astype(np.float32), random.integers(0, 2, (8, IMAGE, IMAGE))
    )
    protocol = dataclasses.replace(find_protocol("plain:fine_tune"), epochs=1, batch=4)
    predict = protocol.fine_tune(trained, "change", features, features, 2, 0)
    found = predict(features.x)
    assert found.shape == (8, IMAGE, IMAGE)
    assert (found == found[:1]).all()
