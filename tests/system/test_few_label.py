"""`python -m eo_jax.evaluate few-label` on a simulated scene, from its store to the page."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from tiny_store import write_store

from eo_jax import evaluate
from eo_jax.evaluation.few_label import methods, protocol
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

SENSOR = get_sensor("rosis_pavia_university")
SIDE, BANDS = 48, 103


def simulated(seed: int = 0) -> Sample:
    """Three classes in patches of 12 pixels, which brightness does not tell apart, and whose shapes
    differ by less than the noise of a pixel.
    """
    rng = np.random.default_rng(seed)
    classes = np.kron(rng.integers(1, 4, (4, 4)), np.ones((12, 12), int))
    wave = np.sin(np.linspace(0, 9, BANDS) + np.arange(3)[:, None])  # [3, c]
    bright = 2000 * np.exp(0.3 * rng.normal(size=(SIDE, SIDE)))
    pixels = bright * (1 + 0.05 * np.moveaxis(wave[classes - 1], -1, 0))
    pixels = pixels + 60 * rng.normal(size=(BANDS, SIDE, SIDE))
    label = np.where(rng.random(classes.shape) < 0.3, classes, 0).astype(np.uint8)
    return Sample(
        pixels=np.clip(pixels, 1, 60_000).astype(SENSOR.dtype),
        sensor=SENSOR.id,
        id="scene",
        group="scene",
        labels={"landcover": label},
    )


def store_of(path: Path, *samples: Sample) -> Path:
    about = {
        "sensors": {SENSOR.id: SENSOR.row()},
        "labels": {"landcover": {"dtype": "uint8", "shape": "map", "values": None}},
        "splits": {"train": len(samples)},
    }
    return write_store(path, samples, about=about)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return store_of(tmp_path_factory.mktemp("stores") / "made", simulated())


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["evaluate", "few-label", *map(str, arguments)])
    return evaluate.main()


@pytest.mark.slow
def test_one_command_pretrains_compares_and_draws(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(protocol, "DRAWS", 3)
    scene = simulated()
    cube = np.moveaxis(scene.pixels, 0, -1)
    savemat(tmp_path / "made.mat", {"cube": cube})
    savemat(tmp_path / "labels.mat", {"labels": scene.labels["landcover"]})
    store = tmp_path / "stores" / "made"
    command = ["convert", "hsi-scene", f"--input={tmp_path}", f"--output={store}"]
    command += ["--image=made.mat", "--ground-truth=labels.mat", f"--sensor={SENSOR.id}"]
    subprocess.run([sys.executable, "-m", "data_prep", *command], check=True)
    asked = ("--store", store, "--output", tmp_path, "--labels", 5, "--splits", "blocks")
    assert run(monkeypatch, *asked, "--pretrain", "--config.run.steps=150") == 0
    said = capfd.readouterr().out
    assert "made  blocks  5 labels: " in said and "best floor" in said
    with open(tmp_path / "few_label.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(methods.METHODS)
    mean = {
        method.name: np.mean([float(r["accuracy"]) for r in rows if r["method"] == method.name])
        for method in methods.METHODS
    }
    assert mean[methods.HEADLINE.name] > mean["spectrum, SVM"] + 0.04
    assert mean[methods.HEADLINE.name] > 0.95
    assert mean[methods.ASSIGNED.name] > mean["spectrum, SVM"] + 0.04
    page = (tmp_path / "few_label.html").read_text()
    assert page.count("data:image/png") == 7 and page.count("<svg") == 3
    assert all(method.name in page for method in methods.METHODS)
    # Again, with another number of labels: nothing is trained, and rows that exist stay.
    before = json.loads((tmp_path / "few_label.json").read_text())
    asked = ("--store", store, "--output", tmp_path, "--labels", 1, 5, "--splits", "blocks")
    assert run(monkeypatch, *asked, "--pretrain", "--config.run.steps=150") == 0
    said = capfd.readouterr().out
    assert "1 labels  spectrum, SVM" in said and "5 labels  spectrum, SVM" not in said
    after = json.loads((tmp_path / "few_label.json").read_text())
    assert len(after) == 2 * len(before) and all(after[key] == before[key] for key in before)


def test_what_cannot_be_compared_is_refused(store, tmp_path, monkeypatch):
    whole = ("--output", tmp_path, "--store")
    with pytest.raises(ValueError, match="no label 'soil'; there is landcover"):
        run(monkeypatch, *whole, store, "--label", "soil")
    tiles = [simulated(seed) for seed in (0, 1)]
    tiles[1] = Sample(**{**vars_of(tiles[1]), "id": "other", "group": "other"})
    several = store_of(tmp_path / "tiles", *tiles)
    with pytest.raises(ValueError, match="has 2 samples, expected one whole scene"):
        run(monkeypatch, *whole, several)
    with pytest.raises(ValueError, match="--weights: are of one scene"):
        run(monkeypatch, *whole, store, several, "--weights", "encoder.safetensors")
    few = vars_of(simulated())
    few["labels"] = {"landcover": np.where(few["labels"]["landcover"] == 1, 1, 0).astype(np.uint8)}
    with pytest.raises(ValueError, match="'landcover' has 1 classes with 10 labelled pixels"):
        run(monkeypatch, *whole, store_of(tmp_path / "few", Sample(**few)))


def vars_of(sample: Sample) -> dict:
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}
