"""Encoders that are trained further: heads by kind of task and pooled feature."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from exported import IMAGE, SENSOR, tiny_encoder

from eo_jax.evaluation.features import Features
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
