"""Starts processes with several CPU devices: their number is fixed when jax starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import fast_compile

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def environment(devices: int = 8) -> dict[str, str]:
    """The environment of a process with so many devices that imports from tests/."""
    return os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": fast_compile.flags(),  # what is tested here is how XLA partitions
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }


class SeveralDevices:
    """One process (`serve.py`) that runs several scripts of this folder, one after the other."""

    def __init__(self, devices: int):
        self._process = subprocess.Popen(
            [sys.executable, str(FOLDER / "serve.py")],
            env=environment(devices),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(self, script: str, *arguments: str) -> Any:
        """The result of the script's `main(*arguments)`, which is JSON."""
        print(json.dumps([script, arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the process ended with exit code {self._process.wait(60)}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]
