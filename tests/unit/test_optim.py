"""Tests of `eo_jax.optim.optimizers`: schedules, and how weights move, against formulas and loops
written here, and against PyTorch.
"""

from __future__ import annotations

import functools
import math
import re

import jax
import ml_collections
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from tiny_objectives import config_of

from eo_jax import rules, sharding
from eo_jax.config import complete
from eo_jax.experiment import make_experiment
from eo_jax.optim import optimizers

STEPS = 100
PARAMS = {
    "dense": {"kernel": np.full((4, 4), 2.0, np.float32), "bias": np.full(4, 2.0, np.float32)},
    "norm": {"scale": np.full(4, 2.0, np.float32), "bias": np.full(4, 2.0, np.float32)},
    "blocks": {
        "layers": {
            "attention": {
                "qkv": np.full((3, 4, 2), 2.0, np.float32),
                "qkv_bias": np.full((3, 2), 2.0, np.float32),
            }
        }
    },
    "cls_token": np.full((1, 1, 4), 2.0, np.float32),
}
ZERO = jax.tree.map(np.zeros_like, PARAMS)


def moves(config: optimizers.Config, gradients=ZERO, steps: int = 1) -> dict:
    """{path: how much each weight has changed} after some steps with the same gradients."""
    optimizer = optimizers.make_optimizer(config, PARAMS, STEPS)
    state, params, update = optimizer.init(PARAMS), PARAMS, jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = jax.tree.map(np.add, params, updates)
    flat = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, params, PARAMS))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in flat
    }


def lr_at(step: int, peak: float, end: float, warmup: int) -> float:
    """MAE's schedule, by hand."""
    if step < warmup:
        return peak * step / warmup
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_schedule_warms_up_peaks_and_ends(warmup):
    schedule = optimizers.schedule(
        optimizers.Config(lr=2e-3, end_lr=1e-5, warmup_steps=warmup), STEPS
    )
    for step in (0, 1, 5, 10, 11, 50, 99, 100):
        assert float(schedule(step)) == pytest.approx(
            lr_at(step, 2e-3, 1e-5, warmup), rel=1e-4, abs=1e-9
        ), step
    assert float(schedule(warmup)) == pytest.approx(2e-3)
    assert float(schedule(STEPS)) == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "linear", "end_lr": 0.4}, {0: 1.0, 50: 0.6, 100: 0.2}),
        (
            {"schedule": "linear", "warmup_steps": 20},
            {0: 0.0, 10: 0.5, 20: 1.0, 60: 0.5, 99: 1 / 80},
        ),
        (
            {"schedule": "step", "milestones": (0.6, 0.8)},
            {0: 1.0, 59: 1.0, 60: 0.1, 79: 0.1, 80: 0.01, 99: 0.01},
        ),
        (
            {"schedule": "step", "milestones": (0.5,), "gamma": 0.5, "warmup_steps": 10},
            {0: 0.0, 5: 0.5, 10: 1.0, 49: 1.0, 50: 0.5, 99: 0.5},
        ),
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        (
            {"schedule": "constant", "warmup_steps": 10, "warmup_start_factor": 1 / 3},
            {0: 1 / 3, 5: 2 / 3, 10: 1.0, 99: 1.0},
        ),
        ({"horizon": 0.5, "end_lr": 0.2}, {0: 1.0, 25: 0.55, 50: 0.1, 99: 0.1}),
        # SpectralEarth's DINO: 20 epochs from lr / 20, then a cosine of 100 epochs of which 80 are
        # left.
        (
            {"warmup_steps": 20, "warmup_start_factor": 0.05, "horizon": 1.25},
            {0: 0.05, 10: 0.525, 20: 1.0, 70: 0.5, 100: 0.5 + 0.5 * math.cos(0.8 * math.pi)},
        ),
    ],
    ids=[
        "linear",
        "linear, warm-up",
        "step",
        "step, warm-up",
        "constant",
        "constant, warm-up",
        "cosine, short",
        "cosine, long",
    ],
)
def test_schedules_pass_through(fields: dict, expected: dict):
    rates = np.asarray(
        optimizers.schedule(optimizers.Config(lr=2.0, **fields), STEPS)(np.arange(STEPS + 1))
    )
    np.testing.assert_allclose(
        rates[list(expected)] / 2.0, list(expected.values()), rtol=1e-5, atol=1e-7
    )


