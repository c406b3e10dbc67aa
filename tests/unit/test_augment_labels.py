"""Tests of recipes: dates, labels that lie where pixels lie, and sources that do not depend on one
another.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from view_recipes import (
    MEAN,
    NODATA,
    SENSOR,
    SIDE,
    STD,
    UPRIGHT,
    batch,
    digital_numbers,
    recipe,
    recipe_of,
    trained,
    with_holes,
)

from eo_jax.augment.crops import CropSet
from eo_jax.sensors import get_sensor

# --- dates


def shown_dates(dates: str, views_: int, t: int, count: int = 300) -> np.ndarray:
    """[b, v]: which date each view shows."""
    pixels = np.broadcast_to(
        1000 * (1 + np.arange(t, dtype=np.int16))[:, None, None, None], (count, t, 3, SIDE, SIDE)
    )
    made = trained(pixels, size=4, views=views_, dates=dates)
    return (made.mean((2, 3, 4)) / 1000).round().astype(int) - 1


def test_the_first_date():
    assert (shown_dates("first", 2, 3) == 0).all()


def test_each_date_in_turn():
    assert (shown_dates("each", 5, 3) == [0, 1, 2, 0, 1]).all()


def test_one_random_date_for_all_views_of_a_row():
    found = shown_dates("shared", 3, 4)
    assert (found == found[:, :1]).all()
    assert scipy.stats.chisquare(np.bincount(found[:, 0], minlength=4)).pvalue > 1e-3


def test_a_random_date_for_each_view():
    found = shown_dates("random", 2, 4)
    assert (
        scipy.stats.chisquare(np.bincount(found[:, 0] * 4 + found[:, 1], minlength=16)).pvalue
        > 1e-3
    )


# --- labels


def coordinates(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [b, 1, 3, h, w] that say in which row and column they are, and labels [b, 1, h, w] = 1
    + row * SIDE + column.
    """
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([100 * rows, 100 * columns, 0 * rows]).astype(np.int16)
    return np.broadcast_to(pixels, (count, 1, 3, SIDE, SIDE)), np.broadcast_to(
        1 + rows * SIDE + columns, (count, 1, SIDE, SIDE)
    ).astype(np.int32)


@pytest.mark.parametrize("size", [9, 40])
def test_label_maps_lie_where_their_pixels_lie(size):
    pixels, label = coordinates(60)
    made = recipe(size=size, views=2, flips="d4").train(
        batch(pixels, label=label), jax.random.key(3)
    )
    row, column = (
        ((np.asarray(made["three/global"]) * STD + MEAN) / 100)[..., 0],
        ((np.asarray(made["three/global"]) * STD + MEAN) / 100)[..., 1],
    )
    label_row, label_column = np.divmod(np.asarray(made["three/global/label"]) - 1, SIDE)
    assert made["three/global/label"].dtype == jnp.int32
    assert (
        np.abs(label_row - row).max() <= 0.5 + 1e-3
        and np.abs(label_column - column).max() <= 0.5 + 1e-3
    )
    assert len(np.unique(label_row[:, :, 0, 0])) > 3  # crops and flips did happen


def test_labels_of_views_without_data_are_unlabelled():
    pixels, label = with_holes(), np.ones((2, 1, SIDE, SIDE), np.uint8)
    for made in (
        recipe(**UPRIGHT).train(batch(pixels, label=label), jax.random.key(0)),
        recipe(**UPRIGHT).evaluate(batch(pixels, label=label)),
    ):
        expected = (pixels[:, 0] != NODATA).any(1)
        assert not expected.all() and made["three/global/label"].dtype == jnp.uint8
        np.testing.assert_array_equal(made["three/global/label"][:, 0], expected)


@pytest.mark.parametrize("dates", ["first", "random"])
def test_labels_are_those_of_the_date_shown(dates):
    pixels = jnp.broadcast_to(
        1000 * (1 + jnp.arange(3, dtype=jnp.int16))[:, None, None, None], (40, 3, 3, SIDE, SIDE)
    )
    vectors = np.broadcast_to(np.array([[1, 10], [2, 20], [3, 30]], np.float32), (40, 3, 2))
    labels = {
        "map": np.broadcast_to(np.arange(1, 4)[:, None, None], (40, 3, SIDE, SIDE)),
        "vector": vectors,
        "number": vectors[:, :, 0],
    }
    made = recipe_of(
        tuple((name, SENSOR) for name in labels),
        (("global", CropSet(size=4, views=2, dates=dates)),),
    )
    found = made.train(
        {name: {"pixels": pixels, "label": jnp.asarray(label)} for name, label in labels.items()},
        jax.random.key(2),
    )
    for name, side in (("map", (4, 4)), ("vector", (2,)), ("number", ())):
        shown = ((np.asarray(found[f"{name}/global"]) * STD + MEAN)[:, :, 0, 0, 0] / 1000).round()
        assert found[f"{name}/global/label"].shape == (40, 2, *side)
        np.testing.assert_array_equal(
            np.asarray(found[f"{name}/global/label"]).reshape(40, 2, -1)[:, :, 0], shown
        )


