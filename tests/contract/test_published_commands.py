"""Every config as its head says to run it: its commands, from an archive in the published layout to
weights for PyTorch; only the model is small.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import golden_text
import numpy as np
import published_archives
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from eo_jax.data import open_store
from eo_jax.monitor.writers import read_metrics

STEPS = 4
# Their `smoke` is of a scene that cannot be had whole; Salinas-A can.
SCENES = {"barlow_pixels", "semi_supervised_pixels", "supervised_pixels"}


def commands(name: str) -> list[list[str]]:
    """The commands in the docstring of a config, as the shell would take them apart."""
    head = golden_text.load(name)["__doc__"].split("\n\n", 2)[1]
    return [shlex.split(line) for line in head.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("name", golden_text.names())
def test_the_head_has_one_command_that_trains_and_it_comes_last(name: str) -> None:
    kinds = [command[2] for command in commands(name)]
    assert set(kinds[:-1]) == {"data_prep"} and kinds[-1] == "eo_jax.train"


@pytest.mark.slow
@pytest.mark.parametrize("name", golden_text.names())
def test_from_archive_to_weights(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "configs").symlink_to(golden_text.ROOT / "configs")
    *preparing, training = commands(name)
    for command in preparing:
        if name not in SCENES or "stores/salinas_a" in command:
            run(tmp_path, _with_archive(command, tmp_path, request))
    run(tmp_path, [_small(name, word) for word in training] + _few_steps(name))

    (workdir,) = (tmp_path / "runs").iterdir()
    rows = read_metrics(workdir)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) >= STEPS and np.isfinite(losses).all()
    evals = json.loads((workdir / "config.json").read_text())["evals"]
    watched = (
        [f"collapse/{source}" for source in evals["collapse"]["sources"]] or ["collapse"]
        if "collapse" in evals
        else []
    )
    sources = set(json.loads((workdir / "config.json").read_text())["data"]["sources"])
    logged = [
        {key.removeprefix("rankme/") for key in row if key.startswith("rankme/")}
        for row in rows
        if "loss" in row
    ]
    assert (
        all(logged) and set().union(*logged) == sources
    )  # of a mixture each line has those of its component
    ranks = {key: value for row in rows for key, value in row.items() if key.endswith("/rankme")}
    assert set(ranks) == {f"eval/{name}/rankme" for name in watched}
    assert all(rank >= 1 for rank in ranks.values())
    export = [
        "python",
        "-m",
        "eo_jax.export",
        f"--workdir={workdir}",
        "--output=encoder.safetensors",
    ]
    run(tmp_path, export)
    assert all(
        np.isfinite(tensor).all() for tensor in load_file(tmp_path / "encoder.safetensors").values()
    )
    with safe_open(tmp_path / "encoder.safetensors", "np") as file:
        contract = json.loads(file.metadata()["eo_jax"])
    stores = [open_store(path) for path in (tmp_path / "stores").iterdir()]
    assert any(contract["sensor"]["id"] in store.manifest["sensors"] for store in stores)


def run(folder: Path, command: list[str]) -> None:
    """In a folder as a user's, with the repository's code."""
    paths = {"PYTHONPATH": str(golden_text.ROOT)}
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=folder,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )


def _with_archive(command: list[str], folder: Path, request: pytest.FixtureRequest) -> list[str]:
    """`convert` with an archive that is there; `simulate` makes its own."""
    if command[3] != "convert" or Path(folder / command[command.index("--input") + 1]).exists():
        return command
    archive = folder / "archive"
    published_archives.write(command[4], archive, request)
    return [
        str(archive) if before == "--input" else word
        for before, word in zip(["", *command], command, strict=False)
    ]


def _small(name: str, word: str) -> str:
    variant = "salinas_a" if name in SCENES else "smoke"
    return re.sub(r"^(--config=configs/\w+\.py)(:\S+)?$", rf"\1:{variant}", word)


def _few_steps(name: str) -> list[str]:
    return [f"--config.run.steps={STEPS}", "--config.run.log_every=1"] if name in SCENES else []