def test_the_weight_decay_goes_by_half_a_cosine():
    decay = optimizers.decay_schedule(
        optimizers.Config(weight_decay=0.04, end_weight_decay=0.4, warmup_steps=10), STEPS
    )
    for step, value in {
        0: 0.04,
        25: 0.04 + 0.36 * (1 - math.sqrt(0.5)) / 2,
        50: 0.22,
        100: 0.4,
    }.items():
        assert float(decay(step)) == pytest.approx(value, rel=1e-5)
    assert optimizers.decay_schedule(optimizers.Config(weight_decay=0.04), STEPS)(50) == 0.04


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(
        ValueError,
        match=r"config\.optim\.warmup_steps: 100; expected fewer than config\.run\.steps, 100",
    ):
        optimizers.schedule(optimizers.Config(warmup_steps=100), STEPS)


def test_without_gradients_matrices_and_tokens_shrink_by_lr_times_decay_and_nothing_else_moves():
    moved = moves(optimizers.Config(lr=1e-2, weight_decay=0.1))
    decayed = {"dense/kernel", "blocks/layers/attention/qkv", "cls_token"}
    for path, change in moved.items():
        expected = -1e-2 * 0.1 * 2.0 if path in decayed else 0.0
        np.testing.assert_allclose(change, expected, rtol=1e-3, err_msg=path)
    assert {path for path, change in moved.items() if change.any()} == decayed


def test_every_bias_and_norm_of_a_real_model_is_spared():
    values = {
        "data": {"sources": {"enmap": {"store": "x", "sensor": "enmap"}}},
        "model": {
            "stems": {"enmap": {"name": "spectral_adapter", "patch": 8}},
            "trunk": {"name": "vit", "size": "tiny", "depth": 1},
        },
        "objective": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    }
    objective = make_experiment(complete(ml_collections.ConfigDict(values))).objective
    params, _ = jax.eval_shape(objective.init, jax.random.key(0))
    shares = optimizers.rules.match(optimizers.Config().decay_rules, params, "decay")
    spared = {path for path, share in optimizers.rules.paths(shares) if share == 0}
    matrices = {
        path
        for path, leaf in optimizers.rules.paths(params)
        if path.endswith(("kernel", "qkv", "token"))
    }
    assert spared == {path for path, _ in optimizers.rules.paths(params)} - matrices
    assert {
        "encoder/stem/adapter/norm0/scale",
        "encoder/trunk/blocks/layers/attention/qkv_bias",
    } <= spared


def test_shares_of_the_decay_count():
    moved = moves(
        optimizers.Config(
            lr=1e-2,
            weight_decay=0.1,
            decay_rules=(("cls_token$", 0.5), ("kernel$", 1.0), (".*", 0.0)),
        )
    )
    assert moved["cls_token"].mean() == pytest.approx(0.5 * moved["dense/kernel"].mean(), rel=1e-3)


def test_shares_of_the_learning_rate_scale_the_whole_update_and_zero_freezes():
    gradients = jax.tree.map(np.ones_like, PARAMS)
    plain = moves(optimizers.Config(), gradients, steps=3)
    scaled = moves(
        optimizers.Config(lr_rules=(("^dense/", 0.1), ("cls_token$", 0.0), (".*", 1.0))),
        gradients,
        steps=3,
    )
    np.testing.assert_allclose(scaled["dense/kernel"], 0.1 * plain["dense/kernel"], rtol=1e-3)
    np.testing.assert_allclose(scaled["dense/bias"], 0.1 * plain["dense/bias"], rtol=1e-3)
    np.testing.assert_array_equal(scaled["norm/scale"], plain["norm/scale"])
    assert not scaled["cls_token"].any()


