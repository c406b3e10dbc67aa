"""One trunk behind the stems of several sensors: its shared and own weights, and that each sensor's
step is that of the objective alone.
"""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from tiny_objectives import BACKBONES, HEAD, OBJECTIVES, features_of, views_of

from eo_jax.config import complete
from eo_jax.data.mixture import Mixture
from eo_jax.experiment import Experiment, make_experiment, mean_sample_flops, sample_flops
from eo_jax.objectives.ops import shared_trunk
from eo_jax.optim import optimizers

S1, S2 = (
    {"store": "stores/s1", "sensor": "sentinel1_grd"},
    {"store": "stores/s2", "sensor": "sentinel2_l2a"},
)


def config_of(name: str, backbone: str = "vit", **model) -> ml_collections.ConfigDict:
    """An objective on Sentinel-1 and Sentinel-2 alternately."""
    section, crops = OBJECTIVES[name]
    stem, trunk = BACKBONES[backbone]
    config = ml_collections.ConfigDict()
    components = {
        "optical": {"sources": ("s2",), "weight": 3.0},
        "radar": {"sources": ("s1",), "weight": 1.0},
    }
    config.data = {
        "sources": {"s2": S2, "s1": S1},
        "mixture": components,
        "batch_size": 4,
        "crop": 16,
    }
    config.augment = {
        "crops": {
            crop: {"views": views, "size": 16 if crop == "global" else 8}
            for crop, views in crops.items()
        }
    }
    config.model = {
        "stems": {"s2": stem, "s1": stem},
        "trunk": trunk,
        "trunk_sharing": "all",
        "dtype": "float32",
        **model,
    }
    config.objective = {"name": name, **section, **({"bn_group": 2} if name == "moco" else {})}
    config.run = {"steps": 10}
    return complete(config)


def alone(name: str, source: str, backbone: str = "vit") -> Experiment:
    """The same objective on one of the two sensors."""
    config = config_of(name, backbone)
    with config.unlocked():
        config.data.sources = {source: config.data.sources[source]}
        config.data.mixture = {}
        config.model.stems = {source: config.model.stems[source]}
        config.model.trunk_sharing = "none"
    return make_experiment(config)


def of_source(views: dict, source: str) -> dict:
    return {name: view for name, view in views.items() if name.startswith(f"{source}/")}


def paths(tree: dict) -> set[str]:
    return {
        jax.tree_util.keystr(keys, simple=True, separator="/")
        for keys, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_trees_equal(one: dict, other: dict) -> None:
    assert paths(one) == paths(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


SLOW = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (("data2vec", "vit"), ("dino", "vit"), ("moco", "resnet"), ("simclr", "resnet"))
]


@pytest.mark.parametrize(("name", "backbone"), [("mae", "vit"), *SLOW])
def test_a_step_of_each_sensor_is_that_of_the_objective_alone(name, backbone):
    experiment = make_experiment(config_of(name, backbone))
    objective, views = experiment.objective, views_of(experiment)
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    for source in ("s2", "s1"):
        single = alone(name, source, backbone).objective
        inner = shared_trunk._inner(params, source), shared_trunk._inner(carry, source)
        assert paths(inner[0]) == paths(jax.eval_shape(single.init, jax.random.key(0))[0])
        arguments = of_source(views, source), jax.random.key(1), jnp.asarray(0.1)
        (loss, (moved, _)), gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(
            params, carry, *arguments
        )
        (expected, (inner_moved, _)), inner_gradient = jax.jit(
            jax.value_and_grad(single.loss, has_aux=True)
        )(*inner, *arguments)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            shared_trunk._inner(gradient, source),
            inner_gradient,
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            shared_trunk._inner(moved, source),
            inner_moved,
        )
        other = "s1" if source == "s2" else "s2"
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["own"][other]))
        assert_trees_equal(moved["own"][other], carry["own"][other])


def test_trunk_and_heads_are_there_once_and_what_has_bands_for_each_sensor():
    params, _ = jax.eval_shape(make_experiment(config_of("mae")).objective.init, jax.random.key(0))
    shared, own = (
        paths(params["shared"]),
        {source: paths(tree) for source, tree in params["own"].items()},
    )
    assert (
        own["s1"]
        == own["s2"]
        == {
            f"{layer}/{leaf}"
            for layer in ("encoder/stem/embed", "decoder/predict")
            for leaf in ("kernel", "bias")
        }
    )
    assert {path.split("/")[0] for path in shared} == {"encoder", "decoder"} and not any(
        "stem" in path or "predict" in path for path in shared
    )
    assert params["own"]["s2"]["encoder"]["stem"]["embed"]["kernel"].shape == (4 * 4 * 12, 192)
    assert params["own"]["s1"]["encoder"]["stem"]["embed"]["kernel"].shape == (4 * 4 * 2, 192)


def test_a_teacher_follows_the_trunk_and_every_stem():
    objective = make_experiment(config_of("dino")).objective
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    trained = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)

    def teacher(carry, source):
        return shared_trunk._inner(carry, source)["teacher"]["params"]

    after = jax.jit(objective.ema_update)(trained, carry, jnp.asarray(0.0))
    for source in ("s1", "s2"):
        momentum = alone("dino", source).objective.momentum(jnp.asarray(0.0))
        step = jax.tree.map(np.subtract, teacher(after, source), teacher(carry, source))
        jax.tree.map(
            lambda leaf, m=momentum: np.testing.assert_allclose(leaf, 1 - m, atol=1e-6), step
        )


