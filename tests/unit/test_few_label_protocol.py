"""The protocol of few labels: its draws, and the margin that is its result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from eo_jax.evaluation.few_label import protocol
from eo_jax.evaluation.few_label.methods import FLOOR, HEADLINE, PRETRAINED
from eo_jax.evaluation.few_label.results import Rows, margin


def labelled(seed: int = 0) -> np.ndarray:
    """Classes [40, 48]: 1, 2 and 7 in stripes with holes, and three pixels of class 9."""
    rng = np.random.default_rng(seed)
    classes = np.repeat((1, 2, 7), 16)[None] * np.ones((40, 1), int)
    classes[rng.random(classes.shape) < 0.5] = 0
    classes[0, :3] = 9
    return classes


def test_a_class_without_pixels_in_both_halves_does_not_count():
    classes = labelled()
    np.testing.assert_array_equal(np.unique(protocol.counted(classes)), (0, 1, 2, 7))
    one_sided = np.where(protocol.dark_squares(classes.shape), classes, 0)
    with pytest.raises(ValueError, match="0 classes with 10 labelled pixels in each half"):
        protocol.counted(one_sided)


def test_blocks_share_no_square_and_every_draw_tests_on_the_same_pixels():
    classes = protocol.counted(labelled())
    draws = protocol.draws(classes, 5, "blocks")
    dark = protocol.dark_squares(classes.shape).ravel()
    assert len(draws) == protocol.DRAWS
    for draw in draws:
        codes = classes.ravel()[draw.labelled]
        assert np.unique(codes, return_counts=True)[1].tolist() == [5, 5, 5]
        assert dark[draw.labelled].all() and not dark[draw.test].any()
        np.testing.assert_array_equal(draw.test, np.flatnonzero((classes.ravel() > 0) & ~dark))
    assert len({tuple(draw.labelled) for draw in draws}) == protocol.DRAWS
    squares = {
        tuple(np.array(np.unravel_index(i, classes.shape)) // protocol.BLOCK)
        for i in draws[0].labelled
    }
    assert squares.isdisjoint(
        tuple(np.array(np.unravel_index(i, classes.shape)) // protocol.BLOCK) for i in draws[0].test
    )


def test_random_draws_test_on_all_other_labelled_pixels():
    classes = protocol.counted(labelled())
    for draw in protocol.draws(classes, 20, "random"):
        together = np.sort(np.concatenate([draw.labelled, draw.test]))
        np.testing.assert_array_equal(together, np.flatnonzero(classes))


def test_draws_are_the_same_for_every_method_and_take_at_most_half_of_a_class():
    classes = protocol.counted(labelled())
    again = protocol.draws(classes.copy(), 10_000, "random")
    for one, other in zip(protocol.draws(classes, 10_000, "random"), again, strict=True):
        np.testing.assert_array_equal(one.labelled, other.labelled)
        for code in (1, 2, 7):
            of_class = (classes == code).sum()
            assert (classes.ravel()[one.labelled] == code).sum() == of_class // 2


def row(method: str, kind: str, accuracy, labels: int = 5) -> dict:
    return {
        "scene": "s",
        "method": method,
        "kind": kind,
        "split": "blocks",
        "labels": labels,
        "accuracy": list(accuracy),
        "average_accuracy": list(accuracy),
        "kappa": list(accuracy),
    }


def test_the_margin_is_the_paired_t_interval_against_the_floor_with_the_highest_mean():
    rng = np.random.default_rng(0)
    mine, weak, best = rng.random((3, 10))
    best += 0.1
    rows = [
        row(HEADLINE.name, PRETRAINED, mine),
        row("weak", FLOOR, weak),
        row("best", FLOOR, best),
        row("other cell", FLOOR, best + 1, labels=10),
        row("pretrained, 1-NN", PRETRAINED, best + 1),
    ]
    found = margin(rows, "blocks", 5)
    expected = stats.ttest_rel(100 * mine, 100 * best)
    interval = expected.confidence_interval(0.95)
    assert found.floor == "best"
    np.testing.assert_allclose(found.difference, 100 * (mine - best).mean())
    np.testing.assert_allclose((found.low, found.high), interval)
    assert margin(rows, "random", 5) is None


def test_rows_that_exist_are_known_in_the_next_command(tmp_path):
    about = {"method": "m", "labels": 5}
    Rows(tmp_path).add(about, row("m", FLOOR, [0.5, 0.75]))
    again = Rows(tmp_path)
    assert about in again and {**about, "labels": 10} not in again
    lines = (tmp_path / "few_label.csv").read_text().splitlines()
    assert lines[1:] == ["s,m,floor,blocks,5,0,0.5,0.5,0.5", "s,m,floor,blocks,5,1,0.75,0.75,0.75"]
