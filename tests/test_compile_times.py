"""Test of `compile_times`: what a worker compiled is printed at the end, with the test that it was for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import jax

def test_it():
    def doubled(x):
        return 2 * x
    assert jax.jit(doubled)(1) == 2
"""


def test_compiles_of_workers_are_printed_with_their_tests(tmp_path):
    (tmp_path / "test_toy.py").write_text(TEST)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "compile_times", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".", "."]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "doubled" in line)
    seconds, function, test = line.split()
    assert float(seconds.removesuffix("s")) > 0 and (function, test) == ("jit(doubled)", "test_toy.py::test_it")
