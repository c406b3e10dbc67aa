"""Metrics, intervals and neighbours of evaluations against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from eo_jax.evaluation import metrics, trivial
from eo_jax.evaluation.classifiers import Linear, Neighbours
from eo_jax.evaluation.intervals import estimates
from eo_jax.evaluation.neighbours import nearest
from eo_jax.evaluation.protocol import Labelled
from eo_jax.evaluation.task import Task

CLASSES = 5


def weights_of(units: int, seed: int = 0) -> np.ndarray:
    """How often each unit was drawn; some never."""
    draw = np.random.default_rng(seed).integers(0, units, units)
    return np.bincount(draw, minlength=units).astype(float)


def test_scores_of_classes_are_those_of_scikit_learn():
    """Class 4 is never true, class 3 never predicted."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    guess = np.where(rng.random(300) < 0.6, truth, rng.integers(0, CLASSES, 300))
    guess[guess == 3] = 4
    weights = weights_of(300)
    table = metrics.confusion(truth, guess, CLASSES, weights)
    np.testing.assert_allclose(
        table, sk.confusion_matrix(truth, guess, labels=range(CLASSES), sample_weight=weights)
    )
    found = metrics.of_confusion(table)
    weighted = {"sample_weight": weights}
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess, **weighted))
    assert found["accuracy"] == pytest.approx(
        sk.f1_score(truth, guess, average="micro", **weighted)
    )
    recalls = sk.recall_score(truth, guess, average=None, zero_division=0, **weighted)
    assert found["average_accuracy"] == pytest.approx(recalls[:4].mean())
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, guess, **weighted))
    assert found["macro_f1"] == pytest.approx(
        sk.f1_score(truth, guess, average="macro", zero_division=0, **weighted)
    )
    assert found["miou"] == pytest.approx(
        sk.jaccard_score(truth, guess, average="macro", zero_division=0, **weighted)
    )
    by_class = metrics.per_class(table)
    for name, score in (
        ("class_iou", sk.jaccard_score),
        ("class_f1", sk.f1_score),
        ("class_recall", sk.recall_score),
        ("class_precision", sk.precision_score),
    ):
        expected = score(truth, guess, average=None, zero_division=0, **weighted)
        np.testing.assert_allclose(np.nan_to_num(by_class[name]), expected)
    assert np.isnan(by_class["class_recall"][4]) and np.isnan(by_class["class_precision"][3])


def test_a_class_that_never_occurs_counts_nowhere():
    table = np.diag([3, 2, 0]).astype(float)
    assert metrics.of_confusion(table)["miou"] == 1 and np.isnan(metrics.iou(table)[2])


def test_scores_of_changes_are_of_the_changed_class():
    truth, guess = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 1])
    found = metrics.of_change(metrics.confusion(truth, guess, 2))
    assert found == pytest.approx(
        {
            "f1": sk.f1_score(truth, guess),
            "precision": sk.precision_score(truth, guess),
            "recall": sk.recall_score(truth, guess),
        }
    )


def test_scores_of_several_labels_are_those_of_scikit_learn():
    """With ties among the scores; label 4 has no positive."""
    rng = np.random.default_rng(1)
    truth = rng.random((200, CLASSES)) < 0.3
    truth[:, 4] = False
    scores = np.round(np.clip(0.4 * truth + rng.random((200, CLASSES)) * 0.7, 0, 1), 2)
    weights = weights_of(200)
    found = metrics.multi_label(scores, truth, weights)
    weighted = {"sample_weight": weights}
    assert found["micro_map"] == pytest.approx(
        sk.average_precision_score(truth, scores, average="micro", **weighted)
    )
    assert found["macro_map"] == pytest.approx(
        sk.average_precision_score(truth[:, :4], scores[:, :4], average="macro", **weighted)
    )
    guess = scores >= 0.5
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(
            sk.f1_score(truth, guess, average=average, zero_division=0, **weighted)
        )


def test_scores_of_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(100, 3)) * (1, 10, 100)
    guess, weights = truth + rng.normal(size=(100, 3)) * (0.5, 9, 20), weights_of(100)
    found = metrics.regression(guess, truth, weights, np.array([0.1, 1.0, 2.0]))
    weighted = {"sample_weight": weights}
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guess, **weighted))
    assert found["r2"] == pytest.approx(sk.r2_score(truth, guess, **weighted))
    baseline = np.broadcast_to([0.1, 1.0, 2.0], truth.shape)
    per_target = {"multioutput": "raw_values", **weighted}
    assert found["normalised_mse"] == pytest.approx(
        np.mean(
            sk.mean_squared_error(truth, guess, **per_target)
            / sk.mean_squared_error(truth, baseline, **per_target)
        )
    )


def test_calibration_error_is_that_of_a_plain_loop():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(4, 0.4), 400)
    truth = rng.integers(0, 4, 400)
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    expected = 0.0
    for k in range(15):
        inside = (sure >= k / 15) & ((sure < (k + 1) / 15) | (k == 14))
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    found = metrics.calibration_error(probabilities, truth, np.ones(400))
    assert found == pytest.approx(expected)


