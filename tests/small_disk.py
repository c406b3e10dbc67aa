"""A toy is trained on a disk that fills up, and again once there is space; or where nothing may be
written. Prints what happened as JSON. It mounts, so it needs a mount namespace of its own:

    unshare --map-root-user --mount python small_disk.py STORE FOLDER {regular,final,readonly}
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tiny_run
from run_results import hashes
from toy_objective import Toy

from eo_jax import checkpoint, train
from eo_jax.experiment import make_experiment

STEPS, SAVE_EVERY = 6, 2
FULL_AT = {"regular": 4, "final": 6}


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


class FullDisk(checkpoint.Checkpoints):
    """The disk is full when step `at` is saved; log lines still fit."""

    at = 0

    def save(self, step: int, *arguments: Any) -> None:
        if step == self.at:
            self.wait()
            status = os.statvfs(self._folder)
            free = status.f_bavail * status.f_frsize
            filler(self._folder.parent).write_bytes(bytes(free - (16 << 10)))
        super().save(step, *arguments)


def filler(workdir: Path) -> Path:
    return workdir.parent / "filler"


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


def main(store: str, folder: Path, what: str) -> dict:
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", folder)
    train.make_experiment = lambda config: dataclasses.replace(
        make_experiment(config), objective=Toy(202)
    )
    small = {"run.steps": STEPS, "run.save_every": SAVE_EVERY, "sharding.rules": ((".*", ()),)}
    config = tiny_run.config_of(Path(store), **small) | {"evals": {}}
    if what == "readonly":
        return readonly(config, folder)
    return filling_up(config, folder, FULL_AT[what])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
