"""Test of `compile_times`: what a worker compiled is printed at the end, with the test that it was
for.
"""

from __future__ import annotations

from types import SimpleNamespace

import compile_times
import jax


def test_compiles_of_workers_are_printed_with_their_tests(monkeypatch):
    monkeypatch.setattr(compile_times, "_slowest", [])
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_toy.py::test_it[2 views] (call)")

    def doubled(x):
        return 2 * x

    assert jax.jit(doubled)(1) == 2
    worker = SimpleNamespace(workeroutput={})
    compile_times.pytest_sessionfinish(SimpleNamespace(config=worker))

    monkeypatch.setattr(compile_times, "_slowest", [])
    compile_times.pytest_testnodedown(worker, None)
    printed = []
    compile_times.pytest_terminal_summary(
        SimpleNamespace(section=printed.append, line=printed.append)
    )
    assert printed[0] == "slowest 10 compiles"
    (seconds, _, rest) = next(line for line in printed if "doubled" in line).partition("s ")
    assert float(seconds) >= 0 and rest == "jit(doubled) tests/test_toy.py::test_it[2 views]"
