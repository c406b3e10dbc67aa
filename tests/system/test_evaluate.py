"""`python -m eo_jax.evaluate` on small stores of every kind of task, far above chance."""

from __future__ import annotations

import csv
import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exported import IMAGE, SENSOR, tiny_encoder, write_export
from tiny_store import write_store

from eo_jax import evaluate
from eo_jax.evaluation.features import features_of, resized
from eo_jax.evaluation.floors import ImageStatistics
from eo_jax.evaluation.intervals import Estimate
from eo_jax.evaluation.protocol import find_protocol, protocol_names
from eo_jax.evaluation.protocols import pangaea
from eo_jax.evaluation.reading import Read, data_of
from eo_jax.evaluation.row import Row
from eo_jax.evaluation.table import Table
from eo_jax.evaluation.task import HEADLINES, find_task, task_names
from eo_jax.evaluation.upernet import UperNetHead
from eo_jax.evaluation.verdict import Verdict
from eo_jax.schema import Sample

BANDS = len(SENSOR.bands)
LEVELS = np.linspace(-1, 1, 4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_export(tmp_path_factory.mktemp("weights") / "enc.safetensors", tiny_encoder())


def spectrum(code: np.ndarray | int) -> np.ndarray:
    """[c, ...] of classes from 1: brighter, and steeper, the higher the class."""
    level = LEVELS[np.asarray(code) - 1]
    slope = np.linspace(-1, 1, BANDS).reshape(-1, *[1] * np.ndim(code))
    mean, std = (np.reshape(x, slope.shape) for x in (SENSOR.mean, SENSOR.std))
    return mean + std * (level + slope * level**2)


def sample(rng: np.random.Generator, i: int, codes: np.ndarray, **labels: np.ndarray) -> Sample:
    """A sample of a map of classes, with noise; the number decides its place."""
    pixels = spectrum(codes) + 100 * rng.normal(size=(BANDS, *codes.shape))
    return Sample(
        pixels=np.clip(pixels, 1, 10_000).astype(SENSOR.dtype),
        sensor=SENSOR.id,
        id=f"{i:05}",
        group=f"{i:05}",
        labels=labels,
    )


def of_kind(kind: str, rng: np.random.Generator, i: int) -> list[Sample]:
    """Samples of one place."""
    flat = np.full((IMAGE, IMAGE), rng.integers(1, 5))
    squares = np.kron(rng.integers(1, 4, (2, 2)), np.ones((8, 8), int))
    if kind == "classification":
        return [sample(rng, i, flat, target=flat[0, 0])]
    if kind == "regression":
        value = np.array([flat[0, 0], -2.0 * flat[0, 0]], np.float32)
        return [sample(rng, i, flat, target=value)]
    if kind == "multi_label":
        present = np.isin((1, 2, 3), squares).astype(np.uint8)
        return [sample(rng, i, squares, target=present)]
    if kind == "segmentation":
        label = squares.copy()
        label[0] = 0
        return [sample(rng, i, squares, target=label.astype(np.uint8))]
    after = np.where(np.kron(rng.random((2, 2)) < 0.5, np.ones((8, 8))) > 0, 4, squares)
    changed = (1 + (squares != after)).astype(np.uint8)
    dates = [sample(rng, i, codes, target=changed) for codes in (squares, after)]
    return [
        Sample(**{**vars_of(date), "id": f"{i:05}/{t}", "time": 1_600_000_000 + t})
        for t, date in enumerate(dates)
    ]


def vars_of(sample: Sample) -> dict:
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}


def store_of(path: Path, kind: str, places: int = 60) -> Path:
    rng, samples, splits = np.random.default_rng(0), [], []
    for i in range(places):
        found = of_kind(kind, rng, i)
        samples += found
        splits += [("train", "train", "val", "test")[i % 4]] * len(found)
    labels = {"target": {"dtype": "uint8", "shape": "map", "values": None}}
    about = {
        "sensors": {SENSOR.id: SENSOR.row()},
        "labels": labels,
        "splits": {name: splits.count(name) for name in ("train", "val", "test")},
    }
    return write_store(path, samples, splits, about)


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., list[str]]:
    """Runs the command; its lines."""

    def command(*arguments) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        assert evaluate.main() == 0
        return capsys.readouterr().out.splitlines()

    return command


