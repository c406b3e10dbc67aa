"""Compares rows: over seeds, with a floor, and with a baseline on the same test samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eo_jax.evaluation.floors import FLOORS, FROM_SCRATCH, IMAGE_STATISTICS
from eo_jax.evaluation.intervals import Estimate, interval
from eo_jax.evaluation.task import LOWER_IS_BETTER

# A row as on disk, see `table.Table.add`.
Plain = Mapping[str, Any]


def headline(row: Plain) -> float:
    """The value of a row's headline."""
    return row["scores"][row["headline"]][0]


def sign(row: Plain) -> int:
    """1 where a larger headline is better, else -1."""
    return -1 if row["headline"] in LOWER_IS_BETTER else 1


def below_floor(row: Plain, rows: Sequence[Plain]) -> bool:
    """Whether an encoder's row is worse than the statistics of its images by the headline: a likely
    mistake in normalisation, bands or units.
    """
    if row["candidate"] in FLOORS:
        return False
    same = ("task", "store", "title", "fraction", "seed")
    for floor in rows:
        alike = all(floor[name] == row[name] for name in same)
        if alike and floor["candidate"] == IMAGE_STATISTICS:
            return sign(row) * (headline(row) - headline(floor)) < 0
    return False


def over_seeds(rows: Sequence[Plain]) -> Estimate:
    """The mean of the headline over rows that differ in their seed; the interval is of all their
    resamples, so it covers test set and draw of the training samples.
    """
    if len(rows) == 1:
        return Estimate(*rows[0]["scores"][rows[0]["headline"]])
    return interval(np.mean([*map(headline, rows)]), np.concatenate([*map(_draws, rows)]))


def difference(rows: Sequence[Plain], baseline: Sequence[Plain]) -> Estimate | None:
    """How much rows are above a baseline's, as `over_seeds`, resample by resample; None where they
    were not tested on the same samples, seed by seed.
    """
    others = {_test_samples(row): row for row in baseline}
    if set(others) != {_test_samples(row) for row in rows}:
        return None
    pairs = [(row, others[_test_samples(row)]) for row in rows]
    values = [headline(row) - headline(other) for row, other in pairs]
    draws = [_draws(row) - _draws(other) for row, other in pairs]
    return interval(np.mean(values), np.concatenate(draws))


def chosen_baseline(rows: Sequence[Plain], name: str) -> str:
    """The candidate that others are compared with: `name`, or the cheapest floor that there is; ""
    where there is none.
    """
    candidates = {row["candidate"] for row in rows}
    return next((one for one in (name, IMAGE_STATISTICS, FROM_SCRATCH) if one in candidates), "")


def _draws(row: Plain) -> np.ndarray:
    return np.array(row["draws"], np.float64)


def _test_samples(row: Plain) -> tuple[Any, ...]:
    """What decides the resamples: the store's content, the number of samples and the seed."""
    return row["content"], row["tested"], row["seed"]
