"""A trace of some steps for Perfetto and XProf, and the operations that took longest in it."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

_STEPS = re.compile(r"steps:(\d+)-(\d+)")
_SHOWN = 12
_MOST_BYTES = 1 << 30  # a longer trace is for a viewer


class Operation(NamedTuple):
    """All runs of an operation of the compiled programs, on all devices.

    Attributes:
        seconds: without operations inside it.
    """

    name: str
    seconds: float
    count: int


def parse(text: str) -> range:
    """The steps of "steps:10-20", counted from 1 as in log lines; none of "". Raises ValueError."""
    if not text:
        return range(0)
    match = _STEPS.fullmatch(text)
    steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
    if not steps or steps[0] < 1:
        raise ValueError(f"--profile={text}: expected steps:FIRST-LAST, as in steps:10-20")
    return steps


def check(steps: range, first: int, last: int) -> None:
    """Raises ValueError where a run of steps `first` + 1 ... `last` does not have these."""
    if steps and not first < steps[0] <= steps[-1] <= last:
        raise ValueError(
            f"--profile=steps:{steps[0]}-{steps[-1]}: this run has steps {first + 1} to {last}; "
            "choose some of them"
        )


class Profile:
    """Traces some steps of a run.

    Args:
        steps: which, counted from 1; none for no trace.
        folder: of the trace.
        say: is given lines.
    """

    def __init__(self, steps: range, folder: Path, say: Callable[[str], None]):
        self._steps, self._folder, self._say = steps, folder, say
        self._running = False

    def before(self, step: int, state: Any) -> None:
        """Step number `step` is next; `state` is what the last one gives."""
        if not self._steps or step not in (self._steps[0], self._steps[-1] + 1):
            return
        jax.block_until_ready(state)  # the steps themselves, nothing before or after them
        if step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._running = True
        else:
            self._stop()

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self._running:
            return
        self._running = False
        jax.profiler.stop_trace()
        for line in lines(self._folder, len(self._steps)):
            self._say(line)


def lines(folder: Path, steps: int) -> Iterator[str]:
    """The table of the newest trace in a folder, per step of `steps`."""
    traces = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    where = f"{folder}; open *.trace.json.gz at ui.perfetto.dev, or the folder in XProf"
    if not traces or traces[-1].stat().st_size > _MOST_BYTES:
        yield f"profile of {steps} steps: {where}"
        return
    found = operations(jax.profiler.ProfileData.from_file(str(traces[-1])))
    total = sum(operation.seconds for operation in found)
    yield f"profile of {steps} steps: {1e3 * total / steps:.2f} ms of operations each; {where}"
    for operation in found[:_SHOWN]:
        yield (
            f"  {operation.name:<44} {1e3 * operation.seconds / steps:9.3f} ms "
            f"{operation.seconds / total:6.1%} {operation.count / steps:8.1f} times"
        )


def operations(trace: Any) -> list[Operation]:
    """The operations of a `jax.profiler.ProfileData`, those that took longest first."""
    seconds: dict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for plane in trace.planes:
        for line in plane.lines:
            for name, took in _own_times(_of_programs(plane.name, line)):
                seconds[name] += took / 1e9
                counts[name] += 1
    found = [Operation(name, took, counts[name]) for name, took in seconds.items()]
    return sorted(found, key=lambda operation: -operation.seconds)


def _of_programs(plane: str, line: Any) -> Iterator[tuple[str, float, float]]:
    """(operation, begin, end) in ns of those of compiled programs: on accelerators a line has them
    alone, on a CPU they say so.
    """
    alone = plane.startswith("/device:") and line.name == "XLA Ops"
    for event in line.events:
        if alone or any(key == "hlo_op" for key, _ in event.stats):
            yield event.name, event.start_ns, event.start_ns + event.duration_ns


def _own_times(events: Iterable[tuple[str, float, float]]) -> Iterator[tuple[str, float]]:
    """(operation, ns without what runs inside it): a loop has its body inside."""
    open_events: list[list[Any]] = []  # [name, end, own time]
    for name, begin, end in sorted(events, key=lambda event: (event[1], -event[2])):
        while open_events and open_events[-1][1] <= begin:
            done = open_events.pop()
            yield done[0], done[2]
        if open_events:
            open_events[-1][2] -= min(end, open_events[-1][1]) - begin
        open_events.append([name, end, end - begin])
    for name, _, own in open_events:
        yield name, own