def test_an_interval_is_that_of_resampled_predictions():
    values = np.random.default_rng(4).normal(size=50)
    found = estimates(lambda weights: {"mean": np.average(values, weights=weights)}, 50, seed=7)
    draws = np.random.default_rng(7).integers(0, 50, (200, 50))
    expected = np.percentile(values[draws].mean(1), (2.5, 97.5))
    assert found["mean"].value == pytest.approx(values.mean())
    np.testing.assert_allclose((found["mean"].low, found["mean"].high), expected)


def test_an_undefined_resample_is_left_out():
    found = estimates(lambda weights: {"share": 1.0 if weights[0] else np.nan}, 3)
    assert tuple(found["share"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["plain", "far from 0", "near duplicates", "equal"])
def test_neighbours_are_exact(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 32)).astype(np.float32)
    queries = rng.normal(size=(50, 32)).astype(np.float32)
    if kind == "far from 0":
        x, queries = 1e-3 * x + 100, 1e-3 * queries + 100
    if kind == "near duplicates":
        x = x[:1] + 1e-6 * x
        queries = x[::9]
    if kind == "equal":
        x[100:200] = x[0]
        queries[0] = x[0]
    squared = np.square(x[None].astype(np.float64) - queries[:, None]).sum(-1)
    expected = np.argsort(squared, axis=1, kind="stable")[:, :7]
    distance, index = nearest(x, queries, 7)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(
        distance, np.sqrt(np.take_along_axis(squared, expected, 1)), rtol=1e-9, atol=1e-300
    )


def blobs(count: int, seed: int) -> Labelled:
    """Features of three classes that overlap."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    centres = np.random.default_rng(9).normal(size=(3, 8))
    return Labelled((centres[y] + rng.normal(size=(count, 8))).astype(np.float32), y)


def test_more_copies_of_a_feature_than_candidates_are_told_apart_by_their_row():
    """And a feature closer to the copies than float32 products can tell is found among them."""
    x = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32) + 100
    x[500:1500] = x[500]
    x[1400] = np.nextafter(x[500], np.float32(0))
    distances, rows = nearest(x, x[[500, 1400]], 3)
    assert rows.tolist() == [[500, 501, 502], [1400, 500, 501]]
    assert (distances[0] == 0).all() and 0 < distances[1, 1] == distances[1, 2] < 1e-4


def test_nearest_neighbours_vote_as_in_scikit_learn():
    train, test = blobs(200, 0), blobs(100, 1)
    predict = Neighbours(k=5, cosine=False).fit("classification", train, train, 3, 0)
    expected = KNeighborsClassifier(5, algorithm="brute").fit(*train).predict_proba(test.x)
    np.testing.assert_allclose(predict(test.x), expected, atol=1e-12)


def test_votes_by_cosine_weigh_as_dino_says():
    train, test = blobs(60, 0), blobs(20, 1)
    predict = Neighbours(k=20, cosine=True, temperature=0.07).fit("pixel", train, train, 3, 0)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    for row, cosines in zip(predict(test.x), unit(test.x) @ unit(train.x).T, strict=True):
        near = np.argsort(-cosines)[:20]
        votes = np.array([np.exp(cosines[near] / 0.07)[train.y[near] == k].sum() for k in range(3)])
        np.testing.assert_allclose(row, votes / votes.sum(), rtol=1e-4)


def test_the_linear_protocol_chooses_by_validation_and_fits_again_on_both():
    train, val, test = blobs(80, 0), blobs(60, 2), blobs(50, 1)
    grid = (1e-4, 1e-2, 1.0, 100.0)
    predict = Linear(grid).fit("classification", train, val, 3, 0)
    scores = [
        LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(*train).score(*val) for c in grid
    ]
    chosen = grid[int(np.argmax(scores))]  # the smallest of equal ones
    both = train.with_rows_of(val)
    expected = LogisticRegression(C=chosen, max_iter=5000, tol=1e-6).fit(*both)
    np.testing.assert_allclose(predict(test.x), expected.predict_proba(test.x), atol=2e-3)


def test_a_label_that_never_varies_is_predicted_by_its_rate():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.random((40, 2)) < 0.5
    y[:, 1] = True
    data = Labelled(x, y.astype(float))
    found = Linear((1.0,)).fit("multi_label", data, data, 2, 0)(x)
    assert found.shape == (40, 2) and (found[:, 1] == 1).all()


@pytest.mark.parametrize(
    ("kind", "train", "test", "expected"),
    [
        ("classification", [1, 1, 3], [1, 3, 3, 0], 1 / 3),
        ("segmentation", [[[3, 3, 1]]], [[[3, 1, 1, 0]]], (0 + 1 / 3) / 2),
        ("change", [[[1, 1, 2]]], [[[1, 1, 2]]], 0.5),
        ("regression", [[1.0], [3.0]], [[1.0], [2.0]], np.sqrt(0.5)),
        ("multi_label", [[1, 0], [1, 0]], [[1, 0], [0, 1]], 0.5),
    ],
)
def test_a_prediction_without_an_image_has_a_score(kind, train, test, expected):
    classes = {"classification": (1, 3), "segmentation": (1, 3), "change": (1, 2)}.get(kind, (0,))
    task = Task("t", kind, "l", "x")
    found = trivial.score(task, np.array(train), np.array(test), classes)
    assert found == pytest.approx(expected)