def test_weights_of_a_constant_rate_leave_the_schedule_to_the_others():
    gradients = jax.tree.map(np.ones_like, PARAMS)
    fields = {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
        "lr_rules": (("cls_token$", 0.5), (".*", 1.0)),
    }
    moved = moves(
        optimizers.Config(**fields, constant_lr=("^dense/", "cls_token$")), gradients, steps=STEPS
    )
    falling = 0.1 * sum(0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS))
    np.testing.assert_allclose(moved["dense/kernel"], -0.1 * STEPS, rtol=1e-4)
    np.testing.assert_allclose(moved["cls_token"], -0.05 * STEPS, rtol=1e-4)
    np.testing.assert_allclose(moved["norm/scale"], -falling, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"config\.optim\.constant_lr: rules that match no weight.*predictor"
    ):
        optimizers.make_optimizer(optimizers.Config(constant_lr=("^predictor/",)), PARAMS, STEPS)


def test_gradients_longer_than_clip_norm_are_scaled_down_together():
    gradients = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), PARAMS)
    norm = math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(PARAMS))) * 0.5
    for clip, factor in ((1.0, 1 / norm), (0.0, 1.0), (100.0, 1.0)):
        optimizer = optimizers.make_optimizer(optimizers.Config(clip_norm=clip), PARAMS, STEPS)
        _, state = jax.jit(optimizer.update)(gradients, optimizer.init(PARAMS), PARAMS)
        moment = jax.tree.leaves(state[1].mu)[0]
        np.testing.assert_allclose(moment, 0.1 * 0.5 * factor, rtol=1e-5)


# ------------------------------------------------------------------------------------ against loops
RUN = 20
DEPTH = 3
SHAPES = {
    "attention/qkv": (4, 3, 2, 5),
    "attention/qkv_bias": (3, 2, 5),
    "norm1/scale": (4,),
    "mlp/fc1/kernel": (4, 6),
    "mlp/fc1/bias": (6,),
}
FREEZE = {
    "head/last_layer/kernel": (0, 4),
    "trunk/cls_token": (10, 15),
    "trunk/blocks/norm1/scale": (0, 20),
}
CONFIG = {
    "lr": 0.02,
    "warmup_steps": 5,
    "weight_decay": 0.04,
    "end_weight_decay": 0.4,
    "lr_rules": (("(bias|scale)$", 0.024), ("cls_token$", 0.5), (".*", 1.0)),
    "freeze_rules": (
        ("last_layer", (0.0, 0.2)),
        ("cls_token$", (0.5, 0.75)),
        ("norm1/scale$", (0.0, 1.0)),
    ),
}


def plain_arrays(seed: int) -> dict[str, np.ndarray]:
    """{path: array}, each block by itself; the blocks differ in size, so that a norm over all of
    them is not that of one.
    """
    draw = np.random.default_rng(seed).normal
    arrays = {
        "trunk/cls_token": draw(size=(1, 1, 4)),
        "head/last_layer/kernel": draw(size=(4, 7)),
        "trunk/norm/bias": draw(size=4),
    }
    blocks = {
        f"trunk/blocks/{i}/{name}": 10.0**i * draw(size=shape)
        for i in range(DEPTH)
        for name, shape in SHAPES.items()
    }
    return {path: array.astype(np.float32) for path, array in (arrays | blocks).items()}


def nest(arrays: dict[str, np.ndarray]) -> dict:
    tree = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree


def stack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    blocks = {
        f"trunk/blocks/layers/{name}": np.stack(
            [arrays[f"trunk/blocks/{i}/{name}"] for i in range(DEPTH)]
        )
        for name in SHAPES
    }
    return {path: array for path, array in arrays.items() if "/blocks/" not in path} | blocks


