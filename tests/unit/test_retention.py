"""A checkpoint that one rule keeps is not deleted by another."""

from __future__ import annotations

import math

import pytest

from eo_jax.checkpoint import Retention

ACCURACY = "eval/knn/accuracy"


def kept(retention: Retention, scores: dict[int, float | None]) -> list[int]:
    checkpoints = {
        step: {} if score is None else {ACCURACY: score} for step, score in scores.items()
    }
    return [step for step, why in retention.reasons(checkpoints).items() if why]


UNSCORED = dict.fromkeys(range(1, 8))


@pytest.mark.parametrize(
    ("retention", "scores", "expected"),
    [
        (Retention(2), UNSCORED, [6, 7]),
        (Retention(9), UNSCORED, [1, 2, 3, 4, 5, 6, 7]),
        (Retention(1, every=3), UNSCORED, [3, 6, 7]),
        (Retention(1, best=ACCURACY), UNSCORED, [7]),
        (Retention(1, best=ACCURACY), {1: 0.3, 2: 0.5, 3: None, 4: 0.4}, [2, 4]),
        (Retention(1, best=ACCURACY, mode="min"), {1: 0.3, 2: 0.5, 3: None, 4: 0.4}, [1, 4]),
        (Retention(1, best=ACCURACY), {1: 0.5, 2: 0.5, 3: 0.5}, [1, 3]),
        (Retention(1, every=2, best=ACCURACY), {2: 0.1, 3: 0.9, 4: 0.2, 5: 0.3}, [2, 3, 4, 5]),
        (Retention(1, best=ACCURACY), {1: math.nan, 2: 0.9, 3: math.inf, 4: 0.5}, [2, 4]),
        (Retention(2), {}, []),
    ],
)
def test_what_is_kept(retention, scores, expected):
    assert kept(retention, scores) == expected


def test_the_reasons_are_named():
    checkpoints = {4: {ACCURACY: 1.0}, 5: {}}
    assert Retention(1, every=4, best=ACCURACY).reasons(checkpoints) == {
        4: ["every 4", f"best {ACCURACY}"],
        5: ["newest"],
    }
