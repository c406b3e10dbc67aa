"""Tests of `eo_jax.objectives.supervised`: every task through the whole loss, and labels that do
not fit its settings.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objectives import config_of, features_of, views_of

from eo_jax.experiment import make_experiment

ROWS = 8
LABEL = "s2/global/label"


def started(label: np.ndarray, **section) -> tuple:
    """(objective, params, carry, views with these labels [b, ...])."""
    config = config_of("supervised")
    config.objective.update(section)
    experiment = make_experiment(config)
    views = views_of(experiment) | {LABEL: jnp.asarray(label)[:, None]}
    return experiment.objective, *jax.jit(experiment.objective.init)(jax.random.key(0)), views


def loss_and_outputs(label: np.ndarray, **section) -> tuple[float, np.ndarray]:
    """The loss, and the classifier's outputs, computed separately from the features."""
    objective, params, carry, views = started(label, **section)
    loss, (_, metrics) = jax.jit(objective.loss)(
        params, carry, views, jax.random.key(1), jnp.zeros(())
    )
    assert set(metrics) == set(objective.metrics)
    weights = objective.encoders(params, carry)["s2"]
    found = features_of(
        objective, weights, views["s2/global"][:, 0], views["s2/global/valid"][:, 0]
    )
    features = np.asarray(
        found["dense" if section["task"] == "segmentation" else "pooled"], np.float64
    )
    linear = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["classifier"]["linear"])
    return float(loss), features @ linear["kernel"] + linear["bias"]


def cross_entropy(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean over labels above 0."""
    chosen = np.take_along_axis(logits, np.maximum(label - 1, 0)[..., None], -1)[..., 0]
    return float((np.log(np.exp(logits).sum(-1)) - chosen)[label > 0].mean())


def test_segmentation_compares_each_pixel_with_the_cell_it_lies_in():
    label = np.random.default_rng(0).integers(0, 4, (ROWS, 16, 16))
    loss, logits = loss_and_outputs(label, task="segmentation", outputs=3)
    assert logits.shape == (ROWS, 4, 4, 3)
    assert loss == pytest.approx(cross_entropy(logits.repeat(4, 1).repeat(4, 2), label), rel=1e-4)


def test_several_labels_of_a_sample():
    label = np.random.default_rng(0).integers(0, 2, (ROWS, 3)).astype(np.uint8)
    loss, logits = loss_and_outputs(label, task="multi_label", outputs=3)
    assert loss == pytest.approx(np.mean(np.log1p(np.exp(logits)) - logits * label), rel=1e-4)


@pytest.mark.parametrize("axes", [(ROWS, 1), (ROWS,)], ids=["a vector of one", "a scalar"])
def test_one_number_a_sample_may_be_a_scalar(axes):
    """Taken as [b] against outputs [b, 1], every sample would be compared with all labels of the
    batch.
    """
    label = np.random.default_rng(0).normal(size=ROWS).astype(np.float32)
    loss, predicted = loss_and_outputs(label.reshape(axes), task="regression", outputs=1)
    assert loss == pytest.approx(np.mean(np.square(predicted[:, 0] - label)), rel=1e-4)


@pytest.mark.parametrize(
    ("label", "section", "message"),
    [
        (
            np.zeros((ROWS, 5), np.uint8),
            {"task": "multi_label", "outputs": 3},
            r"multi_label with outputs=3 takes labels of \[3\].*'s2' have \[5\]",
        ),
        (
            np.zeros(ROWS, np.float32),
            {"task": "regression", "outputs": 2},
            r"regression with outputs=2 takes labels of \[2\].*'s2' have \[1\]",
        ),
        (
            np.zeros(ROWS, np.uint8),
            {"task": "segmentation", "outputs": 3},
            r"segmentation with outputs=3 takes labels of \[16, 16\].*'s2' have \[\]",
        ),
        (
            np.zeros((ROWS, 16, 16)),
            {"task": "regression", "outputs": 1},
            r"regression with outputs=1 takes labels of \[1\].*have \[16, 16\]",
        ),
    ],
)
def test_labels_of_another_shape_are_refused_while_the_step_is_traced(label, section, message):
    objective, params, carry, views = started(label, **section)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(objective.loss, params, carry, views, jax.random.key(1), jnp.zeros(()))


def test_segmentation_wants_cells_that_tile_the_view():
    """A ResNet has a feature for 32 pixels: of a view of 16 it makes one, that stands for more than
    there is.
    """
    config = config_of("supervised", "resnet")
    config.objective.update({"task": "segmentation", "outputs": 3})
    config.model.trunk.blocks = ()
    experiment = make_experiment(config)
    objective, views = (
        experiment.objective,
        views_of(experiment) | {LABEL: jnp.zeros((ROWS, 1, 16, 16), jnp.uint8)},
    )
    with pytest.raises(
        ValueError, match=r"crops\.global\.size: 16 is not a multiple of 32, the side in pixels"
    ):
        jax.eval_shape(
            objective.loss,
            *jax.eval_shape(objective.init, jax.random.key(0)),
            views,
            jax.random.key(1),
            jnp.zeros(()),
        )