def rows_of(folder: Path) -> list[dict]:
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("kind", "protocol", "least"),
    [
        ("classification", "dino:knn", 0.9),
        pytest.param("classification", "plain:linear", 0.9, marks=pytest.mark.slow),
        pytest.param("multi_label", "plain:linear", 0.85, marks=pytest.mark.slow),
        pytest.param("segmentation", "plain:linear", 0.8, marks=pytest.mark.slow),
        pytest.param("segmentation", "spectral_earth:conv", 0.8, marks=pytest.mark.slow),
        pytest.param("change", "plain:knn", 0.8, marks=pytest.mark.slow),
    ],
)
def test_a_task_that_brightness_solves_is_solved_from_frozen_features(
    weights, tmp_path, run, kind, protocol, least
):
    store = store_of(tmp_path / "store", kind)
    run(
        *("--weights", weights, "--task", f"{kind}:target={store}"),
        *("--protocol", protocol, "--output", tmp_path / "out"),
    )
    headline = HEADLINES[kind]
    rows = rows_of(tmp_path / "out")
    scores = {row["candidate"]: row for row in rows if row["score"] == headline}
    assert scores.keys() == {
        "imagestats",
        "random convolutions",
        "untrained encoder",
        "enc.safetensors",
    }
    assert float(scores["imagestats"]["value"]) >= least
    for row in scores.values():
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    page = (tmp_path / "out" / "table.html").read_text()
    assert "enc.safetensors" in page and headline in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "score", "least"),
    [
        ("classification", "accuracy", 0.9),
        ("multi_label", "micro_map", 0.8),
        ("segmentation", "miou", 0.6),
        ("regression", "r2", 0.8),
        ("change", "f1", 0.7),
    ],
)
def test_an_encoder_is_trained_further_and_from_scratch(weights, tmp_path, run, kind, score, least):
    store = store_of(tmp_path / "store", kind, 120)
    run(
        *("--weights", weights, "--task", f"{kind}:target={store}"),
        *("--protocol", "plain:fine_tune", "--output", tmp_path / "out"),
    )
    found = {row["candidate"]: row for row in rows_of(tmp_path / "out") if row["score"] == score}
    assert found.keys() == {"from scratch", "enc.safetensors"}
    assert max(float(row["value"]) for row in found.values()) > least


@pytest.mark.slow
def test_numbers_are_predicted_better_than_by_their_mean(weights, tmp_path, run):
    store = store_of(tmp_path / "store", "regression")
    run(
        *("--weights", weights, "--task", f"regression:target={store}"),
        *("--protocol", "plain:linear", "--output", tmp_path / "out"),
    )
    found = {row["candidate"]: row for row in rows_of(tmp_path / "out") if row["score"] == "r2"}
    assert float(found["imagestats"]["value"]) > 0.9


@pytest.mark.slow
def test_rows_that_exist_are_kept_and_others_added(weights, tmp_path, run):
    store = store_of(tmp_path / "store", "classification", 24)
    common = ("--weights", weights, "--task", f"classification:target={store}")
    common += ("--output", tmp_path / "out", "--no-floors")
    assert len(run(*common, "--protocol", "dino:knn")) == 2
    first = (tmp_path / "out" / "rows.json").read_bytes()
    assert len(run(*common, "--protocol", "dino:knn")) == 1  # only the page's path
    assert (tmp_path / "out" / "rows.json").read_bytes() == first
    lines = run(*common, "--protocol", "dino:knn", "plain:knn", "--fraction", "0.5", "1")
    assert len(lines) == 4
    fitted = {
        (row["protocol"], row["fraction"]): row["fitted"] for row in rows_of(tmp_path / "out")
    }
    assert fitted["dino:knn", "1.0"] == "12" and fitted["dino:knn", "0.5"] == "6"


class SmallUperNet(UperNetHead):
    channels = 16


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmentation", "change"])
def test_upernet_reads_maps_off_an_encoder(weights, tmp_path, monkeypatch, run, kind):
    """Fewer channels and epochs than the protocol's, which are for accelerators."""
    published = find_protocol("pangaea:upernet")
    small = dataclasses.replace(published, head=SmallUperNet, epochs=40, lr=1e-2)
    monkeypatch.setitem(pangaea.PROTOCOLS, "upernet", small)
    store = store_of(tmp_path / "store", kind)
    run(
        *("--weights", weights, "--task", f"{kind}:target={store}", "--no-floors"),
        *("--protocol", "pangaea:upernet", "--output", tmp_path / "out"),
    )
    (found,) = (row for row in rows_of(tmp_path / "out") if row["score"] == HEADLINES[kind])
    assert float(found["value"]) > 0.8


