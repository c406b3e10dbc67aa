"""The contract of every objective: a finite loss that trains every weight, a carry that keeps its
shape, features and helpful errors.
"""

from __future__ import annotations

import functools
from collections.abc import Container

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_losses
from counting import multiply_adds
from multidevice.start import SeveralDevices
from resuming import hashes_after_resume
from tiny_objectives import (
    CLASSES,
    LABELLED,
    OBJECTIVES,
    SIZE,
    TOKENS_ONLY,
    backbones_of,
    compiled,
    config_of,
    experiment_of,
    loss_of,
    views_of,
)

from eo_jax import rules
from eo_jax.config import complete, modules
from eo_jax.experiment import make_experiment, sample_flops
from eo_jax.models.functional import Mode
from eo_jax.objectives import dino, semi_supervised
from eo_jax.objectives.base import Objective
from eo_jax.objectives.ops.collapse_metrics import agreement, collapse_metrics, fraction_used
from eo_jax.objectives.ops.losses import cross_entropy_and_top1
from eo_jax.optim.optimizers import make_optimizer
from eo_jax.step import init_state, make_train_step

# A teacher with local crops, a queue, tokens that are hidden. The others take as long each.
QUICK = ["dino", "moco", "data2vec"]
CASES = [(name, backbone) for name in OBJECTIVES for backbone in backbones_of(name)]


def slow_but(quick: Container[tuple[str, str]]) -> list:
    """Every case, slow unless it is one of these."""
    return [
        case if case in quick else pytest.param(*case, marks=pytest.mark.slow) for case in CASES
    ]


def test_every_module_of_the_folder_is_tested():
    assert set(modules("objectives")) == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "backbone"), slow_but({(name, "vit") for name in OBJECTIVES} | {("moco", "resnet")})
)
def test_the_loss_is_finite_and_trains_every_weight(name, backbone):
    experiment = experiment_of(name, backbone)
    assert isinstance(experiment.objective, Objective)
    params, carry, ((loss, (moved, metrics)), gradients) = loss_of(experiment, views_of(experiment))
    assert loss.dtype == jnp.float32 and loss.shape == () and np.isfinite(loss)
    assert all(np.isfinite(value) and np.shape(value) == () for value in metrics.values()), metrics
    assert {metric.partition("/")[0] for metric in metrics} == set(experiment.objective.metrics)
    dead = [
        path
        for path, leaf in rules.paths(gradients)
        if not np.isfinite(leaf).all() or not np.abs(leaf).any()
    ]
    assert not [path for path in dead if not _may_be_still(path)], dead

    def shapes(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert shapes(moved) == shapes(carry)
    updated = jax.jit(experiment.objective.ema_update)(params, moved, 0.5)
    assert shapes(updated) == shapes(carry)


def _may_be_still(path: str) -> bool:
    """Biases that a normalisation behind them takes out again, and the key's bias, which the
    softmax over keys does not see.
    """
    return path.endswith(("conv0/bias", "conv1/bias", "conv2/bias"))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_spread_of_features_is_logged_and_that_of_embeddings_where_they_are_compared(name):
    """A head that gives the same for all samples gives features no gradient: only the embeddings
    show it.
    """
    experiment = experiment_of(name)
    _, _, ((_, (_, metrics)), _) = loss_of(experiment, views_of(experiment))
    expected = {"feature_std", "feature_rank"} | (
        set() if name in (*TOKENS_ONLY, "supervised") else {"embedding_std"}
    )
    if name in ("decur", "clip"):
        expected = {f"{metric}/{source}" for metric in expected for source in ("s2", "s1")}
    assert {metric for metric in metrics if metric.startswith(("feature_", "embedding_"))} == (
        expected
    )


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_encoders_give_features_in_evaluation_mode(name):
    experiment = experiment_of(name)
    objective = experiment.objective
    params, carry = jax.eval_shape(objective.init, jax.random.key(0))
    encoders = objective.encoders(params, carry)
    for weights in encoders.values():
        source = weights["source"]
        bands = len(experiment.encoders[source].sensor.bands)
        view = jax.ShapeDtypeStruct((2, 16, 16, bands), jnp.float32)
        found = _features(objective, weights, view)
        assert found["pooled"].shape == (2, 192) and found["dense"].shape == (2, 4, 4, 192)
        assert found["pooled"].dtype == jnp.float32
    assert ("s2.teacher" in encoders) == (name in ("dino", "moco", "moco_v3", "byol", "data2vec"))


def _features(objective, weights, view):
    arrays = {key: value for key, value in weights.items() if key != "source"}
    valid = jax.ShapeDtypeStruct(view.shape, bool)
    return jax.eval_shape(
        lambda w, x, v: objective.features({**w, "source": weights["source"]}, x, v),
        arrays,
        view,
        valid,
    )


@pytest.mark.parametrize("name", ["dino", "moco", "moco_v3", "byol", "data2vec"])
def test_a_teacher_starts_as_a_copy_and_follows_the_student(name):
    objective = experiment_of(name).objective
    params, carry = compiled(objective)[0](jax.random.key(0))
    teacher = carry["teacher"]["params"]
    jax.tree.map(np.testing.assert_array_equal, teacher, {key: params[key] for key in teacher})
    moved = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params)
    share = float(objective.momentum(jnp.asarray(0.25)))
    assert 0.5 < share < 1
    followed = jax.jit(objective.ema_update)(moved, carry, 0.25)["teacher"]["params"]
    jax.tree.map(
        lambda old, new: np.testing.assert_allclose(new, np.asarray(old) + (1 - share), atol=1e-6),
        teacher,
        followed,
    )


