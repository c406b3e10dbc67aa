"""Heads that are trained on dense features learn maps, and ignore what has no class."""

from __future__ import annotations

import numpy as np
import optax
import pytest
from flax import nnx

from eo_jax.evaluation.dense_heads import IGNORED, ConvHead, FcnHead, LinearHead
from eo_jax.evaluation.features import Features
from eo_jax.evaluation.protocol import find_protocol
from eo_jax.evaluation.torchgeo_heads import ConvBlockHead, FpnHead, LinearOfDepths
from eo_jax.evaluation.trained_head import TrainedHead
from eo_jax.evaluation.training import Loop, fit
from eo_jax.evaluation.upernet import UperNetHead
from eo_jax.evaluation.vector_heads import LinearLayer, error_of

CLASSES, PATCH, GRID, WIDTH = 3, 4, 4, 32


class SmallUperNet(UperNetHead):
    channels = 16


def features_of(count: int, seed: int) -> Features:
    """Tokens with a direction per class and noise; a tenth of the pixels has no class."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CLASSES, (count, GRID, GRID))
    directions = np.random.default_rng(9).normal(size=(CLASSES, WIDTH))
    x = directions[codes] + 0.3 * rng.normal(size=(count, GRID, GRID, WIDTH))
    target = np.kron(codes, np.ones((PATCH, PATCH), int))
    target[rng.random(target.shape) < 0.1] = IGNORED
    return Features(x.astype(np.float32), target)


def of_depths(features: Features, head: type) -> Features:
    """With three depths of noise after the first, for heads that take several: UPerNet sees the
    last one at half the resolution.
    """
    if not head.several_depths:
        return features
    noise = np.random.default_rng(5).normal(size=(3, *features.x.shape)).astype(np.float32)
    return Features(np.stack([features.x, *noise], axis=3), features.target)


@pytest.mark.parametrize(
    ("head", "least"),
    [
        (LinearHead, 0.8),
        pytest.param(ConvHead, 0.8, marks=pytest.mark.slow),
        pytest.param(FcnHead, 0.8, marks=pytest.mark.slow),
        pytest.param(LinearOfDepths, 0.8, marks=pytest.mark.slow),
        pytest.param(ConvBlockHead, 0.8, marks=pytest.mark.slow),
        pytest.param(FpnHead, 0.8, marks=pytest.mark.slow),
        pytest.param(SmallUperNet, 0.8, marks=pytest.mark.slow),
    ],
)
def test_a_head_learns_a_map(head, least):
    """Interpolated logits blur the borders of tokens, so that not all pixels can be right."""
    protocol = TrainedHead(head, epochs=40, batch=16, lr=1e-2, weight_decay=1e-4)
    train, val, test = (
        of_depths(features_of(count, seed), head) for seed, count in enumerate((64, 16, 16))
    )
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


def test_the_rate_falls_at_fractions_of_the_steps():
    """As PANGAEA's: to a tenth at 60 and 90 %."""
    schedule = find_protocol("pangaea:upernet").schedule(100)
    found = [schedule(step) for step in (0, 59, 61, 89, 91)]
    np.testing.assert_allclose(found, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6], rtol=1e-5)


@pytest.mark.parametrize(
    ("loop", "judged", "kept"),
    [
        (Loop(5, 8), [5, 1, 3, 2, 4], 1),
        (Loop(9, 8, patience=2), [5, 1, 3, 2], 1),
        (Loop(5, 8, every=2), [3, 2, 1], 2),  # epochs 2, 4 and the last
    ],
)
def test_the_weights_of_the_best_validation_are_kept(loop, judged, kept):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    seen, answers = [], iter(judged)

    def judge(outputs) -> float:
        seen.append(np.asarray(outputs(x)))
        return next(answers)

    head = LinearLayer(4, 2, rngs=nnx.Rngs(0))
    train = Features(x, np.arange(16) % 2)
    outputs = fit(head, error_of("classification"), optax.sgd(0.1), loop, train, judge, 0)
    assert len(seen) == len(judged)
    assert np.abs(seen[kept] - seen[kept - 1]).max() > 1e-4
    np.testing.assert_array_equal(outputs(x), seen[kept])
