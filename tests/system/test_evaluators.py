"""The evaluators' arithmetic compared with plain loops, and the data that they leave out:
padding, no-data and unlabelled pixels.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from tiny_objectives import SIZE, compiled, config_of, experiment_of

from eo_jax import sharding
from eo_jax.augment import views
from eo_jax.config import complete, modules
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluation.tokens import token_majority
from eo_jax.evaluators import collapse, knn, labelled, linear_probe, reconstruction, supervised
from eo_jax.evaluators.base import Context
from eo_jax.evaluators.reconstruction import squared_errors
from eo_jax.experiment import (
    Experiment,
    make_context,
    make_evaluators,
    make_experiment,
    make_normalisation,
)
from eo_jax.monitor.metric import Card, Metric
from eo_jax.monitor.rankme import rankme

BANDS, PATCH = 3, 2
TO_UNITS = np.array([0.5, 1.0, 4.0])


def preview(
    seed: int = 0, batch: int = 3, rows: int = 3, columns: int = 4, hidden: int = 8
) -> dict[str, np.ndarray]:
    """A random preview of images of `rows` x `columns` tokens, `hidden` of them masked; a fifth of
    the values is invalid.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.permuted(np.tile(np.arange(rows * columns) < hidden, (batch, 1)), axis=1).reshape(
        batch, rows, columns
    )
    shape = (batch, rows * PATCH, columns * PATCH, BANDS)
    valid = rng.random(shape) > 0.2
    return {
        "view": np.where(valid, rng.normal(size=shape), 0).astype(np.float32),
        "valid": valid,
        "reconstruction": rng.normal(size=shape).astype(np.float32),
        "masked": tokens.repeat(PATCH, 1).repeat(PATCH, 2),
    }


# ------------------------------------------------------------------------------- scores and cards


@pytest.mark.parametrize("name", sorted(modules("evaluators")))
def test_every_evaluator_describes_its_scores_and_makes_cards_of_them(name):
    module = modules("evaluators")[name]
    assert all(isinstance(metric, Metric) and metric.title for metric in module.METRICS.values())
    cards = module.cards(dict.fromkeys(module.METRICS, 0.5))
    assert cards and all(isinstance(card, Card) for card in cards)


@pytest.mark.parametrize(
    ("evaluator", "label"),
    [(knn, "Nearest neighbours"), (linear_probe, "Linear probe"), (supervised, "Classifier")],
)
def test_a_classifier_that_was_not_scored_says_so(evaluator, label):
    (card,) = evaluator.cards({"test_classes": 1})
    assert (card.label, card.value) == (label, "not scored") and "hold out more" in card.note


def test_features_that_are_not_finite_have_no_card():
    assert collapse.cards({"rank_fraction": 0.5}) == []


# ----------------------------------------------------------------------------------------- collapse


def with_singular_values(values: list[float], samples: int = 40, width: int = 12) -> np.ndarray:
    """Features [m, d] with these singular values and no others."""
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(samples, len(values))))
    right, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, len(values))))
    return left * np.array(values) @ right.T


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ([3.0] * 5, 5.0),
        ([7.0], 1.0),
        ([3.0, 1.0], np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))),
    ],
)
def test_rankme_is_the_number_of_directions_that_are_used_alike(values, rank):
    features = with_singular_values(values)
    assert rankme(features) == pytest.approx(rank, rel=1e-3)
    assert rankme(1000 * features) == pytest.approx(rank, rel=1e-3)


def test_collapse_metrics_ignore_padding_and_tell_a_collapsed_encoder():
    features = np.concatenate([with_singular_values([3.0] * 5), np.full((8, 12), 1e3)])
    position = np.where(np.arange(48) < 40, np.arange(48), -1)
    run = SimpleNamespace(
        source="enmap",
        data=SimpleNamespace(batch_size=48),
        batches=lambda split, most: iter([{"enmap": {"position": position}}]),
        features=lambda weights, batch: {"pooled": features if weights else np.ones((48, 12))},
    )
    evaluate = collapse.Evaluator(collapse.Config(), run)
    healthy, collapsed = evaluate(True), evaluate(False)
    assert healthy.keys() == collapse.METRICS.keys()
    assert healthy["rankme"] == pytest.approx(5, rel=1e-3) and healthy[
        "rank_fraction"
    ] == pytest.approx(5 / 12, rel=1e-3)
    assert healthy["feature_std"] > 0.5
    assert collapsed["rankme"] == pytest.approx(1, rel=1e-3) and collapsed[
        "feature_std"
    ] == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------ sources


