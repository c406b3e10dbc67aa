"""Heads that are trained on dense features learn maps, and ignore what has no class."""

from __future__ import annotations

import numpy as np
import pytest

from eo_jax.evaluation.dense_heads import IGNORED, ConvHead, FcnHead, LinearHead
from eo_jax.evaluation.features import Features
from eo_jax.evaluation.trained_head import TrainedHead

CLASSES, PATCH, GRID, WIDTH = 3, 4, 4, 32


def features_of(count: int, seed: int) -> Features:
    """Tokens with a direction per class and noise; a tenth of the pixels has no class."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CLASSES, (count, GRID, GRID))
    directions = np.random.default_rng(9).normal(size=(CLASSES, WIDTH))
    x = directions[codes] + 0.3 * rng.normal(size=(count, GRID, GRID, WIDTH))
    target = np.kron(codes, np.ones((PATCH, PATCH), int))
    target[rng.random(target.shape) < 0.1] = IGNORED
    return Features(x.astype(np.float32), target)


@pytest.mark.parametrize(
    ("head", "least"),
    [
        (LinearHead, 0.8),
        pytest.param(ConvHead, 0.8, marks=pytest.mark.slow),
        pytest.param(FcnHead, 0.8, marks=pytest.mark.slow),
    ],
)
def test_a_head_learns_a_map(head, least):
    """Interpolated logits blur the borders of tokens, so that not all pixels can be right."""
    protocol = TrainedHead(head, epochs=40, batch=16, lr=1e-2, weight_decay=1e-4)
    train, val, test = features_of(64, 0), features_of(16, 1), features_of(16, 2)
    predict = protocol.fit_maps(train, val, CLASSES, PATCH, 0)
    found = predict(test.x, test.target.shape[1:])
    counts = test.target != IGNORED
    assert (found == test.target)[counts].mean() > least
    again = protocol.fit_maps(train, val, CLASSES, PATCH, 0)(test.x, test.target.shape[1:])
    np.testing.assert_array_equal(found, again)


def test_pixels_without_a_class_teach_nothing():
    """Whatever is stored under them, the trained head is the same."""
    protocol = TrainedHead(LinearHead, epochs=3, batch=8, lr=1e-2, weight_decay=0.0)
    train, val = features_of(16, 0), features_of(8, 1)
    alone = Features(train.x, np.where(np.arange(16)[None, :, None] < 8, train.target, IGNORED))
    changed = Features(alone.x.copy(), alone.target)
    changed.x[:, 3:] = 0  # rows of tokens none of whose pixels, nor neighbours', has a class
    first, second = (
        protocol.fit_maps(part, val, CLASSES, PATCH, 0)(val.x, (16, 16))
        for part in (alone, changed)
    )
    np.testing.assert_array_equal(first, second)
