"""Runs of several processes over the loopback device: `python -m eo_jax.train` on a tiny store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import fast_compile
import golden_text
from tiny_run import arguments

from eo_jax.monitor import writers

PEER_TIMEOUT = 6
PATIENCE = 120  # seconds; a process that takes longer hangs
TRAIN = ("-m", "eo_jax.train")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """That of a process with so many devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": fast_compile.flags(),
        "PYTHONPATH": f"{golden_text.ROOT}{os.pathsep}{golden_text.ROOT / 'tests'}",
        "EO_JAX_PEER_TIMEOUT": str(PEER_TIMEOUT),
    }


class Processes:
    """The processes of one run; all are dead at the end of the block."""

    def __init__(
        self,
        store: Path,
        workdir: Path,
        *more: str,
        count: int = 2,
        devices: int | None = None,
        started: Sequence[int] | None = None,
        programs: dict[int, Sequence[str]] | None = None,
        **variables: str,
    ):
        """`devices`: of all processes together, by default one each, but two of a single one, so
        that it computes the same as two processes; `started`: which of them start at once, all by
        default; `programs`: {process: arguments of Python in place of those that train}.
        """
        self.workdir, self._count = workdir, count
        self._port, self._programs = free_port(), programs or {}
        self._arguments = (*arguments(store, workdir), *more)
        self._environment = environment((devices or max(2, count)) // count) | variables
        self.processes: dict[int, subprocess.Popen] = {}
        for k in range(count) if started is None else started:
            self.start(k)

    def start(self, k: int) -> None:
        where = (
            f"--distributed=127.0.0.1:{self._port}",
            f"--process-id={k}",
            f"--num-processes={self._count}",
        )
        self.processes[k] = subprocess.Popen(
            [
                sys.executable,
                *self._programs.get(k, TRAIN),
                *self._arguments,
                *(where if self._count > 1 else ()),
            ],
            cwd=golden_text.ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            alive = all(process.poll() is None for process in self.processes.values())
            assert alive and time.monotonic() < deadline, self.ends(timeout=10)
            time.sleep(0.02)

    def logged(self) -> int:
        return max((line["step"] for line in writers.read_metrics(self.workdir)), default=0)

    def saved(self) -> list[int]:
        return sorted(
            int(path.name) for path in self.workdir.glob("checkpoints/*") if path.name.isdigit()
        )

    def send(self, k: int, number: signal.Signals) -> None:
        self.processes[k].send_signal(number)

    def ends(self, *, timeout: float = PATIENCE) -> tuple[list[int], list[str]]:
        """(exit codes, outputs) by process; one that hangs is killed, and its code is -9."""
        outputs = []
        for _, process in sorted(self.processes.items()):
            try:
                outputs.append(process.communicate(timeout=timeout)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                outputs.append(process.communicate()[0])
        return [process.returncode for _, process in sorted(self.processes.items())], outputs