def context_of(experiment: Experiment, source: str) -> Context:
    """What evaluators see of a source, by the published statistics of its sensor."""
    sensors = {name: encoder.sensor for name, encoder in experiment.encoders.items()}
    numbers = {
        name: views.normalisation("published", sensor, None) for name, sensor in sensors.items()
    }
    return make_context(experiment, numbers, sharding.make_mesh(sharding.Config()), source)


def batch_of(experiment: Experiment, source: str) -> dict:
    shape = (8, 1, len(experiment.encoders[source].sensor.bands), SIZE, SIZE)
    pixels = np.random.default_rng(0).integers(1, 3000, shape)
    return {source: {"pixels": pixels.astype(experiment.encoders[source].sensor.dtype)}}


def test_each_source_is_evaluated_with_its_own_encoder():
    experiment = experiment_of("decur")
    params, carry = compiled(experiment.objective)[0](jax.random.key(0))
    params["encoders"]["s1"] = jax.tree.map(
        jnp.zeros_like, params["encoders"]["s1"]
    )  # one of the two is dead
    spread = {}
    for source in ("s2", "s1"):
        pooled = context_of(experiment, source).features(
            (params, carry), batch_of(experiment, source)
        )["pooled"]
        spread[source] = pooled.std(0).max()
    assert spread["s2"] > 0.01 and spread["s1"] == 0


def test_a_source_that_shares_a_stem_is_evaluated_with_the_encoder_it_shares():
    experiment = experiment_of("semi_supervised")
    weights = compiled(experiment.objective)[0](jax.random.key(0))
    pixels = batch_of(experiment, "s2")["s2"]
    first, shared = (
        context_of(experiment, source).features(weights, {source: pixels})["pooled"]
        for source in ("s2", "support")
    )
    np.testing.assert_array_equal(shared, first)


def test_an_evaluator_runs_on_the_first_source_or_on_each_that_is_named():
    config = config_of("decur")
    with config.unlocked():
        config.evals = {
            "collapse": {"sources": ("s2", "s1"), "every": 3},
            "knn": {"label": "class"},
        }
    config = complete(config)
    asked = []
    found = make_evaluators(
        config,
        lambda source: (
            asked.append(source) or SimpleNamespace(source=source, check=lambda *_: None)
        ),
    )
    assert {
        name: (every, evaluator.context.source) for name, (every, evaluator) in found.items()
    } == {
        "collapse/s2": (3, "s2"),
        "collapse/s1": (3, "s1"),
        "knn": (0, ""),
    }
    assert sorted(asked) == ["", "s1", "s2"]


def test_an_evaluator_of_a_source_that_is_not_there_is_an_error():
    config = config_of("decur")
    with config.unlocked():
        config.evals = {"collapse": {"sources": ("s2", "s11")}}
    with pytest.raises(
        ValueError,
        match=r"config\.evals\.collapse\.sources: 's11'; there are s1, s2\. Did you mean 's1'\?",
    ):
        complete(config)


# --------------------------------------------------------------------------- mistakes, before a run


def evaluators_of(store: Path, evals: dict, **values) -> dict:
    """Those of the smallest run on a store, whose label is "landuse" and whose splits are train and
    val.
    """
    config = tiny_run.config_of(store, **values) | {"evals": evals}
    experiment = make_experiment(config)
    numbers = make_normalisation(experiment, Pipeline(experiment.data, 0))
    return make_evaluators(
        config,
        functools.partial(make_context, experiment, numbers, sharding.make_mesh(sharding.Config())),
    )


