"""Attributes the wall time of a run to phases that sum exactly to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

PHASES = ("start", "compile", "step", "data", "evaluate", "checkpoint", "other")
_KEY = "time/"
_WALL = f"{_KEY}wall_s"
DATA_MAX, DATA_MAX_PROCESS = f"{_KEY}data_max", f"{_KEY}data_max_process"
# One thread: steps finish in the order in which they are handed over.
_WATCHER = ThreadPoolExecutor(1, thread_name_prefix="goodput")


class Clock:
    """Attributes every moment of the wall clock to one of PHASES; starts in "start".

    While a step runs on the device, the time is "step", whatever the host does meanwhile; all other
    phases count only while the device is idle. So "data" is the time that a faster loader would
    save, not the time that `next` took.
    """

    def __init__(self):
        self._phase, self._since = "start", time.perf_counter_ns()
        self._finished: Callable[[], int | None] | None = None
        self._total = dict.fromkeys(PHASES, 0)  # integer nanoseconds: their sums are exact
        self._taken = dict(self._total)

    def enter(self, phase: str) -> None:
        """The host is in `phase`, one of PHASES, from now on."""
        now = time.perf_counter_ns()
        busy = self._busy(now)
        self._total["step"] += busy
        self._total[self._phase] += now - self._since - busy
        self._phase, self._since = phase, now

    def _busy(self, now: int) -> int:
        """Nanoseconds that the device computed since the last change of phase."""
        if self._finished is None:
            return 0
        finished = self._finished()
        until = now if finished is None else min(finished, now)
        return max(until - self._since, 0)

    def dispatched(self, finished: Callable[[], int | None]) -> None:
        """The device computes a step from now on; the host is in "other" until it enters a phase.

        Args:
            finished: returns the time (perf_counter_ns) at which the step was done, None until
                then; see `finish_of`.
        """
        self.enter("other")
        self._finished = finished

    def take(self) -> dict[str, float]:
        """{"time/<phase>": fraction of the time since the last call, "time/wall_s": that time};
        phases that took no time are left out.
        """
        self.enter(self._phase)
        spent = {phase: total - self._taken[phase] for phase, total in self._total.items()}
        self._taken = dict(self._total)
        return _fractions(spent) | {_WALL: sum(spent.values()) / 1e9}

    def total(self) -> dict[str, float]:
        """The same over the whole run."""
        self.enter(self._phase)
        return _fractions(self._total) | {_WALL: sum(self._total.values()) / 1e9}


def merged(taken: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What `Clock.take` gave in each process, as one: phases over the time of all of them.

    With several, "time/data_max" is the fraction of the one that waited longest for data, and
    "time/data_max_process" its number: in the others that wait is part of their step.
    """
    if len(taken) == 1:
        return dict(taken[0])
    wall = sum(one[_WALL] for one in taken)
    spent = {
        phase: sum(one.get(f"{_KEY}{phase}", 0.0) * one[_WALL] for one in taken) for phase in PHASES
    }
    data = [one.get(f"{_KEY}data", 0.0) for one in taken]
    return _fractions(spent) | {
        _WALL: wall / len(taken),
        DATA_MAX: max(data),
        DATA_MAX_PROCESS: data.index(max(data)),
    }


def finish_of(values: Any) -> Callable[[], int | None]:
    """A function that returns the time (perf_counter_ns) at which arrays were computed, None until
    then. A thread waits for them, so that neither host nor device has to.
    """
    done = _WATCHER.submit(lambda: (jax.block_until_ready(values), time.perf_counter_ns())[1])
    return lambda: done.result() if done.done() else None


def summary(total: Mapping[str, float]) -> str:
    """A whole run in one line: "time: step 91%, compile 4%, data 3%, evaluate 2%"."""
    fractions = {name: value for name, value in total.items() if name.removeprefix(_KEY) in PHASES}
    slowest = (
        f"; process {total[DATA_MAX_PROCESS]} waited longest for data, {total[DATA_MAX]:.0%}"
        if total.get(DATA_MAX)
        else ""
    )
    return f"time: {format_fractions(fractions)}{slowest}"


def fractions_of(lines: list[Mapping[str, Any]]) -> dict[str, float]:
    """The fractions over all lines of metrics.jsonl together; {} where no line was timed."""
    timed = [line for line in lines if _WALL in line]
    return _fractions(
        {
            phase: sum(line.get(f"{_KEY}{phase}", 0) * line[_WALL] for line in timed)
            for phase in PHASES
        }
    )


def format_fractions(fractions: Mapping[str, float]) -> str:
    """ "step 91%, data 3%", the largest first; phases that round to 0% are left out."""
    largest_first = sorted(fractions.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{name.removeprefix(_KEY)} {value:.0%}" for name, value in largest_first if value >= 0.005
    )


def _fractions(spent: Mapping[str, float]) -> dict[str, float]:
    wall = sum(spent.values())
    return {f"{_KEY}{phase}": value / wall for phase, value in spent.items() if value}
