"""`launch.demo`: its commands, their order and arguments, for a simulated archive and for a user's
tiles; and the results it prints.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import golden_text
import numpy as np
import pytest
from tiny_store import write_store

from eo_jax.data import open_store
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP
from launch import demo

SCORES = {
    "rmse": 0.02,
    "mean_visible_rmse": 0.05,
    "nearest_token_rmse": 0.04,
    "ratio_to_mean_visible": 0.4,
    "ratio_to_nearest_token": 0.5,
}
METRICS = [
    {"step": 1, "loss": 1.0},
    {"step": 2, "loss": 0.25},
    {"step": 2, **{f"eval/reconstruction/{name}": score for name, score in SCORES.items()}},
]


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records commands instead of running them, in an empty folder; training leaves its metrics."""
    recorded: list[list[str]] = []

    def run(command: list[str], **_) -> subprocess.CompletedProcess:
        recorded.append(command)
        if command[2] == "eo_jax.train":
            workdir = Path(
                next(
                    argument for argument in command if argument.startswith("--workdir=")
                ).removeprefix("--workdir=")
            )
            workdir.mkdir(parents=True)
            (workdir / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in METRICS)
            )
        return subprocess.CompletedProcess(command, failing.get(command[2], 0))

    failing: dict[str, int] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    return recorded, failing


def start(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    return demo.main()


def modules(recorded: list[list[str]]) -> list[str]:
    return [
        " ".join(part for part in command[2:4] if not part.startswith("-")) for command in recorded
    ]


def test_the_simulated_demo_runs_every_step_in_order_and_shows_each(commands, monkeypatch, capsys):
    recorded, _ = commands
    assert start(monkeypatch) == 0
    assert modules(recorded) == [
        "data_prep simulate",
        "data_prep convert",
        "eo_jax.train",
        "eo_jax.export",
        "eo_jax.report",
    ]
    assert all(command[:2] == [sys.executable, "-m"] for command in recorded)
    shown = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert shown == [" ".join(["python", *command[1:]]) for command in recorded]
    archive, store = (
        recorded[1][recorded[1].index(option) + 1] for option in ("--input", "--output")
    )
    assert recorded[0][recorded[0].index("--output") + 1] == archive
    assert golden_text.load("mae_demo")["get_config"]().data.sources.enmap.store == store


def test_the_results_name_the_scores_the_weights_and_the_report(commands, monkeypatch, capsys):
    start(monkeypatch)
    summary = capsys.readouterr().out.split("Results\n")[1].splitlines()
    table = {line[2:33].strip(): line[33:].split("  ")[0].strip() for line in summary}
    assert table == {
        "Loss": "1.0000 to 0.2500",
        "Reconstruction RMSE": "0.0200",
        "Mean of the visible pixels": "0.0500",
        "Nearest visible token copied": "0.0400",
        "Weights for PyTorch": "runs/demo/encoder.safetensors",
        "Report": "runs/demo/report.html",
    }


@pytest.mark.parametrize("module", ["data_prep", "eo_jax.train", "eo_jax.export"])
def test_a_command_that_fails_ends_the_demo_with_its_code(commands, monkeypatch, module):
    recorded, failing = commands
    failing[module] = 3
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch)
    assert stopped.value.code == 3
    assert recorded[-1][2] == module


def write_tiles(path: Path, sizes: list[int], labels: list[str]) -> None:
    """The store of a user's tiles of these sizes."""

    def sample(i, size):
        return Sample(
            pixels=np.ones((202, size, size), np.int16),
            sensor=ENMAP.id,
            id=f"tile{i}",
            group=f"tile{i}",
            labels={},
        )

    write_store(
        path,
        [sample(i, size) for i, size in enumerate(sizes)],
        about={"labels": {name: {"dtype": "uint8", "shape": "map"} for name in labels}},
    )


@pytest.mark.parametrize(
    ("sizes", "labels", "variant", "crop"),
    [
        ([128, 70], [], "tiles", 32),
        ([128, 31], [], "tiles", 28),  # the most tokens of 4 pixels that fit the smallest tile
        ([32, 32], ["landcover"], "tiles,probe", 32),
        ([32, 32], ["landuse"], "tiles", 32),
    ],
)
def test_a_users_tiles_set_variant_and_crop(
    commands, monkeypatch, tmp_path, sizes, labels, variant, crop
):
    recorded, _ = commands
    write_tiles(tmp_path / "stores" / "demo_my tiles", sizes, labels)
    assert start(monkeypatch, "--data", str(tmp_path / "my tiles")) == 0
    assert modules(recorded) == [
        "data_prep convert",
        "eo_jax.train",
        "eo_jax.export",
        "eo_jax.report",
    ]
    convert, training = recorded[0], recorded[1]
    assert convert[4:7] == ["enmap-tiles", "--input", str(tmp_path / "my tiles")]
    store = convert[convert.index("--output") + 1]
    expected = {
        "config": f"configs/mae_demo.py:{variant}",
        "workdir": "runs/demo_my tiles",
        "config.data.sources.enmap.store": store,
    }
    expected |= {"config.data.crop": str(crop), 'config.augment.crops["global"].size': str(crop)}
    assert dict(argument.removeprefix("--").split("=", 1) for argument in training[3:]) == expected


def test_the_overrides_fit_the_config_and_the_store(commands, monkeypatch, tmp_path):
    """The first checks of `train` pass."""
    write_tiles(tmp_path / "stores" / "demo_tiles", [31, 50], [])
    _, config_file, overrides = demo._own_tiles(tmp_path / "tiles")
    config = golden_text.load("mae_demo")["get_config"](config_file.split(":")[1])
    values = dict(
        override.removeprefix("--config.").replace('["global"]', ".global").split("=", 1)
        for override in overrides
    )
    config.update_from_flattened_dict(
        {key: int(value) if value.isdigit() else value for key, value in values.items()}
    )
    experiment = make_experiment(config)
    source = dataclasses.replace(experiment.data, batch_size=1).sources["enmap"]
    assert len(open_store(source.store)) == 2
    assert Pipeline(experiment.data, 0).batch(0)["enmap"]["pixels"].shape[-2:] == (
        28,
        28,
    )