def unstack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    blocks = {
        f"trunk/blocks/{i}/{name}": arrays[f"trunk/blocks/layers/{name}"][i]
        for i in range(DEPTH)
        for name in SHAPES
    }
    return {path: array for path, array in arrays.items() if "/blocks/" not in path} | blocks


def trained(config: optimizers.Config, layout) -> dict[str, np.ndarray]:
    """{path: weight} after RUN steps, in one layout or the other."""
    params = nest(layout(plain_arrays(0)))
    optimizer = optimizers.make_optimizer(config, params, RUN)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(RUN):
        updates, state = update(nest(layout(plain_arrays(1 + step))), state, params)
        params = jax.tree.map(np.add, params, updates)
    return {path: np.asarray(leaf) for path, leaf in rules.paths(params)}


def frozen(path: str, step: int) -> bool:
    start, stop = FREEZE.get(re.sub(r"/\d+/", "/", path), (0, 0))
    return start <= step < stop


def clipped(gradients: dict[str, np.ndarray], config: optimizers.Config) -> dict[str, np.ndarray]:
    norms = {path: np.linalg.norm(gradient) for path, gradient in gradients.items()}
    if config.clip_scope == "global":
        norms = dict.fromkeys(norms, math.sqrt(sum(norm**2 for norm in norms.values())))
    return {
        path: gradient * min(1.0, config.clip_norm / norms[path])
        for path, gradient in gradients.items()
    }


class Loop:
    """One weight in float64, updated as PyTorch's loops over parameters do; a frozen weight has no
    gradient and is passed over.
    """

    def __init__(self, path: str, weight: np.ndarray, config: optimizers.Config):
        self.weight, self.config = weight.astype(np.float64), config
        self.is_vector = path.endswith(("bias", "scale"))
        self.scale = 0.024 if self.is_vector else 0.5 if path.endswith("cls_token") else 1.0
        self.count, self.first, self.second = 0, 0.0, 0.0

    def step(self, gradient: np.ndarray, lr: float, decay: float) -> None:
        self.count += 1
        direction = getattr(self, self.config.name)(gradient, 0.0 if self.is_vector else decay)
        self.weight = self.weight - lr * self.scale * direction

    def adamw(self, gradient: np.ndarray, decay: float) -> np.ndarray:
        beta1, beta2 = self.config.beta1, self.config.beta2
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient**2
        return (
            self.first
            / (1 - beta1**self.count)
            / (np.sqrt(self.second / (1 - beta2**self.count)) + 1e-8)
            + decay * self.weight
        )

    def sgd(self, gradient: np.ndarray, decay: float) -> np.ndarray:
        self.first = 0.9 * self.first + gradient + decay * self.weight
        return self.first

    def lars(self, gradient: np.ndarray, decay: float) -> np.ndarray:
        gradient = gradient + decay * self.weight
        trust = (
            1.0
            if self.is_vector
            else 0.001 * np.linalg.norm(self.weight) / np.linalg.norm(gradient)
        )
        self.first = 0.9 * self.first + trust * gradient
        return self.first


@functools.cache
def by_loops(config: optimizers.Config) -> dict[str, np.ndarray]:
    loops = {path: Loop(path, weight, config) for path, weight in plain_arrays(0).items()}
    for step in range(RUN):
        gradients = {
            path: gradient
            for path, gradient in plain_arrays(1 + step).items()
            if not frozen(path, step)
        }
        lr = 0.02 * step / 5 if step < 5 else 0.01 * (1 + math.cos(math.pi * (step - 5) / 15))
        decay = 0.4 - 0.18 * (1 + math.cos(math.pi * step / RUN))
        for path, gradient in clipped(gradients, config).items():
            loops[path].step(gradient, lr, decay)
    return {path: loop.weight for path, loop in loops.items()}


