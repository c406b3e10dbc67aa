"""A toy is trained on a disk that fills up, and again once there is space; or where nothing may be
written. Prints what happened as JSON. It mounts, so it needs a mount namespace of its own:

    unshare --map-root-user --mount python small_disk.py STORE FOLDER {regular,final,readonly}
    unshare --map-root-user --mount python small_disk.py STORE FOLDER FAULT STEP PROCESSES

The second form runs the command, with a fault of `failing_saves` as a step is saved.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import failing_saves
import tiny_run
from failing_saves import filler, full
from run_results import hashes
from several_processes import Processes
from toy_objective import Toy

from eo_jax import checkpoint, train
from eo_jax.experiment import make_experiment

STEPS, SAVE_EVERY = 6, 2
FULL_AT = {"regular": 4, "final": 6}
COMMAND_STEPS = 12  # saved at 5, 10 and 12
SIZES = {"training": "4m", "command": "64m"}


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


class FullDisk(checkpoint.Checkpoints):
    """The disk is full when step `at` is saved."""

    at = 0

    def save(self, step: int, *arguments: Any) -> None:
        if step == self.at:
            self.wait()
            full(self._folder.parent)
        super().save(step, *arguments)


def run(config: dict, workdir: Path, *, extend: bool = False) -> dict:
    """How a training ends."""
    try:
        return {"code": train.train(config, workdir, extend=extend), "error": ""}
    except OSError as error:
        return {"code": 1, "error": str(error)}


def intact(workdir: Path) -> dict[int, bool]:
    """{saved step: whether all of it is what was saved}."""
    checkpoints = checkpoint.Checkpoints(workdir)
    return {step: not any(checkpoints.at(step).problems()) for step in checkpoints.steps()}


def filling_up(config: dict, folder: Path, at: int) -> dict:
    workdir, undisturbed = folder / "run", folder.parent / "undisturbed"
    assert run(config, undisturbed)["code"] == 0
    FullDisk.at, train.Checkpoints = at, FullDisk
    full, saved = run(config, workdir), intact(workdir)
    filler(workdir).unlink()
    train.Checkpoints = checkpoint.Checkpoints
    again = run(config, workdir)
    same = hashes(workdir) == hashes(undisturbed)
    return {"full": full, "saved": saved, "again": again, "same": same}


def readonly(config: dict, folder: Path) -> dict:
    workdir = folder / "run"
    assert run(config, workdir)["code"] == 0
    mount("-o", "remount,ro", folder)
    longer = config | {"run": config["run"] | {"steps": STEPS + 2}}
    return {
        "resumed": run(longer, workdir, extend=True),
        "fresh": run(config, folder / "other"),
        "saved": intact(workdir),
        "loaded": checkpoint.load(workdir)[1],
    }


def command(store: str, folder: Path, fault: str, at: str, processes: str) -> dict:
    """How `python -m eo_jax.train` ends, by process, where the last of them meets the fault."""
    workdir, count = folder / "run", int(processes)
    steps = f"--config.run.steps={COMMAND_STEPS}"
    last = 0 if fault == "removed" else count - 1  # process 0 renames what all have written
    programs = {last: (failing_saves.__file__, fault, at)}
    with Processes(Path(store), workdir, steps, count=count, programs=programs) as run:
        codes, outputs = run.ends()
    found = {"codes": codes, "outputs": outputs, "saved": intact(workdir)}
    if fault == "full":
        filler(workdir).unlink()
        with Processes(Path(store), workdir, steps, count=count) as run:
            found["again"], _ = run.ends()
    return found


def training(store: str, folder: Path, what: str) -> dict:
    """How `train` ends."""
    train.make_experiment = lambda config: dataclasses.replace(
        make_experiment(config), objective=Toy(202)
    )
    small = {"run.steps": STEPS, "run.save_every": SAVE_EVERY, "sharding.rules": ((".*", ()),)}
    config = tiny_run.config_of(Path(store), **small) | {"evals": {}}
    if what == "readonly":
        return readonly(config, folder)
    return filling_up(config, folder, FULL_AT[what])


def main(store: str, folder: Path, *what: str) -> dict:
    case = training if len(what) == 1 else command
    size = SIZES[case.__name__]
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    return case(store, folder, *what)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
