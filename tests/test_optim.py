"""Tests of `eo_jax.optim`: the schedule, and which weights decay and move, against formulas written here."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax import build, optim

STEPS = 100
PARAMS = {
    "dense": {"kernel": np.full((4, 4), 2.0, np.float32), "bias": np.full(4, 2.0, np.float32)},
    "norm": {"scale": np.full(4, 2.0, np.float32), "bias": np.full(4, 2.0, np.float32)},
    "blocks": {"layers": {"attention": {"qkv": np.full((3, 4, 2), 2.0, np.float32), "qkv_bias": np.full((3, 2), 2.0, np.float32)}}},
    "cls_token": np.full((1, 1, 4), 2.0, np.float32),
}
ZERO = jax.tree.map(np.zeros_like, PARAMS)


def moves(config: optim.Config, gradients=ZERO, steps: int = 1) -> dict:
    """{path: how much each weight has changed} after some steps with the same gradients."""
    optimizer = optim.make_optimizer(config, PARAMS, STEPS)
    state, params, update = optimizer.init(PARAMS), PARAMS, jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = jax.tree.map(np.add, params, updates)
    flat = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, params, PARAMS))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}


def lr_at(step: int, peak: float, end: float, warmup: int) -> float:
    """MAE's schedule, by hand."""
    if step < warmup:
        return peak * step / warmup
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_schedule_warms_up_peaks_and_ends(warmup):
    schedule = optim.schedule(optim.Config(lr=2e-3, end_lr=1e-5, warmup_steps=warmup), STEPS)
    for step in (0, 1, 5, 10, 11, 50, 99, 100):
        assert float(schedule(step)) == pytest.approx(lr_at(step, 2e-3, 1e-5, warmup), rel=1e-4, abs=1e-9), step
    assert float(schedule(warmup)) == pytest.approx(2e-3)
    assert float(schedule(STEPS)) == pytest.approx(1e-5, rel=1e-4)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match=r"config\.optim\.warmup_steps: 100; expected fewer than config\.run\.steps, 100"):
        optim.schedule(optim.Config(warmup_steps=100), STEPS)


def test_without_gradients_matrices_and_tokens_shrink_by_lr_times_decay_and_nothing_else_moves():
    moved = moves(optim.Config(lr=1e-2, weight_decay=0.1))
    decayed = {"dense/kernel", "blocks/layers/attention/qkv", "cls_token"}
    for path, change in moved.items():
        expected = -1e-2 * 0.1 * 2.0 if path in decayed else 0.0
        np.testing.assert_allclose(change, expected, rtol=1e-3, err_msg=path)
    assert {path for path, change in moved.items() if change.any()} == decayed


def test_every_bias_and_norm_of_a_real_model_is_spared():
    values = {
        "data": {"sources": {"enmap": {"store": "x", "sensor": "enmap"}}},
        "model": {"stems": {"enmap": {"name": "spectral_adapter", "patch": 8}}, "trunk": {"name": "vit", "size": "tiny", "depth": 1}},
        "objective": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    }
    objective = build.experiment(build.complete(build.ml_collections.ConfigDict(values))).objective
    params, _ = jax.eval_shape(objective.init, jax.random.key(0))
    shares = optim.rules.match(optim.Config().decay_rules, params, "decay")
    spared = {path for path, share in optim.rules.paths(shares) if share == 0}
    matrices = {path for path, leaf in optim.rules.paths(params) if path.endswith(("kernel", "qkv", "token"))}
    assert spared == {path for path, _ in optim.rules.paths(params)} - matrices
    assert {"encoder/stem/adapter/norm0/scale", "encoder/trunk/blocks/layers/attention/qkv_bias"} <= spared


def test_shares_of_the_decay_count():
    moved = moves(optim.Config(lr=1e-2, weight_decay=0.1, decay_rules=(("cls_token$", 0.5), ("kernel$", 1.0), (".*", 0.0))))
    assert moved["cls_token"].mean() == pytest.approx(0.5 * moved["dense/kernel"].mean(), rel=1e-3)


def test_shares_of_the_learning_rate_scale_the_whole_update_and_zero_freezes():
    gradients = jax.tree.map(np.ones_like, PARAMS)
    plain = moves(optim.Config(), gradients, steps=3)
    scaled = moves(optim.Config(lr_rules=(("^dense/", 0.1), ("cls_token$", 0.0), (".*", 1.0))), gradients, steps=3)
    np.testing.assert_allclose(scaled["dense/kernel"], 0.1 * plain["dense/kernel"], rtol=1e-3)
    np.testing.assert_allclose(scaled["dense/bias"], 0.1 * plain["dense/bias"], rtol=1e-3)
    np.testing.assert_array_equal(scaled["norm/scale"], plain["norm/scale"])
    assert not scaled["cls_token"].any()


def test_adamw_by_hand():
    """Two steps with two gradients, against Loshchilov and Hutter's algorithm 2 in float64."""
    config = optim.Config(lr=1e-2, weight_decay=0.1, beta1=0.9, beta2=0.95, clip_norm=0.0)
    weight, first, second = 2.0, 0.0, 0.0
    optimizer = optim.make_optimizer(config, PARAMS, STEPS)
    state, params, update = optimizer.init(PARAMS), PARAMS, jax.jit(optimizer.update)
    for t, g in enumerate((0.3, -0.7), start=1):
        updates, state = update(jax.tree.map(lambda leaf, g=g: np.full_like(leaf, g), PARAMS), state, params)
        params = jax.tree.map(np.add, params, updates)
        first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g * g
        step = first / (1 - 0.9**t) / (math.sqrt(second / (1 - 0.95**t)) + 1e-8)
        weight -= lr_at(t - 1, 1e-2, 0, 0) * (step + 0.1 * weight)
        np.testing.assert_allclose(params["dense"]["kernel"], weight, rtol=1e-6)


def test_gradients_longer_than_clip_norm_are_scaled_down_together():
    gradients = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), PARAMS)
    norm = math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(PARAMS))) * 0.5
    for clip, factor in ((1.0, 1 / norm), (0.0, 1.0), (100.0, 1.0)):
        optimizer = optim.make_optimizer(optim.Config(clip_norm=clip), PARAMS, STEPS)
        _, state = jax.jit(optimizer.update)(gradients, optimizer.init(PARAMS), PARAMS)
        moment = jax.tree.leaves(state[1].mu)[0]
        np.testing.assert_allclose(moment, 0.1 * 0.5 * factor, rtol=1e-5)


def test_stacked_layers_are_treated_as_if_each_stood_alone():
    """Decay, scale and Adam's moments of a [3, 4, 2] stack are those of three [4, 2] weights; a [3, 2] stack of biases is no matrix."""
    gradients = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32), PARAMS)
    config = optim.Config(lr=1e-2, clip_norm=0.0)
    stacked = moves(config, gradients, steps=3)
    attention = PARAMS["blocks"]["layers"]["attention"]
    alone = {str(i): {name: stack[i] for name, stack in attention.items()} for i in range(3)}
    optimizer = optim.make_optimizer(config, alone, STEPS)
    state, params, update = optimizer.init(alone), alone, jax.jit(optimizer.update)
    each = gradients["blocks"]["layers"]["attention"]
    for _ in range(3):
        updates, state = update({i: {k: each[k][int(i)] for k in layer} for i, layer in alone.items()}, state, params)
        params = jax.tree.map(np.add, params, updates)
    for i, layer in alone.items():
        for name, before in layer.items():
            change = jnp.asarray(params[i][name]) - before
            np.testing.assert_array_equal(stacked[f"blocks/layers/attention/{name}"][int(i)], change)