@pytest.mark.parametrize("layout", [stack, dict], ids=["stacked", "unstacked"])
@pytest.mark.parametrize(
    ("name", "clip_scope"),
    [
        ("adamw", "weight"),
        ("adamw", "global"),
        ("sgd", "global"),
        ("sgd", "weight"),
        ("lars", "weight"),
    ],
)
def test_weights_go_where_plain_loops_take_them(name: str, clip_scope: str, layout):
    config = optimizers.Config(name=name, clip_norm=3.0, clip_scope=clip_scope, **CONFIG)
    after = trained(config, layout)
    after = unstack(after) if layout is stack else after
    start, expected = plain_arrays(0), by_loops(config)
    assert after.keys() == expected.keys()
    for path, weight in expected.items():
        moved = np.abs(weight - start[path]).max()
        np.testing.assert_allclose(after[path], weight, rtol=1e-6, atol=1e-4 * moved, err_msg=path)
        assert (moved == 0) == path.endswith("norm1/scale"), path


def test_lars_spares_vectors_whatever_the_decay_rules_say_and_takes_zero_weights_as_they_are():
    """No decay, no trust ratio, for biases (that of q, k and v has axes of heads) and norms; a
    trust ratio of 1 where the weight is 0.
    """
    params = nest(stack(plain_arrays(0)))
    params["trunk"]["cls_token"] *= 0
    gradients = jax.tree.map(np.ones_like, params)
    optimizer = optimizers.make_optimizer(
        optimizers.Config(
            name="lars", lr=0.5, clip_norm=0.0, decay_rules=((".*", 1.0),), weight_decay=10.0
        ),
        params,
        RUN,
    )
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    as_given = {path for path, update in rules.paths(updates) if (np.asarray(update) == -0.5).all()}
    block = "trunk/blocks/layers"
    vectors = {
        f"{block}/attention/qkv_bias",
        f"{block}/norm1/scale",
        f"{block}/mlp/fc1/bias",
        "trunk/norm/bias",
    }
    assert as_given == {*vectors, "trunk/cls_token"}
    rows = np.linalg.norm(
        np.asarray(updates["trunk"]["blocks"]["layers"]["mlp"]["fc1"]["kernel"]).reshape(DEPTH, -1),
        axis=1,
    )
    weights = np.linalg.norm(
        params["trunk"]["blocks"]["layers"]["mlp"]["fc1"]["kernel"].reshape(DEPTH, -1), axis=1
    )
    np.testing.assert_allclose(rows, 0.5 * 0.001 * weights, rtol=1e-5)


# --------------------------------------------------------------------------------- layer-wise decay
def test_layer_decay_is_that_of_beit():
    """Layer 0 is the embedding, 1 to 3 the blocks, 4 the norm and the head; each layer has 0.5 of
    the next.
    """
    extra = {
        "stem/embed/kernel": (4, 4),
        "trunk/registers": (1, 2, 4),
        "trunk/position_embedding/table": (1, 10, 4),
        "trunk/relative/table": (9, 2),
    }
    params = nest(
        stack(plain_arrays(0)) | {path: np.ones(shape, np.float32) for path, shape in extra.items()}
    )
    config = optimizers.Config(
        name="sgd",
        lr=1.0,
        clip_norm=0.0,
        weight_decay=0.0,
        layer_decay=0.5,
        lr_rules=(("fc1/bias$", 0.1), (".*", 1.0)),
    )
    optimizer = optimizers.make_optimizer(config, params, RUN)
    updates, _ = jax.jit(optimizer.update)(
        jax.tree.map(np.ones_like, params), optimizer.init(params), params
    )
    moved = {path: -np.asarray(update) for path, update in rules.paths(updates)}
    for name in SHAPES:
        per_layer = np.array([0.125, 0.25, 0.5]) * (0.1 if name == "mlp/fc1/bias" else 1.0)
        layers = moved.pop(f"trunk/blocks/layers/{name}").reshape(DEPTH, -1)
        np.testing.assert_allclose(
            layers, np.broadcast_to(per_layer[:, None], layers.shape), rtol=1e-6
        )
    embeddings, rest = (
        [
            "stem/embed/kernel",
            "trunk/registers",
            "trunk/position_embedding/table",
            "trunk/cls_token",
        ],
        ["trunk/relative/table", "trunk/norm/bias", "head/last_layer/kernel"],
    )
    expected = dict.fromkeys(embeddings, 0.0625) | dict.fromkeys(rest, 1.0)
    assert {path: float(np.unique(update).item()) for path, update in moved.items()} == expected