@pytest.mark.slow
def test_pooled_feature_and_normalisation_are_compared_in_one_table(weights, tmp_path, run):
    store = store_of(tmp_path / "store", "classification", 24)
    run(
        *("--weights", weights, "--task", f"classification:target={store}", "--protocol"),
        *("dino:knn", "--pooling", "cls", "both", "--normalisation", "contract", "data"),
        *("--output", tmp_path / "out", "--no-floors"),
    )
    assert {row["protocol"] for row in rows_of(tmp_path / "out")} == {
        f"dino:knn pooling={pooling} normalisation={normalisation}"
        for pooling in ("cls", "both")
        for normalisation in ("contract", "data")
    }
    page = (tmp_path / "out" / "table.html").read_text()
    assert "normalised by the training split, class token and mean of the tokens" in page


@pytest.mark.parametrize(
    ("headline", "encoder", "statistics", "marked"),
    [("accuracy", 0.4, 0.5, True), ("accuracy", 0.6, 0.5, False), ("rmse", 0.6, 0.5, True)],
)
def test_features_worse_than_those_of_the_image_are_marked(
    tmp_path, headline, encoder, statistics, marked
):
    """Floors are not, and neither is a row compared with one of another fraction."""
    table = Table(tmp_path)
    for title, value, fraction in (
        ("imagestats", statistics, 1.0),
        ("random convolutions", encoder, 1.0),
        ("enc", encoder, 1.0),
        ("other", encoder, 0.1),
    ):
        row = Row(Verdict({headline: Estimate(value, value, value)}, {}, {}), 10, 10)
        names = {"candidate": title, "task": "t", "protocol": "p", "title": "p: k"}
        names |= {"headline": headline, "fraction": fraction, "seed": 0, "classes": {}}
        names |= {"store": "s", "split": "archive", "content": "c"}
        table.add(names, names, row)
    table.write_page()
    rows = rows_of(tmp_path)
    assert [row["candidate"] for row in rows if row["below_imagestats"] == "1"] == ["enc"] * marked
    assert ("look at normalisation" in (tmp_path / "table.html").read_text()) == marked


def test_windows_are_resized_as_torch_does(tmp_path):
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    found = resized(Read(pixels, np.ones(pixels.shape, bool), np.zeros(2)), 24)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels), size=(24, 24), mode="bilinear", align_corners=False
    ).numpy()
    np.testing.assert_allclose(found.pixels, expected, atol=1e-5)
    assert found.valid.all()


def test_missing_values_do_not_leak_into_a_resized_window():
    pixels = np.full((1, 1, 8, 8), 5.0, np.float32)
    valid = np.ones(pixels.shape, bool)
    pixels[..., :4], valid[..., :4] = -9999, False
    found = resized(Read(pixels, valid, np.zeros(1)), 12)
    assert (found.pixels[found.valid] == 5).all() and found.valid.mean() == pytest.approx(0.5)


def test_features_are_computed_once(tmp_path):
    class Counting(ImageStatistics):
        calls = 0

        def pooled(self, pixels, valid):
            Counting.calls += 1
            return super().pooled(pixels, valid)

    store = store_of(tmp_path / "store", "classification", 12)
    task = evaluate.parse_task(f"classification:target={store}").task
    data = data_of(task, str(store), SENSOR)
    floor = Counting(np.asarray(SENSOR.mean), np.asarray(SENSOR.std), 8)
    first = features_of(floor, data, "train", 0, tmp_path / "features")
    again = features_of(floor, data, "train", 0, tmp_path / "features")
    np.testing.assert_array_equal(first.x, again.x)
    assert Counting.calls == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"--task": "eurosat"}, "'eurosat'; expected NAME=STORE or KIND:LABEL=STORE"),
        ({"--task": "eurosatt=x"}, "'eurosatt'; expected one of bigearthnet, "),
        ({"--task": "maps:target=x"}, "expected a kind of classification, "),
        ({"--protocol": "dino"}, "'dino'; expected one of dino:knn, "),
        ({"--fraction": "0"}, "expected above 0 and at most 1"),
        (
            {"--protocol": "pangaea:upernet"},
            "'pangaea:upernet' takes segmentation, change, and task 'classification:target'",
        ),
        ({"--task": "classification:other={store}"}, "no label 'other'; there is target"),
    ],
)
def test_a_mistake_is_named(weights, tmp_path, run, arguments, message):
    store = store_of(tmp_path / "store", "classification", 8)
    given = {
        "--weights": weights,
        "--task": f"classification:target={store}",
        "--protocol": "dino:knn",
        "--output": tmp_path / "out",
    } | {key: value.format(store=store) for key, value in arguments.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        run(*(part for pair in given.items() for part in pair))


def test_every_task_and_protocol_is_complete():
    for name in task_names():
        task = find_task(name)
        assert task.kind in HEADLINES and task.source and task.convert and task.title
    for name in protocol_names():
        assert find_protocol(name).title