@pytest.mark.parametrize(
    ("optimizer", "frozen"),
    [pytest.param("adamw", "trunk/cls_token", marks=pytest.mark.slow), ("lars", None)],
)
def test_the_stem_of_a_sensor_rests_while_the_other_is_shown(optimizer, frozen):
    """LARS would scale the weight decay, all that is left of its update, to the length of any
    other.
    """
    config = config_of("simclr")
    freeze_rules = ((frozen, (0.0, 0.5)),) if frozen else ()
    config.optim.update(
        {"name": optimizer, "lr": 0.2, "weight_decay": 0.1, "freeze_rules": freeze_rules}
    )
    experiment = make_experiment(config)
    objective, views = experiment.objective, views_of(experiment)
    start = jax.jit(objective.init)(jax.random.key(0))
    chain = optimizers.make_optimizer(experiment.optim, start[0], 10)
    gradient = jax.jit(jax.grad(objective.loss, has_aux=True))

    @jax.jit
    def update(params, state, gradients):
        updates, state = chain.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    (params, carry), state, states = start, chain.init(start[0]), []
    for turn, source in enumerate(("s1", "s2", "s2", "s1")):
        gradients, (carry, _) = gradient(
            params, carry, of_source(views, source), jax.random.key(turn), jnp.asarray(0.1)
        )
        (params, state), before = update(params, state, gradients), params
        other = "s1" if source == "s2" else "s2"
        assert_trees_equal(params["own"][other], before["own"][other])
        assert all(
            np.any(np.asarray(now) != np.asarray(then))
            for now, then in zip(
                *map(jax.tree.leaves, (params["own"][source], before["own"][source])), strict=True
            )
        )
        states.append(state)
    moments = [
        optax.tree.get_all_with_path(state, "mu" if optimizer == "adamw" else "trace")[0][1]["own"][
            "s1"
        ]
        for state in states
    ]
    assert_trees_equal(moments[0], moments[2])


def test_each_sensor_has_an_encoder_to_evaluate_and_export():
    experiment = make_experiment(config_of("dino"))
    objective, views = experiment.objective, views_of(experiment)
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    found = objective.encoders(params, carry)
    assert set(found) == {"s1", "s1.teacher", "s2", "s2.teacher"}
    assert_trees_equal(found["s1"]["params"]["trunk"], found["s2"]["params"]["trunk"])
    heads = objective.heads(params, carry)
    assert heads.keys() == found.keys()
    assert_trees_equal(heads["s1"], heads["s2"])
    of_teacher = carry["shared"]["teacher"]["params"]["projector"]
    assert_trees_equal(heads["s1.teacher"]["params"]["projector"], of_teacher)
    for name, weights in found.items():
        source = name.partition(".")[0]
        pooled = features_of(
            objective,
            weights,
            views[f"{source}/global"][:, 0],
            views[f"{source}/global/valid"][:, 0],
        )["pooled"]
        assert pooled.shape == (4, 192) and np.isfinite(pooled).all()


def test_flops_are_the_mean_over_the_components_by_their_weights():
    experiment = make_experiment(config_of("simclr"))
    views = views_of(experiment)
    batches = {
        component: {source: of_source(views, source) for source in about.sources}
        for component, about in experiment.data.mixture.items()
    }

    def given(batch, key):
        return {name: view for fields in batch.values() for name, view in fields.items()}

    opened = types.SimpleNamespace(
        mixture=Mixture(experiment.data.mixture, 0), empty_batch=batches.__getitem__
    )
    s2, s1 = (
        sample_flops(alone("simclr", source), given, batches[component])
        for source, component in (("s2", "optical"), ("s1", "radar"))
    )
    assert mean_sample_flops(experiment, given, opened) == (3 * s2 + s1) / 4
    assert s2 > s1


def with_mixture(components: dict) -> ml_collections.ConfigDict:
    config = config_of("simclr")
    with config.unlocked():
        config.data.mixture = components
    return config


def test_what_cannot_share_a_trunk_is_refused():
    both = {"both": {"sources": ("s1", "s2"), "weight": 1.0}}
    for components, found in ((both, "both"), ({}, "no mixture given")):
        with pytest.raises(
            ValueError,
            match=r"trunk_sharing: 'all' trains on one source per step; .* component of its own in "
            rf"config\.data\.mixture; components with several sources: {found}",
        ):
            make_experiment(with_mixture(components))
    with pytest.raises(
        ValueError, match=r"config\.model\.trunk_sharing: 'two'; expected 'none' .* or 'all'"
    ):
        make_experiment(config_of("simclr", trunk_sharing="two"))
    config = config_of("simclr")
    config.data.sources.s1.sensor = "sentinel2_l2a"
    with config.unlocked():
        del config.model.stems.s1
        config.model.stems.s1 = "s2"
    with pytest.raises(
        ValueError,
        match=r"trunk_sharing: 'all' with one stem, that of s2; give the sources stems of their "
        r"own, or "
        r"use 'none'",
    ):
        make_experiment(config)


def test_stems_that_end_differently_are_refused():
    """The stem "identity" hands the bands on as they are: twelve behind one sensor, two behind the
    other.
    """
    stems = {source: {"name": "identity"} for source in ("s1", "s2")}
    with pytest.raises(
        ValueError,
        match=r"trunk_sharing: 'all', but encoder/trunk/.* is \(.*\) behind the stem of s2, \(.*\) "
        r"behind "
        r"that of s1; .* 'none'",
    ):
        make_experiment(config_of("simclr", "resnet", stems=stems))


def test_heads_are_those_of_the_config():
    params, _ = jax.eval_shape(
        make_experiment(config_of("simclr")).objective.init, jax.random.key(0)
    )
    assert params["shared"]["projector"]["last"]["kernel"].shape == HEAD["projector"]