def test_keys_of_embeddings_are_those_of_networks():
    keys = set()
    for name, options in (
        ("mae", {"registers": 2}),
        ("simclr", {"positions": "learned", "grid": 4}),
    ):
        config = config_of(name)
        config.model.trunk.update(options)
        params, _ = jax.eval_shape(make_experiment(config).objective.init, jax.random.key(0))
        keys |= {key for path, _ in rules.paths(params) for key in path.split("/")}
    assert keys.issuperset(rules.EMBEDDINGS)


@pytest.mark.parametrize(
    ("params", "depths"),
    [
        ({"conv": {"kernel": np.ones((3, 3, 2, 2), np.float32)}}, r"\[\]"),
        (
            {
                "a": {"layers": {"kernel": np.ones((2, 4), np.float32)}},
                "b": {"layers": {"kernel": np.ones((5, 4), np.float32)}},
            },
            r"\[2, 5\]",
        ),
    ],
    ids=["no stacked blocks", "two depths"],
)
def test_layer_decay_without_layers_of_one_depth_is_refused(params: dict, depths: str):
    with pytest.raises(
        ValueError,
        match=rf"config\.optim\.layer_decay: 0\.75 needs stacked blocks .* found depths {depths}; "
        r"set it to 1\.0",
    ):
        optimizers.make_optimizer(
            optimizers.Config(layer_decay=0.75, decay_rules=((".*", 1.0),)), params, STEPS
        )


# -------------------------------------------------------------------------------------------- state
@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("sgd", 1), ("lars", 1)])
def test_moments_are_sharded_by_the_rules_of_their_weights(name: str, moments: int):
    config = optimizers.Config(name=name, freeze_rules=(("cls_token$", (0.0, 0.1)),))
    state = jax.eval_shape(optimizers.make_optimizer(config, PARAMS, STEPS).init, PARAMS)
    mesh = AbstractMesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    table = sharding.Config(rules=(("blocks/layers/attention/qkv$", ("fsdp", None)), (".*", ())))
    placed = jax.tree.leaves(
        sharding.state_sharding(table, {"params": PARAMS, "optimizer": state}, mesh)
    )
    assert sum(bool(placement.spec) for placement in placed) == 1 + moments


