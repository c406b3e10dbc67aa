"""Fine-tuning starts from the weights that the config names, or not at all."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objectives import config_of, experiment_of

from eo_jax.checkpoint import Checkpoints
from eo_jax.experiment import make_experiment
from eo_jax.optim import optimizers
from eo_jax.step import init_state
from eo_jax.warm_start import load_weights


@functools.cache
def state_of(name: str, seed: int):
    """The state before the first step of an objective; what it starts from is not in it."""
    experiment = experiment_of(name)
    shapes = jax.eval_shape(experiment.objective.init, jax.random.key(0))[0]
    optimizer = optimizers.make_optimizer(experiment.optim, shapes, 10)
    return jax.jit(lambda: init_state(experiment.objective, optimizer, seed))()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of DINO whose teacher is not its student; (workdir, state)."""
    workdir = tmp_path_factory.mktemp("dino")
    state = state_of("dino", 1)
    teacher = state["carry"]["teacher"]
    state["carry"]["teacher"] = {
        **teacher,
        "params": jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + 1), teacher["params"]),
    }
    checkpoints = Checkpoints(workdir)
    checkpoints.save(3, state, config=config_of("dino").to_dict())
    checkpoints.wait()
    return workdir, state


def started(name: str, workdir, **run):
    config = config_of(name)
    config.run.update({"init_from": str(workdir), **run})
    state = state_of(name, 2)
    return state, load_weights(state, make_experiment(config))


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_default_is_the_first_encoder_and_heads_stay_fresh(pretrained):
    workdir, dino = pretrained
    fresh, warm = started("supervised", workdir)
    same(warm["params"]["encoder"], dino["carry"]["teacher"]["params"]["encoder"])
    same(warm["params"]["classifier"], fresh["params"]["classifier"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(warm["params"]))


def test_a_teacher_starts_as_a_copy_of_the_student_that_was_loaded(pretrained):
    workdir, dino = pretrained
    _, warm = started("moco", workdir, init_encoder="s2")
    same(warm["params"]["encoder"], dino["params"]["encoder"])
    same(warm["carry"]["teacher"]["params"]["encoder"], dino["params"]["encoder"])


def test_rules_choose_weights_and_where_they_go(pretrained):
    workdir, dino = pretrained
    rules = ((r"^params/encoders/s2/(stem/.+)$", r"params/\1"),)
    fresh, warm = started("clip", workdir, init_rules=rules, init_encoder="s2")
    same(warm["params"]["encoders"]["s2"]["stem"], dino["params"]["encoder"]["stem"])
    same(warm["params"]["encoders"]["s1"], fresh["params"]["encoders"]["s1"])
    same(warm["params"]["encoders"]["s2"]["trunk"], fresh["params"]["encoders"]["s2"]["trunk"])


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        (
            "supervised",
            {"init_encoder": "enmap"},
            r"config\.run\.init_encoder: 'enmap'; .* has s2\.teacher, s2",
        ),
        ("clip", {}, r"config\.run\.init_rules: this objective has no single encoder"),
        (
            "supervised",
            {"init_rules": ((r"^params/head/(.+)$", r"params/\1"),)},
            r"config\.run\.init_rules: rules that match no weight",
        ),
        (
            "supervised",
            {"init_rules": ((r"^params/(encoder/stem/.+)$", r"params/\1"),)},
            r"starts from params/encoder/stem/.*absent",
        ),
        (
            "supervised",
            {"init_rules": ((r"^params/encoder/stem/embed/bias$", "params/stem/embed/kernel"),)},
            r"which is of shape \(192, 192\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(pretrained, name, run, message):
    with pytest.raises(ValueError, match=message):
        started(name, pretrained[0], **run)


def test_weights_of_another_sensor_are_refused(pretrained):
    config = config_of("supervised")
    config.data.sources.s2.sensor = "sentinel1_grd"
    config.run.init_from = str(pretrained[0])
    with pytest.raises(
        ValueError,
        match=r"on sensor 'sentinel2_l2a', this run has sentinel1_grd; weights belong to bands in "
        r"their order",
    ):
        load_weights(state_of("supervised", 2), make_experiment(config))
