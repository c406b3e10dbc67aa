"""Tests of recipes: which views a batch gives, that no-data never leaks into them, and what is
drawn how often.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.ndimage
import scipy.stats
from view_recipes import (
    MEAN,
    NODATA,
    SENSOR,
    SIDE,
    STD,
    UPRIGHT,
    WHOLE,
    batch,
    digital_numbers,
    normalised,
    recipe,
    recipe_of,
    trained,
    with_holes,
)

from eo_jax.augment import geometry
from eo_jax.augment.crops import CropSet
from eo_jax.sensors import ENMAP

# Everything at once, in a view of 24 pixels.
ALL = {
    "size": 24,
    "views": 2,
    "flips": "d4",
    "interpolation": "bicubic",
    "gain": (0.8, 1.2),
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "grayscale_prob": 0.2,
    "blur_prob": (1.0, 0.1),
    "solarise_prob": (0.0, 0.2),
    "solarise_threshold": 0.2,
    "noise_std": 0.1,
    "band_drop_prob": 0.5,
    "band_drop": (1, 2),
}


def both(made: dict) -> tuple[np.ndarray, np.ndarray]:
    """(values, validity) [b, H, W, c] of the first view of the one source."""
    assert set(made) == {"three/global", "three/global/valid"}
    return np.asarray(made["three/global"])[:, 0], np.asarray(made["three/global/valid"])[:, 0]


def has_probability(happened: np.ndarray, prob: float) -> bool:
    return scipy.stats.binomtest(int(happened.sum()), happened.size, prob).pvalue > 1e-3


# --- names, shapes, the whole patch


def test_views_have_the_names_shapes_and_types_of_the_schema():
    labelled = batch(digital_numbers(2, 3), label=np.zeros((2, 3, SIDE, SIDE), np.uint8))
    made = recipe_of(
        (("three", SENSOR),),
        (
            ("global", CropSet(views=2, size=12)),
            ("local", CropSet(views=5, size=6, dates="random")),
        ),
    )

    def shapes(views):
        return {name: (array.shape, array.dtype.name) for name, array in views.items()}

    def entries(name, v, side):
        return {
            f"three/{name}": ((2, v, side, side, 3), "float32"),
            f"three/{name}/valid": ((2, v, side, side, 3), "bool"),
            f"three/{name}/label": ((2, v, side, side), "uint8"),
        }

    assert shapes(jax.eval_shape(made.train, labelled, jax.random.key(0))) == entries(
        "global", 2, 12
    ) | entries("local", 5, 6)
    assert shapes(jax.eval_shape(made.evaluate, labelled)) == entries("global", 1, 12)


def test_evaluation_at_the_patchs_own_size_is_normalisation_alone():
    pixels = with_holes()
    value, valid = both(recipe(size=SIDE).evaluate(batch(pixels)))
    np.testing.assert_array_equal(valid, (pixels[:, 0] != NODATA).transpose(0, 2, 3, 1))
    np.testing.assert_allclose(
        value, normalised(pixels).transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6
    )


def test_evaluation_knows_nothing_random_and_shows_the_first_date():
    pixels = np.concatenate([with_holes(), digital_numbers()], axis=1)
    plain, varied = recipe(size=24, interpolation="bicubic"), recipe(**ALL, dates="each")
    jax.tree.map(
        np.testing.assert_array_equal,
        varied.evaluate(batch(pixels)),
        plain.evaluate(batch(with_holes())),
    )


@pytest.mark.parametrize("side", [1, 9])
def test_pixels_and_small_windows_are_shown_as_they_are(side):
    """The recipe for hyperspectral pixels: noise, gain and band drop suffice."""
    pixels = digital_numbers(4)[..., :side, :side]
    plain = {"size": side, "scale": (1.0, 1.0), "flips": "none"}
    np.testing.assert_allclose(
        trained(pixels, **plain)[:, 0], pixels[:, 0].transpose(0, 2, 3, 1), rtol=1e-4
    )
    varied = trained(
        pixels, **plain, gain=(0.9, 1.1), noise_std=0.01, band_drop_prob=1.0, band_drop=(1, 1)
    )
    dropped = (np.abs(varied[:, 0] - MEAN) < 1e-2).all((1, 2))
    np.testing.assert_array_equal(dropped.sum(1), 1)


# --- no-data


@pytest.mark.parametrize("size", [8, 12, 24, 40])
def test_no_data_takes_no_part_in_resizing(size):
    pixels = with_holes()
    value, valid = both(recipe(size=size).evaluate(batch(pixels)))
    for i, image in enumerate(normalised(pixels)):
        expected, expected_valid = reference.resize_where_valid(image, pixels[i, 0] != NODATA, size)
        np.testing.assert_array_equal(valid[i], expected_valid)
        assert np.abs(value[i] - expected).max() < 1e-4 * np.ptp(image)
    assert 0.05 < valid.mean() < 0.95


@pytest.mark.parametrize("code", [np.nan, np.inf, -np.inf, -9999.0])
@pytest.mark.parametrize("fields", [{"size": 24}, ALL], ids=["crop", "everything"])
def test_how_no_data_is_written_changes_nothing(fields, code):
    pixels = with_holes(40)
    coded = np.where(pixels == NODATA, code, pixels).astype(np.float32)
    sensor = SENSOR if not np.isfinite(code) else dataclasses.replace(SENSOR, nodata=code)
    train = recipe_of((("three", sensor),), (("global", CropSet(**fields)),)).train
    expected = recipe(**fields).train(batch(pixels), jax.random.key(8))
    found = train(batch(coded), jax.random.key(8))
    np.testing.assert_array_equal(found["three/global/valid"], expected["three/global/valid"])
    # two programs, whose sums XLA may order differently: a code that leaked would be far off
    np.testing.assert_allclose(found["three/global"], expected["three/global"], atol=1e-5)
    assert (
        np.asarray(expected["three/global"])[~np.asarray(expected["three/global/valid"])] == 0
    ).all()
    assert 0.05 < np.asarray(expected["three/global/valid"]).mean() < 0.95


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("blur_prob", [0.0, 1.0])
def test_a_constant_image_with_holes_stays_constant(interpolation, blur_prob):
    pixels = np.where(with_holes(40) == NODATA, NODATA, 2000).astype(np.int16)
    made = trained(pixels, size=24, interpolation=interpolation, blur_prob=blur_prob)
    assert 0.05 < np.isfinite(made).mean() < 0.95
    np.testing.assert_allclose(made[np.isfinite(made)], 2000, rtol=1e-4)


def test_bilinear_views_never_leave_the_range_of_the_data():
    pixels = with_holes(40)
    value, valid = both(recipe(size=24).train(batch(pixels), jax.random.key(9)))
    data = normalised(pixels)
    low, high = (edge[:, None, None] for edge in (data.min(axis=(2, 3)), data.max(axis=(2, 3))))
    assert (~valid | ((value >= low - 1e-4) & (value <= high + 1e-4))).all()


def test_bicubic_views_are_valid_where_next_to_all_of_the_kernels_weight_is():
    pixels = with_holes(1)
    _, valid = both(recipe(size=24, interpolation="bicubic").evaluate(batch(pixels)))
    share = np.abs(
        np.asarray(
            geometry.make_taps(jnp.asarray(0), jnp.asarray(SIDE), 24, "bicubic").matrix(SIDE)
        )
    )
    share = share / share.sum(1, keepdims=True)
    expected = np.einsum("ih,chw,jw->ijc", share, pixels[0, 0] != NODATA, share) >= 0.999
    np.testing.assert_array_equal(valid[0], expected)


def test_blur_weighs_valid_neighbours_only_and_keeps_what_is_valid():
    pixels = with_holes()
    made = trained(pixels, **UPRIGHT, blur_prob=1.0, blur_sigma=(1.2, 1.2), blur_kernel=7)[:, 0]
    valid = (pixels[:, 0] != NODATA).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.isfinite(made), valid)

    def blurred(image):
        return scipy.ndimage.gaussian_filter(
            image.astype(float), 1.2, mode="mirror", radius=3, axes=(1, 2)
        )

    data = np.where(valid, pixels[:, 0].transpose(0, 2, 3, 1), 0)
    np.testing.assert_allclose(
        made[valid], (blurred(data) / np.maximum(blurred(valid), 1e-9))[valid], rtol=1e-4
    )


def test_sources_that_cannot_lack_data_are_valid_everywhere_and_cropped_the_same():
    pixels = digital_numbers().astype(np.uint16)
    sure = recipe_of(
        (("three", dataclasses.replace(SENSOR, nodata=None)),), (("global", CropSet(**ALL)),)
    ).train(batch(pixels), jax.random.key(0))
    unsure = recipe(**ALL).train(batch(pixels), jax.random.key(0))
    assert sure["three/global/valid"].all() and unsure["three/global/valid"].all()
    np.testing.assert_allclose(sure["three/global"], unsure["three/global"], atol=1e-4)


# --- draws


def test_the_first_view_is_drawn_as_it_always_was():
    """What the demo's figures rest on: keys of box and flips, in a split of the key of the
    source.
    """
    pixels, key = digital_numbers(3), jax.random.key(5)
    value, _ = both(recipe(size=12).train(batch(pixels), key))
    box_key, flip_key, _ = jax.random.split(jax.random.fold_in(key, 0), 3)
    boxes = np.asarray(geometry.random_boxes(box_key, 3, SIDE, SIDE, (0.4, 1.0), (3 / 4, 4 / 3)))
    flips = np.asarray(jax.random.bernoulli(flip_key, np.array([0.5, 0.5, 0.0]), (3, 3)))
    for i, image in enumerate(normalised(pixels)):
        assert np.abs(
            value[i] - reference.crop_resize_flip(image, boxes[i], flips[i], 12)
        ).max() < 1e-4 * np.ptp(image)


def test_training_is_a_function_of_the_key():
    pixels, train = digital_numbers(40), recipe(**ALL).train
    first = train(batch(pixels), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, train(batch(pixels), jax.random.key(0)), first)
    assert (
        np.abs(
            train(batch(pixels), jax.random.key(1))["three/global"] - first["three/global"]
        ).max()
        > 0.1
    )


def test_views_of_a_row_are_drawn_independently():
    made = trained(digital_numbers(40), size=24, views=3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(made[:, i] - made[:, j]).max((1, 2, 3)) > 100).mean() > 0.95


SYMMETRIES = {
    "none": [lambda image: image],
    "left_right": [lambda image: image, lambda image: image[:, ::-1]],
}
SYMMETRIES["both"] = SYMMETRIES["left_right"] + [
    lambda image: image[::-1],
    lambda image: image[::-1, ::-1],
]
SYMMETRIES["d4"] = SYMMETRIES["both"] + [
    lambda image, turn=turn: turn(image).swapaxes(0, 1) for turn in SYMMETRIES["both"]
]


@pytest.mark.parametrize("flips", SYMMETRIES)
def test_views_are_turned_all_ways_equally_often(flips):
    pixels = digital_numbers(1).repeat(400, axis=0)
    made = trained(pixels, **WHOLE, flips=flips)[:, 0]
    turned = np.stack([symmetry(pixels[0, 0].transpose(1, 2, 0)) for symmetry in SYMMETRIES[flips]])
    matches = np.abs(made[:, None] - turned).max(axis=(2, 3, 4)) < 0.1
    assert (matches.sum(axis=1) == 1).all()
    assert len(turned) == 1 or scipy.stats.chisquare(matches.sum(axis=0)).pvalue > 1e-3


@pytest.mark.parametrize("field", ["gain", "brightness"])
def test_a_factor_on_physical_values_is_drawn_evenly_for_each_view(field):
    pixels = np.full((200, 1, 3, SIDE, SIDE), 2000, np.int16)
    pixels[:, :, :, 3, 4] = NODATA
    factors = trained(pixels, 11, size=8, views=2, **{field: (0.5, 1.5)}).reshape(400, -1) / 2000
    assert (np.nanmax(factors, axis=1) - np.nanmin(factors, axis=1) < 1e-5).all()
    assert (
        scipy.stats.kstest(np.nanmean(factors, axis=1), scipy.stats.uniform(0.5, 1.0).cdf).pvalue
        > 1e-3
    )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("jitter_prob", {"brightness": (0.5, 0.7), "contrast": (1.2, 1.4)}),
        ("grayscale_prob", {}),
        ("blur_prob", {"blur_sigma": (1.0, 2.0), "blur_kernel": 5}),
        ("solarise_prob", {"solarise_threshold": 0.3}),
        ("band_drop_prob", {"band_drop": (1, 2)}),
    ],
)
def test_probabilities_hold_for_each_view(name, fields):
    pixels = digital_numbers(300)
    made = trained(pixels, **UPRIGHT, views=3, **{name: (1.0, 0.25, 0.0)}, **fields)
    changed = np.abs(made - pixels.transpose(0, 1, 3, 4, 2)).max((2, 3, 4)) > 1
    assert changed[:, 0].all() and not changed[:, 2].any()
    assert has_probability(changed[:, 1], 0.25)


def test_brightness_and_contrast_come_together():
    pixels = digital_numbers(300)
    made = trained(pixels, **UPRIGHT, jitter_prob=0.5, brightness=(0.5, 0.5), contrast=(0.5, 0.5))[
        :, 0
    ]
    spread = made.std((1, 2)) / pixels[:, 0].std((2, 3))
    both_ways = np.isclose(spread, 0.25, rtol=1e-3).all(1)
    assert (both_ways | np.isclose(spread, 1, rtol=1e-3).all(1)).all()
    assert has_probability(both_ways, 0.5)


def test_additive_brightness_and_contrast_come_apart_and_clip_to_the_physical_range():
    """Reflectance 0..1 is 0..10000 here."""
    pixels = digital_numbers(300)
    made = trained(
        pixels,
        **UPRIGHT,
        jitter="additive",
        jitter_prob=0.5,
        brightness=(0.7, 0.7),
        contrast=(3.0, 3.0),
    )[:, 0]
    x = pixels[:, 0].transpose(0, 2, 3, 1) / 10_000
    darker, stretched = np.clip(x - 0.3, 0, 1), np.clip(3 * x, 0, 1)
    ways = [x, darker, stretched, np.clip(3 * darker, 0, 1)]
    found = np.stack([np.abs(made / 10_000 - way).max((1, 2, 3)) < 1e-4 for way in ways])
    assert (found.sum(0) == 1).all()
    assert all(has_probability(way, 0.25) for way in found)


def test_how_many_bands_are_dropped_is_drawn_from_the_range():
    made = trained(digital_numbers(600), **UPRIGHT, band_drop_prob=1.0, band_drop=(1, 2))
    count = (np.abs(made - MEAN) < 1e-2).all((1, 2, 3)).sum(1)
    assert set(count) == {1, 2} and has_probability(count == 2, 0.5)


@pytest.mark.parametrize(
    "off",
    [
        {"jitter_prob": 0.0, "brightness": (0.5, 1.5), "contrast": (0.5, 1.5)},
        {"jitter": "additive"},
        {"grayscale_prob": 0.0},
        {"blur_prob": (0.0, 0.0), "blur_kernel": 5},
        {"solarise_prob": (0.0, 0.0), "solarise_threshold": 0.1},
        {"band_drop_prob": 0.0, "band_drop": (1, 2)},
        {"gain": (1.0, 1.0), "brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "noise_std": 0.0},
    ],
)
def test_what_is_switched_off_is_not_even_compiled(off):
    def lowered(**fields):
        return (
            recipe(views=2, size=12, **fields)
            .train.lower(batch(digital_numbers()), jax.random.key(0))
            .as_text()
        )

    assert lowered(**off) == lowered()


# --- the order of operations


def test_values_change_in_the_published_order():
    """Brightness on reflectance (DN + 1000 here), grey, blur, solarise: blur lies in the crop, and
    must come out as if it did not.
    """
    sensor = dataclasses.replace(SENSOR, offset=-0.1, nodata=None)
    fields = {
        "brightness": (1.3, 1.3),
        "grayscale_prob": 1.0,
        "blur_prob": 1.0,
        "blur_sigma": (0.9, 0.9),
        "blur_kernel": 5,
        "solarise_prob": 1.0,
    }
    crop = CropSet(**UPRIGHT, **fields, solarise_threshold=0.2)
    pixels = digital_numbers()
    made = recipe_of((("three", sensor),), (("global", crop),)).train(
        batch(pixels), jax.random.key(0)
    )["three/global"][:, 0]
    bright = (pixels[:, 0].transpose(0, 2, 3, 1) * 1e-4 - 0.1) * 1.3
    z = ((bright + 0.1) * 1e4 - MEAN) / STD
    grey = np.broadcast_to(z.mean(-1, keepdims=True), z.shape)
    blurred = scipy.ndimage.gaussian_filter(grey, 0.9, mode="mirror", radius=2, axes=(1, 2))
    reflectance = (blurred * STD + MEAN) * 1e-4 - 0.1
    solarised = np.where(reflectance >= 0.2, 1 - np.clip(reflectance, 0, 1), reflectance)
    assert 0.1 < (reflectance >= 0.2).mean() < 0.9
    np.testing.assert_allclose(made, ((solarised + 0.1) * 1e4 - MEAN) / STD, atol=1e-3)


def test_contrast_is_about_the_mean_of_the_view():
    pixels = with_holes()
    made = trained(pixels, **UPRIGHT, contrast=(0.5, 0.5))[:, 0]
    data = np.ma.masked_equal(pixels[:, 0].transpose(0, 2, 3, 1), NODATA).astype(float)
    mean = data.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(made, (mean + 0.5 * (data - mean)).filled(np.nan), rtol=1e-4)


def test_all_202_bands_at_once():
    pixels = np.random.default_rng(0).integers(200, 5000, (2, 1, 202, SIDE, SIDE)).astype(np.int16)
    pixels[0, 0, :, 4:7] = pixels[1, 0, 30] = NODATA
    made = recipe_of((("enmap", ENMAP),), (("global", CropSet(**ALL)),)).train(
        {"enmap": {"pixels": jnp.asarray(pixels)}}, jax.random.key(0)
    )
    value, valid = np.asarray(made["enmap/global"]), np.asarray(made["enmap/global/valid"])
    assert value.shape == valid.shape == (2, 2, 24, 24, 202)
    assert np.isfinite(value).all() and (value[~valid] == 0).all()
    assert not valid[1, :, :, :, 30].any() and valid[1, :, :, :, 29].all()
