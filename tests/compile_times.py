"""A pytest plugin: at its end, a run prints its ten slowest compiles, as `--durations=10` does the
tests. It is a report, no test.

Compiled functions that JAX's cache holds already take no time to speak of, so a run in a new folder
tells. Processes that tests start do not count.
"""

from __future__ import annotations

import os

import jax
import pytest

SHOWN = 10
_slowest: list[tuple[float, str, str]] = []  # (seconds, function, test)


def pytest_configure(config: pytest.Config) -> None:
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, seconds: float, **about: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]  # " (call)" is cut off
        _keep([(seconds, str(about.get("fun_name", "")), test)])


def _keep(compiles: list[tuple[float, str, str]]) -> None:
    _slowest[:] = sorted([*_slowest, *compiles], reverse=True)[:SHOWN]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its own to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compiles"] = _slowest


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    _keep(
        [tuple(compile) for compile in getattr(node, "workeroutput", {}).get("compiles", [])]
    )  # a worker that crashed has none


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section(f"slowest {SHOWN} compiles")
    for seconds, function, test in _slowest:
        terminalreporter.line(f"{seconds:.2f}s {function} {test}")