@pytest.mark.parametrize(
    ("name", "start", "middle", "end"),
    [
        ("dino", 0.996, 0.998, 1.0),
        ("byol", 0.996, 0.998, 1.0),
        ("moco_v3", 0.99, 0.995, 1.0),
        ("moco", 0.999, 0.999, 0.999),
        ("data2vec", 0.999, 0.9994, 0.9998),
    ],
)
def test_momenta_of_teachers_rise_over_the_whole_run_as_published(name, start, middle, end):
    """Half a cosine (DINO, BYOL, MoCo-v3), a straight line (data2vec) or none; a schedule that ends
    early freezes the teacher.
    """
    momentum = experiment_of(name).objective.momentum
    found = [float(momentum(jnp.asarray(progress))) for progress in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(found, [start, middle, end], atol=1e-6)
    quarter = float(momentum(jnp.asarray(0.25)))
    assert quarter == pytest.approx(
        start + (end - start) * (0.25 if name == "data2vec" else (1 - np.cos(np.pi / 4)) / 2),
        abs=1e-6,
    )


def test_dinos_loss_has_its_centre_its_temperature_and_koleo():
    config = config_of("dino")
    config.objective.update(
        {
            "warmup_teacher_temperature": 0.04,
            "teacher_temperature": 0.07,
            "teacher_temperature_warmup": 0.5,
            "koleo_weight": 0.3,
            "centre_momentum": 0.8,
        }
    )
    experiment = make_experiment(config)
    objective, views, key = experiment.objective, views_of(experiment), jax.random.key(1)
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    carry["centre"] = 0.1 * jax.random.normal(jax.random.key(2), carry["centre"].shape)

    @jax.jit
    def compared(params, carry):
        targets, _ = objective._targets(carry, views)
        features, _ = objective.encode_crops(params, carry, views, key)
        return (
            features,
            targets,
            objective.head("projector", params, carry, features, Mode("batch"))[0],
        )

    features, targets, student = (np.asarray(x, np.float64) for x in compared(params, carry))
    centre, apart = (
        np.asarray(carry["centre"], np.float64),
        sum(reference_losses.koleo(crop) for crop in features[:2]),
    )
    assert len(student) == 5
    loss_at = jax.jit(objective.loss)
    for progress, warm in ((0.0, 0.04), (0.25, 0.055), (0.8, 0.07)):
        loss, (moved, _) = loss_at(params, carry, views, key, jnp.asarray(progress))
        assert loss == pytest.approx(
            reference_losses.dino_loss(student, targets, centre, 0.1, warm) + 0.3 * apart, rel=1e-5
        ), progress
    np.testing.assert_allclose(
        moved["centre"], reference_losses.new_centre(centre, targets, 0.8), rtol=1e-5, atol=1e-6
    )


def test_swavs_assignments_are_balanced_over_a_full_queue_from_its_start_on():
    """Two batches fill it. Then it holds their embeddings of both views, of unit length, and newer
    ones replace the oldest.
    """
    config = config_of("swav")
    config.objective.update({"queue_start": 0.5, "sinkhorn_iterations": 3})
    experiment = make_experiment(config)
    objective, settings, empty = experiment.objective, (0.1, 0.05, 3), np.zeros((2, 0, 10))
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    loss_at = jax.jit(
        lambda carry, views, progress: objective.loss(
            params, carry, views, jax.random.key(1), progress
        )
    )

    @jax.jit
    def scored(carry, views):
        features, _ = objective.encode_crops(params, carry, views, jax.random.key(1))
        rows = features.swapaxes(0, 1).reshape(-1, features.shape[-1])
        embedded = objective.head("projector", params, carry, rows, Mode("batch"))[0]
        scores = objective.head("prototypes", params, carry, embedded, Mode("batch"))[0]

        def of_views(x):
            return x.reshape(8, 5, -1).swapaxes(0, 1)

        return (
            of_views(embedded),
            of_views(scores),
            objective.head("prototypes", params, carry, carry["queue"]["rows"], Mode("batch"))[0],
        )

    for step in range(3):
        views = views_of(experiment, seed=step)
        embedded, scores, queued = (np.asarray(x, np.float64) for x in scored(carry, views))
        before, after = (loss_at(carry, views, jnp.asarray(progress)) for progress in (0.3, 0.5))
        assert before[0] == pytest.approx(
            reference_losses.swav_loss(scores, empty, *settings), rel=1e-5
        ), step
        kept = queued.swapaxes(0, 1) if step == 2 else empty
        assert after[0] == pytest.approx(
            reference_losses.swav_loss(scores, kept, *settings), rel=1e-5
        ), step
        carry = after[1][0]
        newest = carry["queue"]["rows"][8 * step % 16 :][:8]
        np.testing.assert_allclose(
            newest, reference_losses.normalise(embedded[:2]).swapaxes(0, 1), atol=1e-5
        )
    assert (int(carry["queue"]["held"]), int(carry["queue"]["next"])) == (16, 8)
    assert abs(before[0] - after[0]) > 1e-3


def test_the_temperature_of_dinos_teacher_rises_in_the_warm_up_and_stays():
    config = config_of("dino")
    config.objective.update(
        {
            "warmup_teacher_temperature": 0.04,
            "teacher_temperature": 0.07,
            "teacher_temperature_warmup": 0.2,
        }
    )
    objective = make_experiment(config).objective
    found = [
        float(objective._teacher_temperature(jnp.asarray(progress)))
        for progress in (0.0, 0.1, 0.2, 0.6, 1.0)
    ]
    np.testing.assert_allclose(found, [0.04, 0.055, 0.07, 0.07, 0.07], atol=1e-6)


@pytest.mark.parametrize(
    ("key_norm", "by_groups"), [("ghost", True), ("global", False), ("ema", False)]
)
def test_the_statistics_of_mocos_keys_are_those_that_are_named(key_norm, by_groups):
    """Groups are drawn by the key of the step, so it changes the loss; "ema" takes running
    statistics that follow the queries', with the momentum of the weights, and that the keys do not
    move.
    """
    config = config_of("moco")
    config.objective.key_norm = key_norm
    experiment = make_experiment(config)
    views, objective = views_of(experiment), experiment.objective
    params, carry = jax.jit(objective.init)(jax.random.key(0))
    loss = jax.jit(objective.loss)
    (one, (moved, _)), (two, _) = (
        loss(params, carry, views, jax.random.key(seed), jnp.zeros(())) for seed in (1, 2)
    )
    assert np.isfinite(one) and (abs(one - two) > 1e-4) == by_groups
    followed = objective.ema_update(params, moved, jnp.zeros(()))["teacher"]["statistics"][
        "projector"
    ]
    before, queries = carry["teacher"]["statistics"]["projector"], moved["projector"]
    average = jax.tree.map(lambda kept, new: 0.999 * kept + 0.001 * new, before, queries)
    same = all(
        np.allclose(a, b, rtol=1e-6, atol=1e-9)
        for a, b in zip(jax.tree.leaves(followed), jax.tree.leaves(average), strict=True)
    )
    assert same == (key_norm == "ema")


@pytest.mark.parametrize("name", ["moco", "moco_v3", "byol", "data2vec", "dino"])
def test_methods_with_a_teacher_log_how_far_it_and_the_student_agree(name):
    _, _, ((_, (_, metrics)), _) = loss_of(experiment_of(name), views_of(experiment_of(name)))
    assert -1 <= metrics["teacher_agreement"] <= 1


def test_byols_agreement_is_the_mean_cosine_of_prediction_and_target_both_ways():
    experiment = experiment_of("byol")
    views = views_of(experiment)
    params, carry, ((_, (_, metrics)), _) = loss_of(experiment, views)
    _, predicted, targets, _ = jax.jit(experiment.objective.predict_pair)(
        params, carry, views, jax.random.key(1)
    )
    assert metrics["teacher_agreement"] == pytest.approx(
        float(agreement(predicted, targets[::-1])["teacher_agreement"]), rel=1e-4
    )


def test_dinos_agreement_is_of_prototypes_and_their_use_a_share_of_what_could_be():
    teacher = jnp.asarray([[[9.0, 0, 0, 0], [0, 9, 0, 0]], [[9, 0, 0, 0], [0, 0, 9, 0]]])
    student = jnp.asarray([[[0.0, 0, 0, 1], [0, 0, 0, 1]], [[1, 0, 0, 0], [0, 0, 1, 0]]])
    assert {
        name: float(value) for name, value in dino.prototype_agreement(student, teacher).items()
    } == {
        "teacher_agreement": 0.5,
        "prototypes_used": 0.75,
    }


@pytest.mark.parametrize(
    ("chosen", "number", "share"),
    [([0, 0, 0], 5, 1 / 3), ([0, 1, 4], 5, 1), ([1, 1, 0, 1], 2, 1), ([1, 1, 1, 1], 2, 0.5)],
)
def test_prototypes_that_are_used_count_once(chosen, number, share):
    assert float(fraction_used(jnp.asarray(chosen), number)) == pytest.approx(share)


def test_classes_that_are_assigned_count_over_both_views():
    p1, p2 = (
        jnp.asarray([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]]),
        jnp.asarray([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2]]),
    )
    found = {
        name: float(value) for name, value in semi_supervised.assignment_metrics(p1, p2).items()
    }
    assert found == {"view_agreement": 0.5, "classes_used": pytest.approx(2 / 3)}


