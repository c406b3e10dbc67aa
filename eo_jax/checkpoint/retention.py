"""Which checkpoints of a run are kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

Scores = Mapping[str, float]


def finite(scores: Scores) -> dict[str, float]:
    """The scores without NaN and infinity: neither ranks a checkpoint, and JSON has neither."""
    return {name: value for name, value in scores.items() if math.isfinite(value)}


@dataclasses.dataclass(frozen=True)
class Retention:
    """A checkpoint is kept if any of three rules says so.

    Attributes:
        newest: so many of the newest are kept.
        every: so are those at multiples of so many steps; 0 for none.
        best: so is that with the best value of this score, as in "eval/knn/accuracy"; of equal
            ones the earliest; "" for none.
        mode: "max" where a higher value is better, "min" where a lower one is.
    """

    newest: int
    every: int = 0
    best: str = ""
    mode: Literal["max", "min"] = "max"

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> Retention:
        """As the section `run` of a config has it."""
        return cls(run["max_to_keep"], run["keep_every"], run["keep_best"], run["keep_best_mode"])

    def reasons(self, checkpoints: Mapping[int, Scores]) -> dict[int, list[str]]:
        """{step: the rules that keep it}, of {step: its scores}; steps that none keeps have [].

        A checkpoint without the score, or whose score is not finite, is never the best.
        """
        steps = sorted(checkpoints)
        newest, best = set(steps[-self.newest :]), self._best_step(checkpoints)
        return {
            step: [
                *(["newest"] if step in newest else []),
                *([f"every {self.every}"] if self.every and step % self.every == 0 else []),
                *([f"best {self.best}"] if step == best else []),
            ]
            for step in steps
        }

    def _best_step(self, checkpoints: Mapping[int, Scores]) -> int | None:
        sign = 1 if self.mode == "max" else -1
        scored = {
            step: sign * scores[self.best]
            for step, scores in sorted(checkpoints.items())
            if self.best in finite(scores)
        }
        return max(scored, key=scored.__getitem__, default=None)
