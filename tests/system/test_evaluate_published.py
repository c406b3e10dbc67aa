"""Weights of a network of PyTorch, from the file to the table."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_store import write_tiny_store

from eo_jax import evaluate, import_torch
from eo_jax.data.store.reader import open_store
from eo_jax.evaluation import candidates
from eo_jax.sensors import ENMAP

SIDE, PATCH = 16, 4


@pytest.mark.slow
def test_imported_weights_are_judged_by_the_features_of_their_network(tmp_path, monkeypatch):
    """The names are timm's; floors and the same network untrained stand beside it."""
    torch = pytest.importorskip("torch")
    from torch_twin import VisionTransformer

    store = write_tiny_store(tmp_path / "store", size=SIDE)
    torch.manual_seed(0)
    network = VisionTransformer(len(ENMAP.bands), 192, 1, 3, PATCH, SIDE).eval()
    file, workdir = tmp_path / "vit.pth", tmp_path / "imported"
    torch.save({"state_dict": network.state_dict()}, file)
    arguments = [*tiny_run.arguments(store, workdir), f"--input={file}", "--allow-pth"]
    arguments += ["--config.model.stems.enmap.name=patch_embed"]
    arguments += [
        "--config.model.trunk.positions=learned",
        f"--config.model.trunk.grid={SIDE // PATCH}",
    ]
    monkeypatch.setattr(sys, "argv", ["import_torch", *arguments])
    assert import_torch.main() == 0

    out = tmp_path / "out"
    arguments = ["--weights", str(workdir), "--task", f"segmentation:landuse={store}"]
    arguments += ["--protocol", "dino:knn", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    assert evaluate.main() == 0
    with open(out / "table.csv", newline="") as table:
        rows = {row["candidate"]: row for row in csv.DictReader(table) if row["score"] == "miou"}
    assert rows.keys() == {"imagestats", "random convolutions", "untrained encoder", "imported"}

    opened = open_store(str(store))
    pixels = np.stack([opened[i].pixels for i in np.flatnonzero(opened.index["split"] == "val")])
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (ENMAP.mean, ENMAP.std))
    with torch.no_grad():
        tokens = network(torch.from_numpy(((pixels - mean) / std).astype(np.float32))).numpy()
    facts = {path: json.loads(path.read_text()) for path in out.glob("features/*/facts.json")}
    (found,) = (
        np.load(path.parent / "x.npy")
        for path, about in facts.items()
        if about["split"] == "val" and same_network(about["features"], workdir)
    )
    np.testing.assert_allclose(found.reshape(len(found), -1, 192), tokens[:, 1:], atol=2e-4)


def same_network(facts: dict, workdir: Path) -> bool:
    """Whether features are of the imported weights, not of a floor."""
    return facts.get("weights_sha256") == candidates.load(workdir).facts["weights_sha256"]