def test_a_freeze_rule_that_no_weight_meets_is_refused():
    with pytest.raises(
        ValueError, match=r"config\.optim\.freeze_rules: rules that match no weight.*last_layer"
    ):
        optimizers.make_optimizer(
            optimizers.Config(freeze_rules=(("last_layer", (0.0, 0.1)),)), PARAMS, STEPS
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adam"}, "name: 'adam'; expected one of adamw, sgd, lars"),
        ({"schedule": "cos"}, "schedule: 'cos'; expected one of cosine, linear, step, constant"),
        ({"clip_scope": "layer"}, "clip_scope: 'layer'; expected one of global, weight"),
        ({"lr": 0.0}, "lr: 0.0; expected more than 0"),
        ({"lr": math.nan}, "lr: nan; expected more than 0"),
        ({"end_lr": -1.0}, "end_lr: -1.0; expected 0 or more"),
        (
            {"warmup_start_factor": 1.5},
            "warmup_start_factor: 1.5; expected a fraction of lr, from 0 to 1",
        ),
        ({"horizon": 0}, "horizon: 0; expected more than 0"),
        (
            {"schedule": "step"},
            "milestones: (); expected at least one with config.optim.schedule 'step'",
        ),
        (
            {"milestones": (0.8, 0.6)},
            "milestones: (0.8, 0.6); expected rising fractions of the run between 0 and 1",
        ),
        (
            {"milestones": (60, 80)},
            "milestones: (60, 80); expected rising fractions of the run between 0 and 1",
        ),
        (
            {"end_weight_decay": -0.1},
            "end_weight_decay: -0.1; expected 0 or more, or None for a constant",
        ),
        ({"momentum": 1.0}, "momentum: 1.0; expected from 0 to below 1"),
        ({"layer_decay": 1.5}, "layer_decay: 1.5; expected more than 0, at most 1"),
        (
            {"lr_rules": (("bias$", -1.0),)},
            "lr_rules: (('bias$', -1.0),); expected ((regex, 0 or more), ...)",
        ),
        (
            {"decay_rules": ("bias$", 0.0)},
            "decay_rules: ('bias$', 0.0); expected ((regex, 0 or more), ...)",
        ),
        (
            {"freeze_rules": (("last_layer", (0.5, 0.1)),)},
            "freeze_rules: (('last_layer', (0.5, 0.1)),); expected ((regex, (from, until)), ...)",
        ),
        ({"constant_lr": "predictor/"}, "constant_lr: 'predictor/'; expected (regex, ...)"),
        (
            {"freeze_rules": ("last_layer", (0.0, 0.1))},
            "freeze_rules: ('last_layer', (0.0, 0.1)); expected ((regex, (from, until)), ...)",
        ),
    ],
    ids=lambda value: value.split(";")[0] if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_by_name(fields: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(f"config.optim.{message}")):
        optimizers.Config(**fields)


# ---------------------------------------------------------------------------------- against PyTorch
def torch_training(
    optimizer_class, config: optimizers.Config, frozen_steps: int, **options
) -> dict[str, np.ndarray]:
    """{path: weight} after RUN steps of a PyTorch optimizer with two groups, decayed and not, as
    DINO's released loop runs it.
    """
    torch = pytest.importorskip("torch")
    weights = {
        path: torch.nn.Parameter(torch.from_numpy(weight.copy()))
        for path, weight in plain_arrays(0).items()
    }
    spared = [weight for path, weight in weights.items() if path.endswith(("bias", "scale"))]
    decayed = [weight for path, weight in weights.items() if not path.endswith(("bias", "scale"))]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    optimizer = getattr(torch.optim, optimizer_class)(groups, lr=config.lr, **options)
    rate = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [int(share * RUN) for share in config.milestones], config.gamma
    )
    for step in range(RUN):
        for path, gradient in plain_arrays(1 + step).items():
            weights[path].grad = (
                None if step < frozen_steps and "last_layer" in path else torch.from_numpy(gradient)
            )
        optimizer.step()
        rate.step()
    return {path: weight.detach().numpy() for path, weight in weights.items()}


@pytest.mark.parametrize(
    ("name", "optimizer_class", "options"),
    [("sgd", "SGD", {"momentum": 0.9}), ("adamw", "AdamW", {"betas": (0.9, 0.999), "eps": 1e-8})],
    ids=["sgd", "adamw"],
)
def test_weights_go_where_pytorch_takes_them(name: str, optimizer_class: str, options: dict):
    freeze = (("last_layer", (0.0, 0.2)),)
    config = optimizers.Config(
        name=name,
        lr=0.01,
        beta2=0.999,
        weight_decay=0.1,
        clip_norm=0.0,
        schedule="step",
        milestones=(0.6, 0.8),
        freeze_rules=freeze,
    )
    expected, after = (
        torch_training(optimizer_class, config, frozen_steps=4, **options),
        unstack(trained(config, stack)),
    )
    for path, weight in expected.items():
        np.testing.assert_allclose(
            after[path], weight, rtol=2e-6, atol=2e-6 * np.abs(weight).max(), err_msg=path
        )
