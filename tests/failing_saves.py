"""`python -m eo_jax.train` on whose disk something happens as a step is saved:

python failing_saves.py {full,readonly,removed,gone} STEP ARGUMENTS...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from eo_jax import checkpoint, cli, train

LEFT = 16 << 10  # bytes on a disk that is full: log lines still fit


def filler(workdir: Path) -> Path:
    return workdir.parent / "filler"


def full(workdir: Path) -> None:
    status = os.statvfs(workdir)
    filler(workdir).write_bytes(bytes(status.f_bavail * status.f_frsize - LEFT))


def readonly(workdir: Path) -> None:
    """The disk of the checkpoints refuses writes, as after an error of its own."""
    folder = workdir / "checkpoints"
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def gone(workdir: Path) -> None:
    shutil.rmtree(workdir)


def removed(workdir: Path) -> None:
    """The checkpoints are removed when all arrays are written and nothing is renamed yet."""
    finalize = ocp.CompositeCheckpointHandler.finalize

    def without_folder(handler: Any, folder: Path) -> None:
        shutil.rmtree(workdir / "checkpoints")
        finalize(handler, folder)

    ocp.CompositeCheckpointHandler.finalize = without_folder


FAULTS = {fault.__name__: fault for fault in (full, readonly, gone, removed)}


class Failing(checkpoint.Checkpoints):
    """Something happens when step `at` is about to be saved."""

    fault, at = "", 0

    def save(self, step: int, *arguments: Any) -> None:
        if step == self.at:
            self.wait()
            FAULTS[self.fault](self._folder.parent)
        super().save(step, *arguments)


if __name__ == "__main__":
    Failing.fault, Failing.at = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    train.Checkpoints = Failing
    cli.run(train.main)
