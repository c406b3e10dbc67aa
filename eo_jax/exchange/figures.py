"""The figures that a run's own evaluators gave, for those who publish its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """One score.

    Attributes:
        evaluator: its name: "knn".
        source: whose features it judges; "" where the run has one.
        metric: "accuracy".
        value, step: of the run when it was evaluated.
    """

    evaluator: str
    source: str
    metric: str
    value: float
    step: int


def figures_of(lines: Iterable[Mapping[str, Any]], step: int) -> list[Figure]:
    """The last score of each metric up to the step of the weights, from the lines of metrics.jsonl:
    "eval/<evaluator>/<metric>" or "eval/<evaluator>/<source>/<metric>".
    """
    last: dict[str, Figure] = {}
    for line in lines:
        if line["step"] > step:  # of a later state
            continue
        for key, value in line.items():
            if key.startswith("eval/") and value is not None:  # NaN is null there
                _, evaluator, *source, metric = key.split("/")
                last[key] = Figure(evaluator, "/".join(source), metric, value, line["step"])
    return [last[key] for key in sorted(last)]
