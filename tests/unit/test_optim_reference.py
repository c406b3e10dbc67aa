"""Tests of `eo_jax.optim.optimizers`: SGD, LARS and schedules as the recipes use them, against
`reference_optim`.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import reference_optim

from eo_jax.optim import optimizers

STEPS = 20
DECAY_ALL = ((".*", 1.0),)
RNG = np.random.default_rng(3)
WEIGHTS = {
    "kernel": RNG.normal(size=(4, 3)),
    "zero": np.zeros((3, 2)),
    "token": RNG.normal(size=(1, 1, 4)),
    "bias": RNG.normal(size=3),
    "scale": RNG.normal(size=5),
}
GRADIENTS = [
    {name: 10.0 ** RNG.normal() * RNG.normal(size=weight.shape) for name, weight in WEIGHTS.items()}
    for _ in range(STEPS)
]


def trained(
    config: optimizers.Config, weights: dict = WEIGHTS, gradients: list = GRADIENTS
) -> dict:
    params = jax.tree.map(np.float32, weights)
    optimizer = optimizers.make_optimizer(config, params, STEPS)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in jax.tree.map(np.float32, gradients):
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, updates)
    return params


def assert_each_is(found: dict, reference, *arguments):
    """Within 2e-6 of the largest weight: some twenty roundings of float32."""
    for name, weight in found.items():
        wanted = reference(WEIGHTS[name], [gradient[name] for gradient in GRADIENTS], *arguments)
        np.testing.assert_allclose(
            weight, wanted, rtol=0, atol=2e-6 * np.max(np.abs(wanted)), err_msg=name
        )


def test_sgd_is_that_of_pytorch_under_steps():
    config = optimizers.Config(
        name="sgd",
        lr=0.03,
        schedule="step",
        milestones=(0.6, 0.8),
        momentum=0.9,
        weight_decay=0.1,
        decay_rules=DECAY_ALL,
        clip_norm=0.0,
    )
    rates = [reference_optim.steps_down(step, (12, 16), 0.1, 0.03) for step in range(STEPS)]
    assert_each_is(trained(config), reference_optim.sgd, rates, 0.9, 0.1)


@pytest.mark.parametrize("decay_rules", [DECAY_ALL, optimizers.Config().decay_rules])
def test_lars_is_that_of_barlow_twins_under_a_warmed_up_cosine(decay_rules):
    config = optimizers.Config(
        name="lars",
        lr=0.2,
        end_lr=2e-4,
        warmup_steps=4,
        weight_decay=0.3,
        trust_coefficient=0.02,
        clip_norm=0.0,
        decay_rules=decay_rules,
    )
    rates = [
        reference_optim.warmed_up(
            step, 4, 0.0, 0.2, lambda since: reference_optim.cosine(since, 16, 0.2, 2e-4)
        )
        for step in range(STEPS)
    ]
    assert_each_is(trained(config), reference_optim.lars, rates, 0.9, 0.3, 0.02)


def test_lars_is_that_of_the_paper_without_decay_at_a_constant_rate():
    config = optimizers.Config(
        name="lars",
        lr=0.2,
        schedule="constant",
        weight_decay=0.0,
        trust_coefficient=0.02,
        clip_norm=0.0,
    )
    found = trained(config)
    assert_each_is(
        {name: found[name] for name in ("kernel", "token")},
        reference_optim.lars_of_the_paper,
        [0.2] * STEPS,
        0.9,
        0.0,
        0.02,
    )


def test_lars_without_gradient_or_decay_stays_where_it_is():
    still = trained(
        optimizers.Config(name="lars", lr=0.2, weight_decay=0.0),
        gradients=jax.tree.map(np.zeros_like, GRADIENTS),
    )
    for name, weight in still.items():
        np.testing.assert_array_equal(weight, np.float32(WEIGHTS[name]))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # DINO of SpectralEarth: from a twentieth over 20 of 100 epochs; the cosine that follows is
        # 100 long and never comes to 0.
        (
            {"warmup_steps": 20, "warmup_start_factor": 0.05, "horizon": 1.25},
            lambda step: reference_optim.warmed_up(
                step, 20, 0.05, 1.0, lambda since: reference_optim.cosine(since, 100, 1.0, 0.0)
            ),
        ),
        # MoCo-v2 of SpectralEarth; milestones are fractions of the whole run, warm-up included.
        (
            {"schedule": "step", "milestones": (0.6, 0.8)},
            lambda step: reference_optim.steps_down(step, (60, 80), 0.1, 1.0),
        ),
        (
            {"schedule": "step", "milestones": (0.6, 0.8), "warmup_steps": 10},
            lambda step: reference_optim.warmed_up(
                step,
                10,
                0.0,
                1.0,
                lambda since: reference_optim.steps_down(since, (50, 70), 0.1, 1.0),
            ),
        ),
        # Barlow Twins: the cosine ends at a thousandth.
        (
            {"warmup_steps": 10, "end_lr": 0.001},
            lambda step: reference_optim.warmed_up(
                step, 10, 0.0, 1.0, lambda since: reference_optim.cosine(since, 90, 1.0, 0.001)
            ),
        ),
    ],
    ids=["dino", "moco", "moco_warmed_up", "barlow"],
)
def test_schedules_are_those_of_the_recipes(fields, expected):
    schedule = optimizers.schedule(optimizers.Config(lr=1.0, **fields), 100)
    np.testing.assert_allclose(
        [schedule(step) for step in range(100)],
        [expected(step) for step in range(100)],
        rtol=1e-5,
        atol=1e-6,
    )
