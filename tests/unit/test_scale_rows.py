"""Limits of `benchmarks.scale`, and the figures that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import scale

WRITTEN = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu" / "scale.json"


def test_times_are_limited_from_above_and_efficiency_from_below():
    assert scale.met("loop", 0.02) and not scale.met("loop", 0.021)
    assert scale.met("scaling", 0.9) and not scale.met("scaling", 0.89)


def test_the_figures_have_every_row_within_its_limit():
    rows = json.loads(WRITTEN.read_text())["rows"]
    assert rows.keys() == scale.LIMITS.keys()
    assert [name for name, row in rows.items() if not scale.met(name, row["value"])] == []
