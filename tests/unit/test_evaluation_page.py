"""Comparison of rows, and the page of an evaluation in a browser."""

from __future__ import annotations

import browser
import numpy as np
import pytest

from eo_jax.evaluation import compare, verdict
from eo_jax.evaluation.row import Row
from eo_jax.evaluation.table import Table
from eo_jax.evaluation.task import Task

LONG = "a_very_long_name_without_a_place_to_break_it_" * 3
MAPS = Task("maps", "segmentation", "cover", "x")


def names_of(candidate: str, **changed) -> dict:
    names = {"candidate": candidate, "task": LONG, "store": "s", "split": "archive"}
    names |= {"content": "c", "protocol": "p", "title": "p: k", "headline": "miou"}
    return names | {"fraction": 1.0, "seed": 0, "classes": {1: LONG, 2: "b"}} | changed


def row_of(right: float, images: int = 20) -> Row:
    """A row of maps of two classes; `right` is the fraction of right pixels, which varies by image
    in the same way for every row.
    """
    share = np.clip(right + np.random.default_rng(0).normal(0, 0.2, images), 0, 1)
    tables = np.array([[[50 * s, 50 * (1 - s)], [50 * (1 - s), 50 * s]] for s in share])
    maps = np.ones((16, 16), int), np.full((16, 16), 2)
    found = verdict.of_maps(tables, MAPS, 0)
    return Row(found, 10, images, (1, 2), tables.sum(0), (maps,), trivial=0.25)


def table_of(folder, rows) -> Table:
    table = Table(folder)
    for names, row in rows:
        table.add(names, names, row)
    return table


def test_candidates_are_compared_image_by_image(tmp_path):
    """Images differ more than candidates: only the paired interval leaves out 0."""
    table = table_of(
        tmp_path, [(names_of("imagestats"), row_of(0.60)), (names_of("enc"), row_of(0.64))]
    )
    floor, encoder = table.rows.values()
    found = compare.difference([encoder], [floor])
    assert found.value == pytest.approx(compare.headline(encoder) - compare.headline(floor))
    assert 0 < found.low < found.value < found.high
    assert compare.over_seeds([floor]).high > compare.over_seeds([encoder]).low


@pytest.mark.parametrize("changed", [{"content": "other"}, {"seed": 1}])
def test_rows_of_other_test_samples_are_not_subtracted(tmp_path, changed):
    table = table_of(
        tmp_path, [(names_of("imagestats"), row_of(0.6)), (names_of("e", **changed), row_of(0.7))]
    )
    floor, encoder = table.rows.values()
    assert compare.difference([encoder], [floor]) is None


def test_seeds_are_averaged(tmp_path):
    rows = [(names_of("e", seed=seed), row_of(right)) for seed, right in enumerate((0.5, 0.7))]
    found = [*table_of(tmp_path, rows).rows.values()]
    both = compare.over_seeds(found)
    assert both.value == pytest.approx(np.mean([compare.headline(row) for row in found]))
    assert both.low < compare.headline(found[0]) and compare.headline(found[1]) < both.high


def test_a_page_says_which_store_a_score_is_of(tmp_path):
    rows = [
        (names_of("e", task="cover", store=store, split=split), row_of(0.7))
        for store, split in (("published", "archive"), ("apart", "blocks:50"))
    ]
    page = table_of(tmp_path, rows).write_page().read_text()
    assert "cover, apart, split blocks:50" in page and "cover, published, split archive" in page


def test_the_page_fits_its_window(tmp_path):
    rows = [
        (names_of(name, fraction=fraction), row_of(0.6 * fraction + 0.2))
        for name in ("imagestats", LONG)
        for fraction in (0.1, 1.0)
    ]
    page = table_of(tmp_path, rows).write_page().read_text()
    assert page.count("<svg") == 1
    browser.check(page.replace("<details>", "<details open>"), tmp_path)
