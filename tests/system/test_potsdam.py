"""The promise on real data: MAE trained on eight EnMAP tiles reconstructs two held-out ones better
than the mean of their visible pixels.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from eo_jax.monitor.writers import read_metrics
from eo_jax.train import train


@pytest.fixture(scope="module")
def store(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("potsdam") / "store"
    tiles = sample_data / "enmap" / "potsdam_l2a_tiles"
    assert (
        data_prep(
            [
                "convert",
                "enmap-tiles",
                "--input",
                str(tiles),
                "--output",
                str(path),
                "--val",
                "*_64_32",
                "--val",
                "*_96_96",
            ]
        )
        == 0
    )
    return path


@pytest.mark.slow
def test_held_out_tiles_are_reconstructed_better_than_by_their_mean(store: Path, tmp_path: Path):
    config = importlib.import_module("configs.mae_potsdam").get_config()
    config.data.sources.enmap.store = str(store)
    assert train(config.to_dict(), tmp_path) == 0
    last = read_metrics(tmp_path)[-1]
    assert last["eval/reconstruction/ratio_to_mean_visible"] <= 0.95
