"""A row in a process of its own, with a limit of time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.accelerator.rows import Row

_ROOT = Path(__file__).parents[2]
_SETTINGS = {
    # One process at a time uses the device, and may take nearly all of its memory.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    # With the cache, compile times would be those of reading a file.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


class RowProcess:
    """The process of a row, which imports its libraries while another row is measured and waits for
    `run`. A context manager: the process ends with the block, with those that it started and their
    temporary files.

    Args:
        scale: its name.
        folder: for result and output; it exists.
    """

    def __init__(self, row: Row, scale: str, folder: Path):
        self.row = row
        self._result, self._output = folder / f"{row.name}.json", folder / f"{row.name}.txt"
        self._scratch = folder / row.name
        self._scratch.mkdir()
        command = (sys.executable, "-m", "benchmarks.accelerator.row", row.name, scale)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, str(self._result)],
                cwd=_ROOT,
                env={**_environment(row), "TMPDIR": str(self._scratch)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> RowProcess:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.stdin.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that it started
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, limit_s: float) -> dict[str, Any]:
        """The result of the row: figures, device, versions and seconds, and "failed", the reason,
        if something went wrong; figures that were found before are there.
        """
        failed = ""
        with contextlib.suppress(BrokenPipeError):  # it ended before: the exit code says so
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        try:
            if code := self._process.wait(limit_s):
                failed = f"ended with exit code {code}: {self._last_line()}"
        except subprocess.TimeoutExpired:
            failed = f"not done after {limit_s:.0f} s"
        found = json.loads(self._result.read_bytes()) if self._result.exists() else {"figures": {}}
        return found | ({"failed": failed} if failed else {})

    def _last_line(self) -> str:
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "without output"


def _environment(row: Row) -> dict[str, str]:
    """That of this process, with the row's; its XLA_FLAGS come after those set already."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {row.environment.get('XLA_FLAGS', '')}".strip()
    return {**os.environ, **_SETTINGS, **row.environment, "XLA_FLAGS": flags}
