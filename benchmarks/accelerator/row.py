"""Measures one row in this process, which `benchmarks.accelerator` starts as

    python -m benchmarks.accelerator.row NAME SCALE FILE

It imports everything, waits for a line on its input, measures, and writes the result to FILE after
every figure.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import step
from benchmarks.accelerator.rows import ROWS
from benchmarks.accelerator.scale import SCALES
from eo_jax.data.store.files import write_atomically


def main() -> int:
    """The command; a failure is a result as well, so that the exit code is 0 even then."""
    name, scale, path = sys.argv[1], SCALES[sys.argv[2]], Path(sys.argv[3])
    row = ROWS[name]
    module, function = row.measure.split(".")
    measure = getattr(importlib.import_module(f"benchmarks.accelerator.{module}"), function)
    if not sys.stdin.readline():
        return 0  # no longer wanted
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start = time.perf_counter()
    result: dict[str, Any] = {"figures": {}}
    try:
        for figures in measure(scale, **row.settings):
            result["figures"] |= figures
            _write(path, result, start)
    except Exception as error:  # whatever it is, the other rows are measured
        result["failed"] = f"{type(error).__name__}: {str(error).strip()[:500]}"
    _write(path, result, start)
    _write(path, result | _environment(), start)
    return 0


def _end_with_parent() -> None:
    """Ends this process and those that it started when its input ends, even if the command that
    started it was killed: the device is then free for others.
    """
    if not os.read(sys.stdin.fileno(), 1):
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _environment() -> dict[str, Any]:
    """{"device", "driver", "versions", ...}, known only where JAX runs."""
    try:
        return {**step.environment(), "driver": jax.devices()[0].client.platform_version}
    except RuntimeError as error:
        return {"device": f"none: {str(error).strip()[:200]}"}


def _write(path: Path, result: dict[str, Any], start: float) -> None:
    timed = result | {"seconds": time.perf_counter() - start}
    write_atomically(path, json.dumps(timed).encode())


if __name__ == "__main__":
    sys.exit(main())
