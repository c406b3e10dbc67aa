"""Protocols against the rules that they are named after, and the kinds of tasks that they take."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from eo_jax.evaluation.protocol import Labelled, find_protocol, protocol_names
from eo_jax.evaluation.sgd_linear import SgdLinear
from eo_jax.evaluation.task import HEADLINES, MAPS

CLASSES, WIDTH = 3, 8
_SECONDS = ("spectral_earth:linear", "spectral_earth:mlp", "torchgeo_bench:linear")
# R2 of means over many neighbours of few.
_LOW = {"dino:knn": 0.8, "pangaea:knn": 0.2}


def labelled(kind: str, count: int, seed: int) -> Labelled:
    """Features with a direction per class, label or number, and noise."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(CLASSES, WIDTH))
    if kind == "regression":
        y = rng.normal(size=(count, CLASSES))
        inside = y
    elif kind == "multi_label":
        y = (rng.random((count, CLASSES)) < 0.4).astype(float)
        inside = 2 * y - 1
    else:
        y = rng.integers(0, CLASSES, count)
        inside = np.eye(CLASSES)[y]
    x = 2 * inside @ directions + 0.3 * rng.normal(size=(count, WIDTH))
    return Labelled(x.astype(np.float32), y)


def score_of(kind: str, found: np.ndarray, y: np.ndarray) -> float:
    """The fraction of right classes or labels, or R2."""
    if kind == "regression":
        return 1 - np.square(found - y).mean() / y.var()
    if kind == "multi_label":
        return ((found > 0.5) == y).mean()
    return (found.argmax(1) == y).mean()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=pytest.mark.slow if name in _SECONDS else ())
        for name in protocol_names()
        if hasattr(find_protocol(name), "fit")
        for kind in find_protocol(name).kinds
    ],
)
def test_a_protocol_learns_every_kind_that_it_takes(name, kind):
    # A hundred epochs of three batches would be too short.
    count = 2000 if name == "spectral_earth:linear" else 300
    train, val, test = (labelled(kind, n, seed) for seed, n in enumerate((count, 60, 60)))
    predict = find_protocol(name).fit(kind, train, val, CLASSES, 0)
    found = predict(test.x)
    assert found.shape == (60, CLASSES)
    least = _LOW.get(name, 0.9) if kind == "regression" else 0.9
    assert score_of(kind, found, test.y) > least


def test_every_kind_has_protocols_and_no_map_goes_to_pooled_features_alone():
    for kind in HEADLINES:
        assert [name for name in protocol_names() if kind in find_protocol(name).kinds]
    for name in protocol_names():
        protocol = find_protocol(name)
        assert set(protocol.kinds) <= HEADLINES.keys()
        assert not hasattr(protocol, "fit_maps") or protocol.kinds == MAPS
        for value in (
            protocol.resize or "own size",
            protocol.normalisation.replace("data", "split"),
        ):
            assert str(value) in protocol.description


@pytest.mark.parametrize("name", ["dino:knn", "pangaea:knn"])
def test_votes_of_neighbours_are_those_of_scikit_learn(name):
    """Exactly as written in the papers: exp(cosine / T) of unit vectors."""
    protocol = find_protocol(name)
    train, _, test = (
        labelled("classification", count, seed) for seed, count in enumerate((400, 1, 50))
    )

    def unit(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)

    model = KNeighborsClassifier(
        protocol.k,
        algorithm="brute",
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / protocol.temperature),
    ).fit(unit(train.x), train.y)
    found = protocol.fit("classification", train, train, CLASSES, 0)(test.x)
    np.testing.assert_allclose(found, model.predict_proba(unit(test.x)), atol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_a_linear_layer_is_trained_by_sgd_as_in_pytorch(kind):
    """Weights, schedule and losses of SSL4EO-S12's scripts, on the same draws."""
    torch = pytest.importorskip("torch")
    protocol = SgdLinear(lrs=(0.01, 1.0), epochs=6, batch=16)
    train = labelled(kind, 70, 0)
    weights, biases = protocol.trained(kind, train, CLASSES, seed=3)
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    soft_margin, crossed = torch.nn.MultiLabelSoftMarginLoss(), torch.nn.CrossEntropyLoss()
    error = soft_margin if kind == "multi_label" else crossed
    for number, lr in enumerate(protocol.lrs):
        random = np.random.default_rng(3)
        layer = torch.nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            layer.weight[:] = torch.from_numpy(random.normal(0, 0.01, (WIDTH, CLASSES)).T)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9)
        for epoch in range(6):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / 6))
            order = random.permutation(70)
            for rows in order[:64].reshape(4, 16):
                optimizer.zero_grad()
                error(layer(x[rows]), y[rows]).backward()
                optimizer.step()
        np.testing.assert_allclose(weights[number].T, layer.weight.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(biases[number], layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_a_learning_rate_that_diverges_is_not_taken():
    train, val = labelled("classification", 64, 0), labelled("classification", 40, 1)
    protocol = SgdLinear(lrs=(0.1, 1e30), epochs=5, batch=16)
    predict = protocol.fit("classification", train, val, CLASSES, 0)
    assert score_of("classification", predict(val.x), val.y) > 0.9


@pytest.mark.parametrize(("field", "value"), [("pooling", "max"), ("normalisation", "none")])
def test_an_unknown_input_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}: '{value}'; expected one of contract, "):
        dataclasses.replace(find_protocol("dino:knn"), **{field: value})