def test_a_label_without_dates_is_refused():
    with pytest.raises(
        ValueError,
        match=r"views 'three/global': label is \(2, 16, 16\), its pixels \(2, 1, 3, 16, 16\); "
        r"expected \[b, t, \.\.\.\]",
    ):
        recipe(size=12).evaluate(
            batch(digital_numbers(), label=np.zeros((2, SIDE, SIDE), np.uint8))
        )


# --- sources and crop sets


S1 = get_sensor("sentinel1_grd_v1_1")


def decibels(count: int = 4) -> np.ndarray:
    pixels = np.random.default_rng(3).normal(-15, 5, (count, 1, 2, SIDE, SIDE)).astype(np.float16)
    pixels[:, :, :, 5, 5:9] = np.nan
    return pixels


def test_a_sources_views_do_not_depend_on_the_others():
    mixture = recipe_of((("a", SENSOR), ("z", S1)), (("global", CropSet(size=12)),))
    fields = {"a": batch(digital_numbers())["three"], "z": {"pixels": jnp.asarray(decibels(2))}}
    together = mixture.train(fields, jax.random.key(4))
    alone = mixture.train({"z": fields["z"]}, jax.random.key(4))
    assert {name.split("/")[0] for name in together} == {"a", "z"}
    assert (
        {name.split("/")[0] for name in alone}
        == {"z"}
        == {name.split("/")[0] for name in mixture.evaluate({"z": fields["z"]})}
    )
    for name, array in alone.items():
        np.testing.assert_array_equal(array, together[name])


def test_another_crop_set_changes_nothing_in_the_first():
    pixels, key = batch(digital_numbers()), jax.random.key(4)
    one, two = CropSet(size=12), CropSet(size=12)
    made = recipe_of((("three", SENSOR),), (("local", two), ("global", one))).train(pixels, key)
    np.testing.assert_array_equal(
        made["three/global"], recipe(size=12).train(pixels, key)["three/global"]
    )
    assert np.abs(made["three/global"] - made["three/local"]).max() > 0.1
    assert zlib.crc32(b"local") > 1000  # far from the small numbers that other draws fold in


def test_a_sources_own_crop_set():
    """DeCUR: two views of Sentinel-1 without brightness, which decibels do not have, beside
    Sentinel-2 with it.
    """
    sources = (("s1", S1), ("s2", SENSOR))
    jittered = CropSet(**UPRIGHT, views=2, brightness=(2.0, 2.0))
    made = recipe_of(
        sources,
        (("global", jittered), ("s1/global", CropSet(**UPRIGHT, views=2, grayscale_prob=1.0))),
    )
    pixels = {"s1": {"pixels": jnp.asarray(decibels(2))}, "s2": batch(digital_numbers())["three"]}
    found = made.train(pixels, jax.random.key(0))
    s2 = np.asarray(found["s2/global"]) * STD + MEAN
    np.testing.assert_allclose(
        s2, np.repeat(2.0 * digital_numbers().transpose(0, 1, 3, 4, 2), 2, axis=1), rtol=1e-4
    )
    np.testing.assert_array_equal(found["s1/global"][..., 0], found["s1/global"][..., 1])
    np.testing.assert_array_equal(
        found["s1/global/valid"],
        np.isfinite(decibels(2).transpose(0, 1, 3, 4, 2)).repeat(2, axis=1),
    )


def test_decibels_are_stretched_blurred_and_noisy_but_finite():
    crop = CropSet(
        size=24, views=2, contrast=(0.6, 1.4), grayscale_prob=0.5, blur_prob=1.0, noise_std=0.1
    )
    made = recipe_of((("s1", S1),), (("global", crop),)).train(
        {"s1": {"pixels": jnp.asarray(decibels())}}, jax.random.key(0)
    )
    value, valid = np.asarray(made["s1/global"]), np.asarray(made["s1/global/valid"])
    assert np.isfinite(value).all() and (value[~valid] == 0).all() and 0.5 < valid.mean() < 1
    assert value[valid].std() > 0.1
