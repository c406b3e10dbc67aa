"""The soak: a run that is killed over and over ends like one that is not, and what differs is
found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_states import CONFIG, save_two, state_of

from benchmarks import soak
from eo_jax.checkpoint import Checkpoints

FAULTS = ("differing_leaves", "differing_lines", "left_over", "missing")
LINES = '{"step": 2, "loss": 1.0, "time/step": 0.5}\n{"step": 5, "loss": 0.5, "time/step": 0.5}\n'


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 2)])
def test_a_run_that_is_killed_is_the_run_that_is_not(tmp_path, capsys, processes, kills):
    arguments = ("--kills", str(kills), "--processes", str(processes))
    code = soak.main([*arguments, "--json", str(tmp_path / "soak.json")])
    assert code == 0, capsys.readouterr()
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert sum(figures["kills"].values()) == kills and figures["starts"] == kills + 1
    assert figures["leaves"] > 100 and figures["lines"] > figures["steps"]
    assert f"kill {kills}/{kills} " in capsys.readouterr().out


# ------------------------------------------------------------------------------ what it would find


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What a run leaves behind."""
    workdir = save_two(tmp_path_factory.mktemp("whole"))
    (workdir / "metrics.jsonl").write_text(LINES)
    return workdir


def one_bit(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "5")
    state = state_of(0)
    state["params"]["bias"] = state["params"]["bias"].at[0].set(1e-45)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(5, state, CONFIG)
    checkpoints.wait()


def another_loss(workdir: Path) -> None:
    (workdir / "metrics.jsonl").write_text(LINES.replace("0.5, ", "0.25, "))


def a_line_twice(workdir: Path) -> None:
    (workdir / "metrics.jsonl").write_text(LINES + LINES.splitlines()[1])


def a_folder_of_orbax(workdir: Path) -> None:
    (workdir / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()


def a_lock(workdir: Path) -> None:
    (workdir / ".lock").touch()


def half_a_checkpoint(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "2" / "manifest")


def nothing(workdir: Path) -> None:
    text = LINES.replace('"time/step": 0.5', '"time/step": 0.25')
    (workdir / "metrics.jsonl").write_text(text)  # the clock alone


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (one_bit, {"differing_leaves": ["params/bias"]}),
        (another_loss, {"differing_lines": 1}),
        (a_line_twice, {"differing_lines": 1}),
        (a_folder_of_orbax, {"left_over": ["checkpoints/6.orbax-checkpoint-tmp"]}),
        (a_lock, {"left_over": [".lock"]}),
        (half_a_checkpoint, {"missing": ["checkpoints/2/manifest"]}),
        (nothing, {}),
    ],
)
def test_what_a_killed_run_has_otherwise_is_found(
    whole, tmp_path, change: Callable[[Path], None], found: dict
):
    killed = shutil.copytree(whole, tmp_path / "killed")
    change(killed)
    figures = soak.compared(whole, killed)
    assert {fault: figures[fault] for fault in FAULTS if figures[fault]} == found
    assert soak.survived(figures | {"wrong_exit_codes": []}) == (not found)


@pytest.mark.parametrize(("codes", "code"), [([], 0), ([{"kill": 2, "codes": [1]}], 1)])
def test_the_exit_code_says_whether_a_process_ended_otherwise_than_it_should(
    whole, tmp_path, monkeypatch, capsys, codes, code
):
    happened = {"kills": {"between steps": 3}, "starts": 4, "resumed_from": 2}
    monkeypatch.setattr(soak, "write_tiny_store", lambda _: None)
    monkeypatch.setattr(soak.Soak, "whole", lambda _: (whole, 1.0))
    monkeypatch.setattr(
        soak.Soak, "killed", lambda *_: (whole, happened | {"wrong_exit_codes": codes})
    )
    assert soak.main(["--kills", "3", "--json", str(tmp_path / "soak.json")]) == code
    assert json.loads((tmp_path / "soak.json").read_text())["wrong_exit_codes"] == codes
    assert ("THE RUNS DIFFER" in capsys.readouterr().out) == bool(code)
