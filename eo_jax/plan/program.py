"""The computations of a compiled program, read from XLA's text of it, and how often each runs."""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Iterator, Mapping

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|calls)=\{([^}]*)\}")
_BODY = re.compile(r"\bwhile\(.*\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r"= s\d+\[\]\S* constant\((\d+)\)")
_DEVICES = ("num_partitions", "replica_count")


class Program:
    """The computations of a module, and how often each runs.

    Attributes:
        computations: {name: its lines}.
        entry: the name of the one that a run begins with.
        devices: that the program is for.
        callers: {computation: its calls, as (caller, turns, whether it is the body of a loop)}.
        times: computation -> how often a run of the program runs it; None in a loop whose number of
            turns is not known.
        calls: the same, each loop counted as one turn.
        in_loop: computation -> whether it is in the body of a loop.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[str]] = {}
        self.entry = ""
        for line in text.splitlines():
            match = _COMPUTATION.match(line)
            if match:
                lines = self.computations.setdefault(match[2], [])
                self.entry = match[2] if match[1] else self.entry
            elif self.computations:
                lines.append(line)
        counts = (re.search(rf"\b{key}=(\d+)", text) for key in _DEVICES)
        self.devices = math.prod(int(match[1]) for match in counts if match)
        self.callers = self._find_callers()
        self.times = functools.cache(self._times)
        self.calls = functools.cache(self._called)
        self.in_loop = functools.cache(self._in_loop)

    def _find_callers(self) -> Mapping[str, list[tuple[str, int | None, bool]]]:
        callers = collections.defaultdict(list)
        for caller, lines in self.computations.items():
            for line in lines:
                for called, turns, is_body in self._calls(line):
                    callers[called].append((caller, turns, is_body))
        return callers

    def _calls(self, line: str) -> Iterator[tuple[str, int | None, bool]]:
        if loop := _BODY.search(line):
            yield loop[2], self._turns(line, loop[1]), True
            return
        for called in _CALLED.findall(line):
            yield called, 1, False
        for branches in _BRANCHES.findall(line):
            for called in re.findall(r"[\w.\-]+", branches):
                yield called, 1, False

    def _turns(self, line: str, condition: str) -> int | None:
        """Turns of a loop: as XLA says, or the one whole number that its condition compares with,
        since `lax.scan` counts from 0.
        """
        if known := _TRIPS.search(line):
            return int(known[1])
        limits = {int(n) for n in _LIMIT.findall("\n".join(self.computations.get(condition, ())))}
        return limits.pop() if len(limits) == 1 else None

    def _times(self, computation: str) -> int | None:
        if computation == self.entry:
            return 1
        total = 0
        for caller, turns, _ in self.callers.get(computation, ()):
            of_caller = self.times(caller)
            if turns is None or of_caller is None:
                return None
            total += turns * of_caller
        return total

    def _called(self, computation: str) -> int:
        if computation == self.entry:
            return 1
        return sum(self.calls(caller) for caller, _, _ in self.callers.get(computation, ()))

    def _in_loop(self, computation: str) -> bool:
        return any(
            is_body or self.in_loop(caller)
            for caller, _, is_body in self.callers.get(computation, ())
        )
