"""Tests of how `eo_jax.embed` cuts scenes, blends views, and keeps what is finished."""

from __future__ import annotations

import numpy as np
import pytest

from eo_jax.embed import quantise
from eo_jax.embed.blending import Strip, ramp, view_weights
from eo_jax.embed.dense import Map
from eo_jax.embed.scratch import Scratch
from eo_jax.embed.tiles import Grid, make_grid, starts


@pytest.mark.parametrize(("side", "overlap"), [(1, 0), (4, 0), (4, 1), (4, 2), (7, 3)])
def test_views_cover_every_token_and_overlap_as_asked(side, overlap):
    for length in range(1, 30):
        found = starts(length, side, overlap)
        covered = {start + k for start in found for k in range(side)}
        assert covered >= set(range(length))
        assert found[0] == 0 and found == tuple(sorted(set(found)))
        assert all(start + side <= max(length, side) for start in found)
        steps = np.diff(found)
        assert (steps[:-1] == side - overlap).all() and (steps <= side - overlap).all()


def test_a_scene_that_patches_do_not_divide_has_a_token_for_its_rest():
    assert make_grid(33, 16, 16, 4, 1)[:2] == (3, 1)


def test_the_ramp_is_linear_and_flat_in_the_middle():
    np.testing.assert_allclose(ramp(7, 2), [1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(ramp(3, 0), [1, 1, 1])


def blended(grid: Grid, views: dict, width: int, done: int = 0) -> list[np.ndarray]:
    """What is made of views {(row, column): [side, side, d]} after `done` rows of views."""
    begin = grid.first_needed(done)
    strip, top, found = Strip(grid.columns, grid.side, grid.overlap, width), None, []
    for k in range(begin, len(grid.row_starts)):
        top = grid.row_starts[k]
        for column in grid.column_starts:
            has_data = np.ones((grid.side, grid.side), bool)
            strip.add(column, views[top, column], has_data)
        rows = strip.take(grid.finished_rows(k + 1) - top, grid.columns)
        found += [rows] if k >= done else []
    return found


@pytest.mark.parametrize("grid", [Grid(11, 9, 4, 2), Grid(13, 3, 4, 1), Grid(8, 8, 4, 0)])
def test_a_token_is_the_weighted_mean_of_all_views_that_have_it(grid):
    rng = np.random.default_rng(0)
    at = [(row, column) for row in grid.row_starts for column in grid.column_starts]
    views = {key: rng.normal(size=(grid.side, grid.side, 2)).astype(np.float32) for key in at}
    shape = [max(size, grid.side) for size in (grid.rows, grid.columns)]
    sums, total, weights = np.zeros((*shape, 2)), np.zeros(shape), view_weights(*grid[2:])
    for (row, column), view in views.items():
        part = np.s_[row : row + grid.side, column : column + grid.side]
        sums[part] += weights[..., None] * view
        total[part] += weights
    expected = (sums / total[..., None])[: grid.rows, : grid.columns]
    whole = np.concatenate(blended(grid, views, 2))
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    for done in range(1, len(grid.row_starts)):  # going on gives the same bytes
        rest = np.concatenate(blended(grid, views, 2, done))
        np.testing.assert_array_equal(rest, whole[grid.finished_rows(done) :])


def test_tokens_without_data_are_nan_whatever_the_encoder_says():
    strip = Strip(3, 2, 0, 1)
    has_data = np.array([[True, False], [True, True]])
    strip.add(0, np.ones((2, 2, 1), np.float32), has_data)
    np.testing.assert_array_equal(strip.take(2, 3)[..., 0], [[1, np.nan, np.nan], [1, 1, np.nan]])


def test_what_is_finished_stays_and_what_is_not_is_made_again(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    first = Scratch(tmp_path, {"batch": 1}, 2)
    first.append(rows[:2], [{"file": "a"}])
    with open(tmp_path / "rows.f32", "ab") as file:
        file.write(b"half a row")
    with open(tmp_path / "notes.jsonl", "ab") as file:
        file.write(b'{"file": "half')
    again = Scratch(tmp_path, {"batch": 1}, 2)
    assert (again.done, again.rows, again.set_aside) == (1, 2, "")
    again.append(rows[2:], [{"file": "b"}])
    np.testing.assert_array_equal(again.read(0, 3, 0, 2), rows)
    np.testing.assert_array_equal(again.read(1, 2, 1, 1), rows[1:, 1:])
    assert again.notes() == [{"file": "a"}, {"file": "b"}]
    assert (tmp_path / "rows.f32").stat().st_size == rows.nbytes


def test_rows_of_other_settings_are_not_mixed_in_and_it_is_said(tmp_path, capsys):
    Scratch(tmp_path, {"batch": 1}, 2).append(np.ones((1, 2)))
    other = Scratch(tmp_path, {"batch": 2}, 2)
    assert (other.done, other.rows) == (0, 0)
    assert "earlier command left is not used: other batch" in capsys.readouterr().out


def test_rows_that_a_copy_lost_are_made_again(tmp_path):
    Scratch(tmp_path, {}, 2).append(np.ones((4, 2)))
    (tmp_path / "rows.f32").write_bytes(b"\0" * 8)
    assert Scratch(tmp_path, {}, 2).done == 0


def test_int8_is_within_half_a_step_and_keeps_no_data():
    values = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    values *= np.array([0.01, 1, 100], np.float32)
    values[0, 0] = np.nan
    made = Map(5, 6, 3, None, None, {}, lambda r, c, h, w: values[r : r + h, c : c + w])
    scales = quantise.scales_of(made)
    found = quantise.to_int8(values, scales)
    assert (found[0, 0] == quantise.NODATA).all() and (found[1:] > quantise.NODATA).all()
    error = np.abs(found.astype(np.float32) * scales - values)
    assert (error[1:] <= 0.501 * scales).all()
    np.testing.assert_allclose(scales, np.nanmax(np.abs(values), (0, 1)) / 127, rtol=1e-6)
