"""How metrics and scores describe themselves to the log line and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["", "better", "worse"]


@dataclass(frozen=True)
class Metric:
    """One metric of a step or of an evaluator.

    Attributes:
        title: of its curve in the report; "" for no curve.
        short: its name in the log line; "" leaves it out.
        scale: of the curve's axis.
    """

    title: str
    short: str = ""
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True)
class Card:
    """One headline number of the report.

    Attributes:
        label, value, note: texts.
        verdict: whether it is better or worse than a baseline; "" where there is none.
        meaning: what the verdict means, in a sentence.
    """

    label: str
    value: str
    note: str
    verdict: Verdict = ""
    meaning: str = ""
