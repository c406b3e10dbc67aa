"""What the report shows of a supervised run: the answers of its classifier, for every label of a
split, put where they belong.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from eo_jax import sharding
from eo_jax.data import open_store
from eo_jax.data.pipeline import Pipeline
from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import SourceConfig
from eo_jax.evaluators import supervised
from eo_jax.evaluators.base import Context
from eo_jax.evaluators.supervised import Predicted
from eo_jax.experiment import make_context, make_experiment, make_normalisation
from eo_jax.report import predicted
from eo_jax.report.patches import Bands
from eo_jax.sensors import ENMAP

BANDS = Bands(ENMAP, np.ones(len(ENMAP.bands), bool))
CLASSES = 16


def context_of(store: Path, objective: dict) -> Context:
    """That of the smallest run with this objective on maps of land use."""
    config = tiny_run.config_of(store) | {"objective": objective, "evals": {}}
    config["data"]["sources"]["enmap"]["label"] = "landuse"
    experiment = make_experiment(config)
    numbers = make_normalisation(experiment, Pipeline(experiment.data, 0))
    return make_context(experiment, numbers, sharding.make_mesh(sharding.Config()))


def weights_of(context: Context):
    return jax.jit(context.objective.init)(jax.random.key(0))


def test_maps_and_matrix_of_a_segmentation_are_those_of_the_classifier(tiny_store):
    context = context_of(
        tiny_store, {"name": "supervised", "task": "segmentation", "outputs": CLASSES}
    )
    weights = weights_of(context)
    found = predicted.predict(context, weights, "", BANDS)
    store = open_store(tiny_store)
    assert (found.split, found.label) == ("val", "landuse")  # the store has no test split
    members = np.flatnonzero(store.index["split"] == "val")
    maps = {str(store.index["id"][i]): store.labels(i)["landuse"] for i in members.tolist()}
    assert found.counts.sum() == sum((label > 0).sum() for label in maps.values())
    titles = [example.title for example in found.examples]
    assert len(titles) == 4 and titles == sorted(set(titles)) and set(titles) <= maps.keys()
    for example in found.examples:
        np.testing.assert_array_equal(example.truth, maps[example.title][:16, :16])
        assert example.predicted.shape == example.truth.shape == example.image.shape[:2]
        assert example.predicted.min() >= 1
    evaluator = supervised.Evaluator(supervised.Config(), context)
    assert evaluator(weights)["accuracy"] == found.counts.trace() / found.counts.sum()


def test_an_objective_without_classes_has_no_predictions(tiny_store):
    context = context_of(tiny_store, {"name": "supervised", "task": "regression", "outputs": 2})
    assert predicted.predict(context, None, "", BANDS) is None


def test_a_split_that_is_not_there_is_said(tiny_store):
    context = context_of(
        tiny_store, {"name": "supervised", "task": "segmentation", "outputs": CLASSES}
    )
    with pytest.raises(ValueError, match=r"split 'tset' is empty; the store has train, val"):
        predicted.predict(context, None, "tset", BANDS)


def test_answers_for_single_pixels_are_put_back_into_their_scene(tiny_store):
    config = SourceConfig(str(tiny_store), "enmap", "val", "landuse", draw="pixel", cache="memory")
    source = open_source("enmap", config, 1, 0)
    truth = source.candidates("landuse").classes.astype(np.int64)
    answers = truth % CLASSES + 1  # always the next class
    halves = np.array_split(np.arange(len(truth)), 2)
    parts = [Predicted({}, half, answers[half], truth[half], CLASSES) for half in halves]
    counts, examples = predicted._scenes(source, "landuse", parts, BANDS)
    assert counts.trace() == 0 and counts.sum() == len(truth)
    labels = {sample.id: sample.labels["landuse"] for sample in open_store(tiny_store)}
    assert len({example.title for example in examples}) == 4
    for example in examples:
        label = labels[example.title].astype(np.int64)
        np.testing.assert_array_equal(example.truth, label)
        expected = np.where(label > 0, label % CLASSES + 1, 0)
        np.testing.assert_array_equal(example.predicted, expected)
