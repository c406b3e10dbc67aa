"""Steps that are traced, and the table of their operations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eo_jax.monitor import profile


def test_steps():
    assert profile.parse("steps:10-20") == range(10, 21)
    assert profile.parse("") == range(0)


@pytest.mark.parametrize("text", ["10-20", "steps:20-10", "steps:0-3", "steps:a-b"])
def test_what_is_not_steps_is_refused(text):
    with pytest.raises(ValueError, match=f"--profile={text}: expected steps:FIRST-LAST"):
        profile.parse(text)


def event(name, start, duration, **stats):
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats.items())


def trace(**planes):
    return SimpleNamespace(
        planes=[
            SimpleNamespace(
                name=plane.replace("_", "/"),
                lines=[SimpleNamespace(name=line, events=events) for line, events in lines],
            )
            for plane, lines in planes.items()
        ]
    )


def test_a_loop_does_not_count_what_runs_inside_it():
    events = [
        event("while.1", 0, 100),
        event("fusion.1", 10, 40),
        event("fusion.1", 50, 40),
        event("copy", 100, 5),
    ]
    found = profile.operations(trace(**{"_device:TPU:0": [("XLA Ops", events)]}))
    assert [(one.name, round(one.seconds * 1e9), one.count) for one in found] == [
        ("fusion.1", 80, 2),
        ("while.1", 20, 1),
        ("copy", 5, 1),
    ]


def test_other_lines_do_not_count():
    """What Python does, and steps and modules, which hold the same time again."""
    found = profile.operations(
        trace(
            **{
                "_host:CPU": [
                    ("python", [event("main", 0, 100)]),
                    ("worker", [event("dot", 0, 7, hlo_op="dot"), event("wait", 7, 9)]),
                ],
                "_device:TPU:0": [("XLA Modules", [event("jit_step", 0, 100)])],
            }
        )
    )
    assert [(one.name, round(one.seconds * 1e9)) for one in found] == [("dot", 7)]