@pytest.mark.parametrize(
    ("evals", "message"),
    [
        (
            {"linear_probe": {"label": "landcover"}},
            r"config\.evals\.linear_probe: .*no label 'landcover'; there is landuse",
        ),
        ({"knn": {"label": "landuse", "test_split": "test"}}, r"config\.evals\.knn: .*test"),
        ({"collapse": {"split": "validation"}}, r"config\.evals\.collapse: .*validation"),
        (
            {"knn": {"label": "landuse", "labels_per_class": 10_000}},
            r"config\.evals\.knn\.labels_per_class: 10000, but class \d has \d+ labels",
        ),
    ],
)
def test_a_split_or_label_that_is_not_there_is_an_error_before_a_run(tiny_store, evals, message):
    with pytest.raises(ValueError, match=message):
        evaluators_of(tiny_store, evals)


def test_labels_are_counted_as_they_will_be_drawn(tiny_store):
    """As many per class as the scarcest has can be drawn; one more is refused before the run."""
    evaluators = evaluators_of(tiny_store, {"knn": {"label": "landuse"}})
    context = evaluators["knn"][1].context
    _, classes = labelled.labelled_features(context, context.untrained(), "train", "landuse")
    scarcest = np.unique(classes, return_counts=True)[1].min()
    for wanted, fits in ((scarcest, True), (scarcest + 1, False)):
        evals = {"knn": {"label": "landuse", "labels_per_class": int(wanted)}}
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="has"):
            evaluators_of(tiny_store, evals)


def test_a_reconstruction_with_moments_of_what_is_hidden_is_not_judged(tiny_store):
    assert evaluators_of(tiny_store, {"reconstruction": {}})
    with pytest.raises(
        ValueError,
        match=r"config\.evals\.reconstruction: with norm_pix_loss .* set "
        r"config\.objective\.norm_pix_loss=False",
    ):
        evaluators_of(tiny_store, {"reconstruction": {}}, **{"objective.norm_pix_loss": True})


def test_an_objective_that_reconstructs_nothing_is_not_judged_by_it():
    run = SimpleNamespace(check=lambda *_: None, preview_names=set(), **vars(context({}, [])))
    with pytest.raises(
        ValueError,
        match=r"config\.evals\.reconstruction: the objective shows nothing, not a reconstruction; "
        r"use mae",
    ):
        reconstruction.Evaluator(reconstruction.Config(), run).check()


# ----------------------------------------------------------------------------------- reconstruction


def visible_mean(view: np.ndarray, valid: np.ndarray, masked: np.ndarray) -> list[float]:
    """Mean of each band over the visible valid pixels of one image; 0 where there is none."""
    means = []
    for band in range(view.shape[-1]):
        values = [
            view[y, x, band]
            for y, x in np.ndindex(masked.shape)
            if valid[y, x, band] and not masked[y, x]
        ]
        means.append(float(np.mean(values, dtype=np.float64)) if values else 0.0)
    return means


