"""The two sizes of a measurement, and the timing of steps."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        name: "full" or "miniature": small shapes, for a CPU; its figures mean nothing.
        warm_up: steps before the clock starts.
        windows: timed windows, of which the median counts.
        window_s: seconds of a window, in which at least two steps run.
        patience: times the planned seconds of a row, after which it is ended.
    """

    name: str
    warm_up: int
    windows: int
    window_s: float
    patience: float

    def pick(self, full: T, miniature: T) -> T:
        """The value for this scale."""
        return full if self.name == "full" else miniature

    def step_s(self, run: Callable[[int], Any]) -> dict[str, float]:
        """{"step_s": seconds of a step, "spread": of the windows, relative, "steps": all timed}.

        Args:
            run: runs a number of steps and waits for the end of the last.
        """
        run(self.warm_up)
        steps = max(2, round(self.window_s / (_seconds(run, 2) / 2)))
        found = [_seconds(run, steps) / steps for _ in range(self.windows)]
        middle = statistics.median(found)
        spread = (max(found) - min(found)) / middle
        return {"step_s": middle, "spread": spread, "steps": steps * self.windows}


def _seconds(run: Callable[[int], Any], steps: int) -> float:
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


SCALES = {
    "full": Scale("full", warm_up=3, windows=5, window_s=0.4, patience=2),
    "miniature": Scale("miniature", warm_up=1, windows=3, window_s=0.02, patience=10),
}
