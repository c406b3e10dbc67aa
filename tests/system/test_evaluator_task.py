"""The evaluator of tasks within a run: the numbers of `eo_jax.evaluate`, and what it refuses."""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
import pytest
import tiny_run

from eo_jax import evaluate, sharding, train
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluation.reading import data_of
from eo_jax.evaluation.task import Task
from eo_jax.evaluators import task as evaluator_of_tasks
from eo_jax.evaluators.base import Context
from eo_jax.experiment import make_context, make_experiment, make_normalisation
from eo_jax.monitor.writers import read_metrics


@pytest.fixture
def context(tiny_store) -> Context:
    config = tiny_run.config_of(tiny_store)
    experiment = make_experiment(config)
    numbers = make_normalisation(experiment, Pipeline(experiment.data, 0))
    return make_context(experiment, numbers, sharding.make_mesh(sharding.Config()))


def evaluator(context: Context, **values) -> evaluator_of_tasks.Evaluator:
    config = evaluator_of_tasks.Config(**values)
    return evaluator_of_tasks.Evaluator(config, context)


def test_it_gives_the_numbers_of_the_command_for_the_weights_that_are_saved(
    tiny_store, tmp_path, monkeypatch
):
    workdir, results = tmp_path / "run", tmp_path / "results"
    asked = ("segmentation:landuse", str(tiny_store), "plain:knn")
    section = zip(("task", "store", "protocol"), asked, strict=True)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train",
            *tiny_run.arguments(tiny_store, workdir),
            *("--config.run.steps=5", "--config.model.dtype=float32", "--evals=task"),
            *("--config.data.crop=32", '--config.augment.crops["global"].size=32'),
            *(f"--config.evals.task.{name}={value}" for name, value in section),
        ],
    )
    assert train.main() == 0
    (line,) = (line for line in read_metrics(workdir) if "eval/task/score" in line)
    arguments = ["--weights", workdir, "--task", f"{asked[0]}={asked[1]}", "--no-floors"]
    arguments += ["--protocol", asked[2], "--output", results]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    assert evaluate.main() == 0
    (row,) = (r for r in evaluate.Table(results).rows.values())
    expected = [*row["scores"]["miou"], row["trivial"]]
    found = [line[f"eval/task/{name}"] for name in ("score", "low", "high", "trivial")]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_features_are_those_of_the_runs_own_evaluators(context, tiny_store):
    """Of every window, the last batch filled up, in the order of the store."""
    weights = context.untrained()
    task = Task("land use", "segmentation", "landuse", "", val="", test="val")
    data = data_of(task, str(tiny_store), context.sensor, crop=context.data.crop)
    data = dataclasses.replace(data, batch_size=context.data.batch_size)
    features = evaluator_of_tasks._RunFeatures(context, weights)
    windows = [read for read in data.read("val") if len(read.pixels) == data.batch_size]
    found = [features.dense(read.pixels, read.valid) for read in windows]
    expected = [
        context.features(weights, batch)["dense"]
        for batch in context.batches("val")
        if (batch[context.source]["position"] >= 0).all()
    ]
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"store": ""}, r"config\.evals\.task\.store: empty"),
        ({"fraction": 0.0}, r"config\.evals\.task\.fraction: 0\.0"),
        ({"task": "eurosta"}, r"config\.evals\.task: .*'eurosta'; expected one of .*eurosat"),
        (
            {"task": "segmentation:cover"},
            r"evals\.task: .*no label 'cover'; there is landuse",
        ),
        ({"protocol": "dino:nn"}, r"config\.evals\.task: .*'dino:nn'; expected one of"),
        ({"protocol": "spectral_earth:mlp"}, r"'spectral_earth:mlp' takes regression, and "),
        ({"protocol": "plain:fine_tune"}, r"'plain:fine_tune' needs the encoder itself"),
        ({"protocol": "pangaea:upernet"}, r"'pangaea:upernet' needs the encoder itself"),
        ({"protocol": "torchgeo_bench:knn"}, r"needs the encoder itself .*such as dino:knn"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_run(context, tiny_store, values, message):
    given = {"task": "segmentation:landuse", "store": str(tiny_store)} | values
    with pytest.raises(ValueError, match=message):
        evaluator(context, **given).check()


def test_a_stop_ends_it_between_two_batches(context, tiny_store):
    class Stop(Exception):
        pass

    def poll():
        raise Stop

    asked = {"task": "segmentation:landuse", "store": str(tiny_store), "protocol": "plain:knn"}
    stopped = dataclasses.replace(context, poll=poll)
    with pytest.raises(Stop):
        evaluator(stopped, **asked)(context.objective.init(jax.random.key(0)))


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "better"), (-0.1, "worse")])
def test_the_card_says_whether_images_helped(gain, verdict):
    scores = {"score": 0.5, "low": 0.4, "high": 0.6, "trivial": 0.5 - gain, "gain": gain}
    (card,) = evaluator_of_tasks.cards(scores)
    assert card.verdict == verdict and "0.4000 to 0.6000" in card.note