def nearest_token(masked: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """Row and column of the visible token nearest to one, the first in row order where
    several are.
    """
    tokens = masked[::PATCH, ::PATCH]
    visible = [(r, c) for r, c in np.ndindex(tokens.shape) if not tokens[r, c]]
    return min(visible, key=lambda token: ((token[0] - row) ** 2 + (token[1] - column) ** 2, token))


def errors_of_image(
    view: np.ndarray, valid: np.ndarray, masked: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, int]:
    sums, count, means = np.zeros(3), 0, visible_mean(view, valid, masked)
    for y, x, band in np.ndindex(view.shape):
        if not (masked[y, x] and valid[y, x, band]):
            continue
        row, column = nearest_token(masked, y // PATCH, x // PATCH)
        near = row * PATCH + y % PATCH, column * PATCH + x % PATCH, band
        guesses = np.array(
            [guess[y, x, band], means[band], view[near] if valid[near] else means[band]]
        )
        sums += ((guesses - view[y, x, band]) * TO_UNITS[band]) ** 2
        count += 1
    return sums, count


@pytest.mark.parametrize("hidden", [1, 8, 11])
def test_squared_errors_are_those_of_a_plain_loop(hidden: int):
    arrays = preview(hidden, hidden=hidden)
    images = [
        errors_of_image(
            *(arrays[name][i] for name in ("view", "valid", "masked", "reconstruction"))
        )
        for i in range(3)
    ]
    sums, count = squared_errors(arrays, PATCH, TO_UNITS)
    np.testing.assert_allclose(sums, sum(image for image, _ in images), rtol=1e-6)
    assert count == sum(values for _, values in images)


def test_validity_may_be_shared_by_the_bands():
    shared = {**preview(), "valid": preview()["valid"][..., :1]}
    spread = {**shared, "valid": np.repeat(shared["valid"], BANDS, -1)}
    np.testing.assert_array_equal(
        squared_errors(shared, PATCH, TO_UNITS)[0], squared_errors(spread, PATCH, TO_UNITS)[0]
    )
    assert squared_errors(shared, PATCH, TO_UNITS)[1] == squared_errors(spread, PATCH, TO_UNITS)[1]


def test_the_nearest_token_of_ties_is_the_first_in_row_order():
    """One row of five tokens that hold 1 2 3 4 5: tokens 2 and 4 are visible, 3 lies
    between them.
    """
    view = np.repeat(np.arange(1.0, 6.0, dtype=np.float32), PATCH)[None, None, :, None].repeat(
        PATCH, 1
    )
    masked = ~np.isin(view[..., 0], [2, 4])
    arrays = {
        "view": view,
        "valid": np.ones_like(view, bool),
        "masked": masked,
        "reconstruction": view + 10,
    }
    sums, count = squared_errors(arrays, PATCH, np.array([1.0]))
    assert count == 3 * PATCH * PATCH
    assert sums / PATCH**2 == pytest.approx(
        [3 * 10**2, (1 - 3) ** 2 + 0 + (5 - 3) ** 2, 1 + 1 + 1]
    )  # 1 from 2, 3 from 2, 5 from 4


def test_a_perfect_reconstruction_has_no_error():
    arrays = preview()
    arrays["reconstruction"] = np.where(
        arrays["valid"] & arrays["masked"][..., None], arrays["view"], np.nan
    )
    sums, _ = squared_errors(arrays, PATCH, TO_UNITS)
    assert sums[0] == 0 and (sums[1:] > 0).all()


def test_only_masked_valid_values_count():
    changed = preview()
    unseen = ~changed["valid"] | ~changed["masked"][..., None]
    changed["reconstruction"] = np.where(unseen, 1e6, changed["reconstruction"])
    changed["view"] = np.where(changed["valid"], changed["view"], -1e6)
    np.testing.assert_array_equal(
        squared_errors(changed, PATCH, TO_UNITS)[0], squared_errors(preview(), PATCH, TO_UNITS)[0]
    )


def context(
    previews: dict[int, dict[str, np.ndarray]], positions: list[list[int]]
) -> SimpleNamespace:
    """A run of one batch a list of positions, with the same preview arrays for mask n in each."""
    return SimpleNamespace(
        source="enmap",
        patch=PATCH,
        std=np.array([100.0, 200.0, 800.0]),
        sensor=SimpleNamespace(scales=np.array([0.01])),
        batches=lambda split: iter([{"enmap": {"position": np.array(rows)}} for rows in positions]),
        preview=lambda weights, batch, number: previews[number],
    )


def test_the_evaluator_gives_root_mean_squares_in_units_over_samples_and_masks():
    previews = {number: preview(number) for number in range(2)}
    found = reconstruction.Evaluator(
        reconstruction.Config(masks=2), context(previews, [[0, 1, 2], [3, 4, 5]])
    )(({}, {}))
    assert found.keys() == reconstruction.METRICS.keys()
    units = np.array([1.0, 2.0, 8.0])
    totals = [squared_errors(previews[number], PATCH, units) for number in range(2)]
    expected = np.sqrt(sum(sums for sums, _ in totals) / sum(count for _, count in totals))
    assert [
        found["rmse"],
        found["mean_visible_rmse"],
        found["nearest_token_rmse"],
    ] == pytest.approx(expected)
    assert found["ratio_to_mean_visible"] == pytest.approx(expected[0] / expected[1])
    assert found["ratio_to_nearest_token"] == pytest.approx(expected[0] / expected[2])


def test_the_evaluator_leaves_out_padding():
    whole, first = preview(), {name: array[:1] for name, array in preview().items()}
    config = reconstruction.Config(masks=1)
    padded = reconstruction.Evaluator(config, context({0: whole}, [[5, -1, -1]]))(({}, {}))
    assert padded == reconstruction.Evaluator(config, context({0: first}, [[5]]))(({}, {}))


# ------------------------------------------------------------------------------------- linear probe


def majority_of_token(pixels: list[int]) -> int:
    """The commonest class but 0; the smallest of several; 0 where there is none."""
    counts = collections.Counter(code for code in pixels if code != 0)
    return min(counts, key=lambda code: (-counts[code], code)) if counts else 0


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
@pytest.mark.parametrize("grid", [(2, 3), (4, 6), (8, 12), (1, 1)])
def test_token_majority_is_that_of_a_plain_loop(grid: tuple[int, int], dtype: str):
    codes = np.array([0, 0, 0, 3, 7, 204], dtype)
    label = np.random.default_rng(0).choice(codes, (3, 8, 12))
    label[1, :4, :4] = 0
    high, wide = 8 // grid[0], 12 // grid[1]
    found = token_majority(label, grid)
    assert found.shape == (3, *grid)
    for b, row, column in np.ndindex(found.shape):
        token = label[b, row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        assert found[b, row, column] == majority_of_token(token.ravel().tolist())


def test_classes_beyond_int32_survive():
    """EuroCrops has codes of ten digits."""
    label = np.array([[[3301090205, 3301090205], [0, 3301010600]]])
    assert token_majority(label, (1, 1)).tolist() == [[[3301090205]]]


def test_tokens_without_a_label_are_unlabelled():
    assert (
        token_majority(np.zeros((2, 4, 4), np.uint8), (2, 2)).tolist()
        == np.zeros((2, 2, 2)).tolist()
    )


def probed(
    label: np.ndarray, position: list[int], dense: np.ndarray, pooled: np.ndarray | None = None
) -> SimpleNamespace:
    """A run whose only batch has these features; weights are multiplied in, so that untrained ones
    (0) show nothing.
    """
    return SimpleNamespace(
        source="enmap",
        batches=lambda split, name: iter(
            [{"enmap": {"position": np.array(position), "label": label}}]
        ),
        features=lambda weights, batch: {
            "dense": weights * dense,
            "pooled": None if pooled is None else weights * pooled,
        },
        untrained=lambda: 0.0,
    )


def labels_and_features() -> tuple[np.ndarray, np.ndarray]:
    """A map [4, 8, 8] of classes 1 to 3 in tokens of 2 x 2 pixels, and features [4, 4, 4, 3] that
    tell them apart.
    """
    classes = np.random.default_rng(0).integers(1, 4, (4, 4, 4))
    return classes.repeat(2, 1).repeat(2, 2), np.eye(4)[classes][..., 1:]


def test_the_probe_finds_classes_that_the_features_show_and_the_untrained_encoder_does_not():
    label, dense = labels_and_features()
    found = linear_probe.Evaluator(linear_probe.Config(), probed(label, [0, 1, 2, 3], dense))(1.0)
    assert found.keys() == linear_probe.METRICS.keys()
    commonest = np.unique(label, return_counts=True)[1].max() / label.size
    perfect = {"accuracy": 1.0, "average_accuracy": 1.0, "kappa": 1.0}
    assert found == perfect | {
        "majority_accuracy": pytest.approx(commonest),
        "untrained_accuracy": pytest.approx(commonest),
        "gain": pytest.approx(1 - commonest),
        "test_classes": 3,
    }


def test_overall_and_average_accuracy_and_kappa_are_those_of_a_confusion_matrix_by_hand():
    truth, predicted = np.repeat([1, 2], [8, 2]), np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 1])
    found = labelled.scores(predicted, truth)
    chance = 0.8 * 0.7 + 0.2 * 0.3
    assert found == pytest.approx(
        {
            "accuracy": 0.7,
            "average_accuracy": (6 / 8 + 1 / 2) / 2,
            "kappa": (0.7 - chance) / (1 - chance),
            "majority_accuracy": 0.8,
        }
    )


@pytest.mark.parametrize(
    ("evaluator", "scores", "verdict", "words"),
    [
        (knn, {"accuracy": 0.8, "majority_accuracy": 0.7}, "better", "most common class"),
        (knn, {"accuracy": 0.7, "majority_accuracy": 0.7}, "worse", "most common class"),
        (knn, {"accuracy": 0.8}, "", ""),  # of a run that did not log it
        (supervised, {"accuracy": 0.1, "majority_accuracy": 0.7}, "worse", "not told apart yet"),
        (linear_probe, {"accuracy": 0.8, "gain": 0.1}, "better", "untrained encoder"),
        (linear_probe, {"accuracy": 0.8, "gain": 0.0}, "worse", "has not improved"),
        (
            linear_probe,
            {"accuracy": 0.8, "gain": 0.1, "majority_accuracy": 0.9},
            "worse",
            "most common class",
        ),
        (reconstruction, {"ratio_to_mean_visible": 1.2}, "worse", "has not learnt yet"),
        (
            reconstruction,
            {"ratio_to_mean_visible": 0.9, "ratio_to_nearest_token": 1.1},
            "worse",
            "worse than copying the nearest visible token",
        ),
        (
            reconstruction,
            {"ratio_to_mean_visible": 0.9, "ratio_to_nearest_token": 0.9},
            "better",
            "both baselines",
        ),
        (
            reconstruction,
            {"ratio_to_mean_visible": float("inf"), "ratio_to_nearest_token": 0.9},
            "worse",
            "has not learnt yet",
        ),
    ],
)
def test_cards_say_whether_a_run_beats_its_baseline(evaluator, scores, verdict, words):
    old = {name for name in evaluator.METRICS if name != "majority_accuracy"}
    card = evaluator.cards(dict.fromkeys(old, 0.5) | scores)[0]
    assert card.verdict == verdict and words in card.meaning


def classified(label: np.ndarray, position: list[int], logits: np.ndarray) -> SimpleNamespace:
    """The context of an objective that answers with these logits."""
    batch = {"enmap": {"position": np.array(position), "label": label}}
    return SimpleNamespace(
        source="enmap",
        data=SimpleNamespace(sources={"enmap": SimpleNamespace(label="landuse")}),
        check=lambda *_: None,
        preview_names={"logits"},
        batches=lambda split, name: iter([batch] if name == "landuse" else []),
        preview=lambda weights, batch, number: {"logits": logits},
    )


def test_the_scores_of_a_classifier_are_those_of_its_answers_without_padding_and_unlabelled():
    rng = np.random.default_rng(0)
    truth, logits = rng.integers(0, 5, 200), rng.normal(size=(200, 4))
    logits[np.arange(200), truth - 1] += 1.5
    position = np.where(np.arange(200) < 150, np.arange(200), -1)
    evaluate = supervised.Evaluator(supervised.Config(), classified(truth, position, logits))
    kept = (position >= 0) & (truth > 0)
    expected = labelled.scores(logits.argmax(1)[kept] + 1, truth[kept])
    found = evaluate(None)
    assert found.keys() == supervised.METRICS.keys()
    assert found == pytest.approx(expected | {"test_classes": 4})


def test_a_segmentation_is_scored_pixel_by_pixel_with_the_cell_that_contains_each():
    label = np.array([[[1, 1, 2, 2], [1, 0, 2, 1], [2, 2, 1, 1], [2, 2, 1, 1]]])
    logits = np.eye(2)[np.array([[[0, 1], [1, 0]]])]  # class of each quarter
    run = classified(label, [0], logits)
    (part,) = supervised.predictions(run, None, "val", "landuse")
    assert part.classes[0].tolist() == np.kron([[1, 2], [2, 1]], np.ones((2, 2))).tolist()
    assert supervised.counts_of(part).tolist() == [[7, 1], [0, 7]]
    found = supervised.Evaluator(supervised.Config(), run)(None)
    assert found["accuracy"] == pytest.approx(14 / 15)
    assert found["average_accuracy"] == pytest.approx((7 / 8 + 1) / 2)


def test_a_window_of_a_label_map_is_classified_by_its_centre():
    label = np.zeros((2, 3, 3), np.uint8)
    label[:, 1, 1] = 1, 2
    run = classified(label, [0, 1], np.eye(2))
    assert supervised.Evaluator(supervised.Config(), run)(None)["accuracy"] == 1.0


def test_an_objective_that_predicts_no_classes_is_refused_with_the_way_out(tiny_store):
    with pytest.raises(ValueError, match=r"config\.evals\.supervised: .* linear_probe"):
        evaluators_of(tiny_store, {"supervised": {"label": "landuse"}})


def test_unlabelled_tokens_and_padding_are_neither_fitted_nor_scored():
    """Their features contradict the rest: counted anywhere, they would cost accuracy."""
    label, dense = labels_and_features()
    label[0, :4], dense[0, :2] = 0, dense[1, :2]
    label[3], dense[3] = label[2] % 3 + 1, dense[2]  # padding with wrong labels
    found = linear_probe.Evaluator(linear_probe.Config(), probed(label, [0, 1, 2, -1], dense))(1.0)
    assert found["accuracy"] == 1.0
    x, y = labelled._pair(
        {"dense": dense, "pooled": None}, label, np.array([True, True, True, False])
    )
    assert len(x) == len(y) == 3 * 16 - 8 and 0 not in y


def test_a_label_of_the_whole_patch_is_probed_on_pooled_features():
    kinds = np.array([1, 2, 1, 2, 0, 1])
    pooled = np.stack([kinds == 1, kinds == 2], -1) * 1.0
    pooled[4:] = [[1.0, 0.0], [0.0, 1.0]]  # unlabelled, and padding that contradicts
    found = linear_probe.Evaluator(
        linear_probe.Config(), probed(kinds, [0, 1, 2, 3, 4, -1], np.zeros((6, 1, 1, 2)), pooled)
    )(1.0)
    assert found["accuracy"] == 1.0


def test_few_samples_are_spread_over_the_split():
    """Fitted on the first tokens alone, the second class would never be seen."""
    label, dense = np.ones((4, 4, 4), int), np.zeros((4, 4, 4, 2))
    label[2:] = 2
    dense[np.arange(4), ..., label[:, 0, 0] - 1] = 1
    found = linear_probe.Evaluator(
        linear_probe.Config(max_samples=4), probed(label, [0, 1, 2, 3], dense)
    )(1.0)
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("code", [0, 2])
def test_a_test_split_of_one_class_is_not_scored(code: int):
    run = probed(np.full((1, 4, 4), code), [0], np.zeros((1, 2, 2, 3)))
    assert linear_probe.Evaluator(linear_probe.Config(), run)(1.0) == {"test_classes": code // 2}


@pytest.mark.parametrize("code", [0, 2])
def test_one_class_to_fit_is_an_error_that_names_label_and_split(code: int):
    label, dense = labels_and_features()
    run = probed(label, [0, 1, 2, 3], dense)
    splits = {"train": np.full_like(label, code), "val": label}
    run.batches = lambda split, name: iter(
        [{"enmap": {"position": np.arange(4), "label": splits[split]}}]
    )
    with pytest.raises(ValueError, match="'landuse' has fewer than two classes in split 'train'"):
        linear_probe.Evaluator(linear_probe.Config(), run)(1.0)
