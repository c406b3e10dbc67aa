"""Pooled features and normalisation as protocols set them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from exported import IMAGE, SENSOR, tiny_encoder, weights_of
from tiny_store import write_store

from eo_jax.evaluation import candidates
from eo_jax.evaluation.floors import ImageStatistics
from eo_jax.evaluation.pooled_encoder import pooled_by, pooled_width
from eo_jax.evaluation.protocol import find_protocol
from eo_jax.evaluation.reading import data_of, statistics_of
from eo_jax.evaluation.task import Task
from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import conv
from eo_jax.models.trunks import resnet
from eo_jax.schema import Sample
from eo_jax.trained_encoder import TrainedEncoder

BANDS = len(SENSOR.bands)
OWN = dataclasses.replace(SENSOR, id="sentinel2_own")


@pytest.fixture(scope="module")
def trained() -> TrainedEncoder:
    encoder = tiny_encoder()
    mean, std = (np.asarray(x, np.float32) for x in (SENSOR.mean, SENSOR.std))
    return TrainedEncoder("s2", encoder, *weights_of(encoder), mean, std, IMAGE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three windows, the last one for testing; band 3 is constant, and some pixels are missing."""
    random = np.random.default_rng(0)
    samples = []
    for i in range(3):
        pixels = random.integers(1, 3000 + 5000 * (i == 2), (BANDS, IMAGE, IMAGE))
        pixels[3], pixels[:, :2] = 70, OWN.nodata
        name, label = f"{i}", {"target": np.asarray(1)}
        samples.append(Sample(pixels.astype(OWN.dtype), OWN.id, name, group=name, labels=label))
    about = {
        "sensors": {OWN.id: OWN.row()},
        "labels": {"target": {"dtype": "uint8", "shape": "map", "values": None}},
    }
    path = tmp_path_factory.mktemp("inputs") / "store"
    write_store(path, samples, ["train", "train", "test"], about)
    task = Task("t", "classification", "target", "", val="")
    return data_of(task, str(path), OWN), np.stack([sample.pixels for sample in samples])


@pytest.mark.parametrize("pooling", ["cls", "mean", "both"])
def test_a_pooled_feature_is_class_token_or_mean_or_both(trained, pooling):
    encoder = pooled_by(trained.encoder, pooling)
    view = np.random.default_rng(0).normal(size=(2, IMAGE, IMAGE, BANDS)).astype(np.float32)
    valid = np.ones((2, IMAGE, IMAGE, 1), bool)

    @jax.jit
    def features(params, view, valid):
        own, other = (e.features(params, {}, view, valid) for e in (trained.encoder, encoder))
        return own, other

    own, other = features(trained.params, view, valid)
    mean = np.asarray(own["dense"]).mean((1, 2))
    parts = {"cls": [own["pooled"]], "mean": [mean]}  # a contract with the class token
    expected = np.concatenate(parts.get(pooling, parts["cls"] + parts["mean"]), axis=1)
    np.testing.assert_allclose(other["pooled"], expected, atol=1e-5)
    np.testing.assert_allclose(other["dense"], own["dense"], atol=1e-6)
    assert pooled_width(encoder) == expected.shape[1]
    changed = dataclasses.replace(trained, encoder=encoder)
    assert (changed.facts == trained.facts) == (pooling == "cls")


def test_an_encoder_without_a_class_token_keeps_its_feature():
    encoder = make_encoder(conv.Config(), resnet.Config(18), SENSOR, np.dtype("float32"))
    assert pooled_by(encoder, "both") is encoder and pooled_width(encoder) == encoder.width


def test_the_data_normalise_by_valid_values_of_their_training_split(trained, data):
    data, pixels = data
    known = pixels[:2, :, 2:].astype(float)
    mean, std = known.mean((0, 2, 3)), known.std((0, 2, 3))
    std[3] = 1
    found = statistics_of(data)
    np.testing.assert_allclose(found[0], mean, rtol=1e-6)
    np.testing.assert_allclose(found[1], std, rtol=1e-5)

    adapted = candidates.adapted(trained, data, find_protocol("torchgeo_bench:knn"))
    np.testing.assert_array_equal(adapted.mean, found[0])
    floor = candidates.floors(adapted, data, find_protocol("dino:knn"))["imagestats"]
    assert isinstance(floor, ImageStatistics)
    np.testing.assert_array_equal(floor.std, found[1])
    kept = candidates.adapted(trained, data, find_protocol("dino:knn"))
    np.testing.assert_array_equal(kept.mean, trained.mean)