def test_accuracy_counts_rows_whose_right_column_is_larger_than_all_others():
    """After a collapse all columns are equal, and none is right."""
    logits = jnp.asarray([[3.0, 1, 2], [1, 2, 3], [2, 2, 1], [0, 0, 0]])
    assert float(cross_entropy_and_top1(logits, jnp.zeros(4, jnp.int32))[1]) == 0.25
    assert float(cross_entropy_and_top1(logits, jnp.asarray([0, 2, 2, 1]))[1]) == 0.5


def test_mocos_accuracies_are_against_the_queue_and_in_the_batch():
    experiment = experiment_of("moco")
    views = views_of(experiment)
    params, carry, ((_, (moved, metrics)), _) = loss_of(experiment, views)
    keys = np.asarray(moved["queue"]["rows"][:8])

    @jax.jit
    def queries(params, carry):
        mode = Mode("batch", jax.nn.one_hot(jnp.arange(8) // 4, 2, axis=0))
        return experiment.objective.embed(
            params, carry, views["s2/global"][:, 0], views["s2/global/valid"][:, 0], mode
        )[1]

    cosines = reference_losses.normalise(np.asarray(queries(params, carry), np.float64))
    own, of_batch, of_queue = (
        (cosines * keys).sum(1),
        cosines @ keys.T,
        cosines @ np.asarray(carry["queue"]["rows"]).T,
    )
    assert metrics["queue_accuracy"] == pytest.approx(np.mean(own > of_queue.max(1)))
    assert metrics["batch_accuracy"] == pytest.approx(np.mean(of_batch.argmax(1) == np.arange(8)))


@pytest.mark.parametrize(
    "name",
    [
        name if name in (*QUICK, "decur") else pytest.param(name, marks=pytest.mark.slow)
        for name in OBJECTIVES
    ],
)
def test_in_bfloat16_weights_carry_loss_and_metrics_stay_float32(name):
    config = config_of(name)
    config.model.dtype = "bfloat16"
    experiment = make_experiment(config)
    shapes = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    loss, (carry, metrics) = jax.eval_shape(
        experiment.objective.loss, *shapes, views_of(experiment), jax.random.key(1), jnp.zeros(())
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((shapes, loss, carry, metrics))} <= {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }


def test_which_methods_compare_the_samples_of_a_batch():
    """Microbatches would change those, so accumulation is refused."""
    apart = {"mae", "data2vec", "byol", "simsiam", "supervised"}
    assert {name for name in OBJECTIVES if not experiment_of(name).objective.couples_batch} == apart


def test_a_dead_head_shows_in_the_embeddings_alone():
    features = jax.random.normal(jax.random.key(0), (8, 12))
    dead, alive = (
        collapse_metrics(features, jnp.ones((8, 5))),
        collapse_metrics(features, features[:, :5]),
    )
    assert dead["embedding_std"] == pytest.approx(0, abs=1e-6) and alive["embedding_std"] > 0.5
    assert dead["feature_std"] == alive["feature_std"] > 0.5 and dead["feature_rank"] > 3


def test_blocks_are_dropped_under_a_mask_too():
    config = config_of("mae")
    config.model.trunk.depth = 1
    traced = []
    for rate in (0.0, 0.9):
        config.model.trunk.drop_path = rate
        experiment = make_experiment(config)
        shapes = jax.eval_shape(experiment.objective.init, jax.random.key(0))
        traced.append(
            str(
                jax.make_jaxpr(experiment.objective.loss)(
                    *shapes, views_of(experiment), jax.random.key(1), jnp.zeros(())
                )
            )
        )
    assert traced[0].count("bernoulli") + traced[0].count("random_bits") < traced[1].count(
        "bernoulli"
    ) + traced[1].count("random_bits")


def test_groups_of_a_network_without_batch_norm_are_no_matter():
    config = config_of("moco")
    config.objective.update({"projector_norm": "none", "bn_group": 8})
    assert make_experiment(config).objective


def test_agreement_is_the_mean_cosine():
    student, teacher = jnp.array([[3.0, 0.0], [1.0, 1.0]]), jnp.array([[2.0, 0.0], [-1.0, 1.0]])
    assert float(agreement(student, teacher)["teacher_agreement"]) == pytest.approx(0.5)


def test_the_queue_forgets_its_oldest_keys_first_and_holds_unit_vectors():
    experiment = experiment_of("moco")
    views, (init, value_and_gradients) = views_of(experiment), compiled(experiment.objective)
    params, carry = init(jax.random.key(0))
    before = np.array(carry["queue"]["rows"])
    for turn in range(1, 6):
        (_, (carry, _)), _ = value_and_gradients(
            params, carry, views, jax.random.key(turn), jnp.zeros(())
        )
        if turn < 4:
            np.testing.assert_array_equal(carry["queue"]["rows"][8 * turn :], before[8 * turn :])
    assert int(carry["queue"]["next"]) == 8
    np.testing.assert_allclose(np.linalg.norm(carry["queue"]["rows"], axis=1), 1, atol=1e-5)


def test_ghost_groups_have_statistics_of_their_own():
    """Rows of one group do not see those of another; with one group they do."""
    experiment = experiment_of("moco", "resnet")
    views = views_of(experiment)
    view, valid = jnp.asarray(views["s2/global"][:, 0]), jnp.asarray(views["s2/global/valid"][:, 0])
    params, carry = compiled(experiment.objective)[0](jax.random.key(0))
    encoder = experiment.encoders["s2"]

    @functools.partial(jax.jit, static_argnums=1)
    def pooled(pixels, groups):
        members = jax.nn.one_hot(jnp.arange(8) * groups // 8, groups, axis=0)
        return encoder.forward(
            params["encoder"], carry["encoder"], pixels, valid, Mode("batch", members)
        )[0]["pooled"]

    other = jnp.concatenate([view[:4], 3 * view[4:]])
    np.testing.assert_allclose(pooled(view, 2)[:4], pooled(other, 2)[:4], atol=1e-5)
    assert np.abs(pooled(view, 1)[:4] - pooled(other, 1)[:4]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "backbone"), slow_but({(name, "vit") for name in OBJECTIVES} | {("moco", "resnet")})
)
def test_what_stands_at_invalid_places_changes_nothing(name, backbone):
    """NaN there gives the very loss, carry and gradient that 0 gives: `where` after a square or a
    quotient would stop the value, but not NaN times 0 in the gradient.
    """
    experiment = experiment_of(name, backbone)
    views = views_of(experiment)
    clean, unknown = {}, {}
    for crop_set in experiment.views:
        valid = views[f"{crop_set}/valid"].at[0, 0, :8, :4].set(False)  # also whole tokens
        clean |= {crop_set: jnp.where(valid, views[crop_set], 0), f"{crop_set}/valid": valid}
        unknown[crop_set] = jnp.where(valid, views[crop_set], jnp.nan)
    _, _, wanted = loss_of(experiment, views | clean)
    _, _, found = loss_of(experiment, views | clean | unknown)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.slow
def test_a_step_with_a_fill_value_among_the_pixels_changes_nothing_and_is_counted():
    """BatchNorm divides by the infinite variance, so that loss and gradient are finite."""
    experiment = experiment_of("barlow_twins", "resnet")
    optimizer = make_optimizer(
        experiment.optim, jax.eval_shape(experiment.objective.init, jax.random.key(0))[0], 10
    )
    step = jax.jit(
        make_train_step(
            experiment.objective, optimizer, lambda views, _: views, seed=0, steps=10, accum=1
        )
    )
    state = jax.jit(lambda: init_state(experiment.objective, optimizer, seed=0))()
    state, metrics = step(state, views_of(experiment))
    assert metrics["skipped"] == 0
    views = views_of(experiment, seed=1)
    views["s2/global"] = views["s2/global"].at[3, 0, 5, 6, 2].set(-1e22)
    views["s2/global/valid"] = views["s2/global/valid"].at[3, 0, 5, 6, 2].set(True)
    after, metrics = step(state, views)
    assert np.isfinite([metrics["loss"], metrics["grad_norm"]]).all() and metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, after, {**state, "step": after["step"]})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "dino",
            {"augment.crops.global.views": 1},
            r"crops\.global\.views: objective 'dino' needs 2 view\(s\) 'global' of source 's2', "
            r"there are 1",
        ),
        (
            "dino",
            {"augment.crops.global.views": 3},
            r"crops\.global\.views: objective 'dino' needs 2 view\(s\) 'global' of source 's2', "
            r"there are 3",
        ),
        (
            "mae",
            {"augment.crops.global.views": 2},
            r"crops\.global\.views: objective 'mae' needs 1 view\(s\) 'global' of source 's2', "
            r"there are 2",
        ),
        (
            "simclr",
            {"augment.crops.local": {"size": 8}},
            r"crops: gives s2/local, but objective 'simclr' takes only views global",
        ),
        (
            "dino",
            {"augment.crops.locals": {"size": 8}},
            r"crops: gives s2/locals, but objective 'dino' takes only views global, local",
        ),
        (
            "byol",
            {"augment.crops.global.dates": "each"},
            r"dates of 's2/global' are 'each', but one date is read; .*s2\.dates",
        ),
        (
            "barlow_twins",
            {"data.batch_size": 1},
            r"config\.data\.batch_size: 1 at once .*at least 2",
        ),
        ("decur", {"data.batch_size": 1}, r"config\.data\.batch_size: 1 at once .*at least 2"),
        (
            "byol",
            {"optim.accum": 8},
            r"config\.data\.batch_size: 1 at once \(batch_size / optim\.accum\).*at least 2",
        ),
        (
            "moco",
            {"objective.queue_size": 33},
            r"config\.objective\.queue_size: 33 is not a multiple of config\.data\.batch_size, 8",
        ),
        (
            "moco",
            {"objective.bn_group": 3},
            r"config\.objective\.bn_group: groups of 3 rows do not divide "
            r"config\.data\.batch_size, 8",
        ),
        (
            "moco",
            {"objective.bn_group": 0},
            r"config\.objective\.bn_group: groups of 0 rows .* at least 2 and fewer than all",
        ),
        (
            "moco",
            {"objective.bn_group": 1},
            r"config\.objective\.bn_group: groups of 1 rows .* at least 2 and fewer than all",
        ),
        (
            "moco",
            {"objective.bn_group": 8},
            r"config\.objective\.bn_group: groups of 8 rows .*key_norm='global' takes",
        ),
        (
            "moco",
            {"objective.key_norm": "shuffle"},
            r"config\.objective\.key_norm: 'shuffle'; expected one of ghost, global, ema",
        ),
        (
            "moco",
            {"objective.queue_size": 0},
            r"config\.objective\.queue_size: 0; expected more than 0",
        ),
        (
            "moco",
            {"objective.temperature": 0},
            r"config\.objective\.temperature: 0\.0; expected more than 0",
        ),
        (
            "moco_v3",
            {"objective.temperature": -0.1},
            r"config\.objective\.temperature: -0\.1; expected more than 0",
        ),
        (
            "byol",
            {"objective.momentum": 1.5},
            r"config\.objective\.momentum: 1\.5; expected a fraction",
        ),
        (
            "dino",
            {"objective.centre_momentum": 2},
            r"config\.objective\.centre_momentum: 2\.0; expected a fraction",
        ),
        (
            "dino",
            {"objective.prototypes": 0},
            r"config\.objective\.prototypes: 0; expected more than 0",
        ),
        (
            "swav",
            {"objective.queue_size": 12},
            r"config\.objective\.queue_size: 12 is not a multiple of config\.data\.batch_size, 8",
        ),
        (
            "swav",
            {"objective.queue_size": -8},
            r"config\.objective\.queue_size: -8; expected a number of embeddings, or 0",
        ),
        (
            "semi_supervised",
            {"objective.smoothing": 1.5},
            r"config\.objective\.smoothing: 1\.5; expected a fraction",
        ),
        (
            "swav",
            {"optim.accum": 2},
            r"config\.optim\.accum: objective 'swav' compares the samples",
        ),
        (
            "moco",
            {"optim.accum": 2},
            r"config\.optim\.accum: objective 'moco' compares the samples",
        ),
        (
            "supervised",
            {"data.sources.s2.label": ""},
            r"config\.data\.sources\.s2\.label: objective 'supervised' learns from labels",
        ),
        (
            "semi_supervised",
            {"data.sources.support.label": ""},
            r"config\.data\.sources\.support\.label: objective 'semi_supervised'",
        ),
        ("semi_supervised", {"objective.support": "labels"}, r"needs the labelled source 'labels'"),
        (
            "semi_supervised",
            {"data.sources.support.sensor": "sentinel1_grd"},
            r"stems\.support: sensor 'sentinel1_grd' cannot use the stem",
        ),
        (
            "decur",
            {"objective.common": 16},
            r"config\.objective\.common: 16; expected more than 0 and less than the embedding's 16",
        ),
        (
            "data2vec",
            {"objective.average_top_k_layers": 3},
            r"config\.objective\.average_top_k_layers: 3; expected 1 to 1, the blocks of the trunk",
        ),
        ("mae", {"model.trunk.depth": -1}, r"config\.model\.trunk\.depth"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_compiled(name, change, message):
    config = config_of(name)
    for key, value in change.items():
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section[part]
        with section.unlocked():
            section[last] = value
    with pytest.raises(ValueError, match=message):
        make_experiment(config)


def test_methods_of_tokens_refuse_a_resnet():
    for name in ("mae", "data2vec"):
        with pytest.raises(ValueError, match="needs a trunk of tokens"):
            experiment_of(name, "resnet")


def test_a_method_of_one_encoder_refuses_two():
    config = config_of("clip")
    config.objective = config_of("simclr").objective
    with pytest.raises(ValueError, match="simclr trains one encoder, found s2, s1"):
        make_experiment(config)


def test_a_mixture_feeds_sources_that_share_a_stem_in_turn():
    config = config_of("simclr")
    config.data.sources.other = config.data.sources.s2.copy_and_resolve_references()
    config.model.stems.other = "s2"
    experiment = make_experiment(complete(config))
    views = views_of(experiment)

    def of(source):
        return {key: value for key, value in views.items() if key.startswith(source)}

    params, carry = jax.jit(experiment.objective.init)(jax.random.key(0))
    loss = jax.jit(experiment.objective.loss)
    losses = [
        float(loss(params, carry, of(source), jax.random.key(1), jnp.zeros(()))[0])
        for source in ("s2", "other")
    ]
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    with pytest.raises(
        ValueError,
        match=r"a batch of (s2, other|other, s2); this objective takes one source at a time",
    ):
        loss(params, carry, views, jax.random.key(1), jnp.zeros(()))


POOLED = {
    "class token": ("vit", {}),
    "mean of tokens": ("vit", {"pool": "mean"}),
    "resnet": ("resnet", {}),
}


@pytest.mark.parametrize(("backbone", "more"), POOLED.values(), ids=POOLED)
def test_pooled_features_alone_are_those_computed_with_dense_ones(backbone, more):
    config = config_of("simclr", backbone)
    with config.unlocked():
        config.model.trunk.update(more)
    experiment = make_experiment(complete(config))
    encoder, views = experiment.encoders["s2"], views_of(experiment)
    view, valid = (views[name][:, 0] for name in ("s2/global", "s2/global/valid"))
    weights = jax.jit(encoder.network.init)(jax.random.key(0))
    alone, moved = jax.jit(lambda *weights: encoder.pooled(*weights, view, valid, Mode("batch")))(
        *weights
    )
    together, moved_by_all = jax.jit(
        lambda *weights: encoder.forward(*weights, view, valid, Mode("batch"))
    )(*weights)
    np.testing.assert_allclose(alone, together["pooled"], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, moved, moved_by_all)
    left_out = (
        10 * 16 * 192**2 + 2 * 16 * 17 * 192 if backbone == "vit" and not more else 0
    )  # the patch tokens of the last block
    assert multiply_adds(encoder, SIZE) - multiply_adds(encoder, SIZE, "pooled") == left_out


@pytest.mark.parametrize(("name", "products"), [("simclr", 3), ("byol", 4), ("supervised", 3)])
def test_flop_of_a_sample_are_those_of_loss_and_gradient(name, products):
    """Every product of the student three times, and once that of the teacher, where there is one;
    but the gradient of the view is not needed.
    """
    experiment = experiment_of(name)
    batch = {"s2": views_of(experiment)}
    of_two_rows = jax.tree.map(lambda x: x[:2], batch)
    found = sample_flops(experiment, lambda batch, key: batch["s2"], of_two_rows)
    encoder = experiment.encoders["s2"]
    part, views = ("forward", 1) if name == "supervised" else ("pooled", 2)
    stem = 16 * encoder.patch**2 * len(encoder.sensor.bands) * encoder.width
    expected = 2 * views * (products * multiply_adds(encoder, SIZE, part) - stem)
    assert found == pytest.approx(expected, rel=0.01)  # heads of the tiny objectives are small


def test_labels_of_every_labelled_objective_are_named():
    for name, source in LABELLED.items():
        assert experiment_of(name).objective.labelled == {source: CLASSES}


@pytest.fixture(scope="module")
def in_float64():
    """Trains on eight devices and on one; a process of its own, for all of JAX is float64 there."""
    with SeveralDevices(8) as process:
        yield functools.partial(process.run, "objectives")


# MoCo's queue and the statistics of its keys tie the rows of a batch together.
@pytest.mark.parametrize(("name", "backbone"), slow_but({("moco", "vit")}))
def test_eight_devices_train_as_one_does(in_float64, name, backbone):
    assert in_float64(f"{name}/{backbone}") < 1e-9


# Six heads and two of the decoder, which `model` can split.
THREE_AXES = ('model.trunk.size="small"', "sharding.fsdp=2", "sharding.model=2")


OVER_DATA = 'sharding.moments="over_data"'
ON_HOST = 'sharding.moments_memory="host"'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "moments"),
    [
        *((name, ()) for name in ("mae", "dino", "moco_v3")),
        *((name, (OVER_DATA,)) for name in ("mae", "dino", "moco_v3")),
        ("mae", (OVER_DATA, ON_HOST)),
        ("mae", ("optim.accum=2", OVER_DATA)),
    ],
)
def test_a_mesh_of_three_axes_trains_as_one_device_does(in_float64, name, moments):
    assert in_float64(f"{name}/vit", *THREE_AXES, *moments) < 1e-9


@pytest.mark.parametrize(("name", "backbone"), slow_but({(name, "vit") for name in QUICK}))
def test_resume_is_bit_exact(name, backbone, tmp_path):
    resumed, straight = hashes_after_resume(experiment_of(name, backbone), tmp_path)
    assert resumed == straight
