"""Pretrains an encoder on a scene by configs/barlow_scene.py, or goes on with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eo_jax.evaluation.few_label.scene import Scene

CONFIG = "configs/barlow_scene.py"


def pretrain(scene: Scene, workdir: Path, overrides: list[str]) -> Path:
    """The folder of the run, finished. In a process of its own, which a stop can resume.

    Args:
        overrides: further arguments of `eo_jax.train`.

    Raises ValueError where the run fails; it has said why.
    """
    config = next(
        (argument for argument in overrides if argument.startswith("--config=")),
        f"--config={CONFIG}",
    )
    source = "--config.data.sources.pixels"
    command = [sys.executable, "-m", "eo_jax.train", config, f"--workdir={workdir}"]
    command += [f"{source}.store={scene.store}", f"{source}.sensor={scene.sensor.id}"]
    command += [argument for argument in overrides if argument != config]
    code = subprocess.run(command).returncode
    if code:
        raise ValueError(f"{workdir}: pretraining ended with exit code {code}; see above")
    return workdir
