"""Tests of `eo_jax.augment`: geometry against loops, boxes against torchvision's procedure, and no-data that never leaks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats

from eo_jax.augment import geometry, radiometry, views
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

NODATA = -32768
MEAN, STD = np.array([1000.0, 1500.0, 2200.0]), np.array([300.0, 450.0, 700.0])
SENSOR = dataclasses.replace(ENMAP, id="three", bands=ENMAP.bands[:3], mean=tuple(MEAN), std=tuple(STD), nodata=NODATA)
SIDE = 16

draw_boxes = jax.jit(geometry.random_boxes, static_argnums=(1, 2, 3, 4, 5))
crop_resize_flip = jax.jit(geometry.crop_resize_flip, static_argnums=3)


# --- crop, resize, flip


BOXES = np.array([[0, 0, 13, 17], [2, 3, 7, 11], [12, 16, 1, 1], [5, 0, 1, 17], [0, 9, 13, 1], [6, 8, 4, 9]])
FLIPS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(1500, 800, (6, 3, 13, 17)).astype(np.float32)


@pytest.mark.parametrize("out", [4, 9, 32])
def test_crop_resize_flip_is_cut_out_then_resize_then_flip(images, out):
    found = np.asarray(crop_resize_flip(images, BOXES, FLIPS, out))
    assert found.shape == (6, out, out, 3)
    for i in range(len(images)):
        expected = reference.crop_resize_flip(images[i], BOXES[i], FLIPS[i], out)
        assert np.abs(found[i] - expected).max() < 1e-4 * np.ptp(images[i]), f"box {BOXES[i]}"


@pytest.mark.parametrize("out", [4, 9, 32])
def test_resizing_is_torchs_bilinear_interpolation(images, out):
    torch = pytest.importorskip("torch")
    found = np.asarray(crop_resize_flip(images, BOXES, np.zeros_like(FLIPS), out))
    for i, (top, left, rows, columns) in enumerate(BOXES):
        box = torch.from_numpy(images[i : i + 1, :, top : top + rows, left : left + columns].copy())
        expected = torch.nn.functional.interpolate(box, size=(out, out), mode="bilinear", align_corners=False)[0]
        assert np.abs(found[i] - expected.permute(1, 2, 0).numpy()).max() < 1e-4 * np.ptp(images[i])


def test_pixels_outside_the_box_take_no_part(images):
    box, flips = np.array([[2, 3, 7, 11]]), np.zeros((1, 3), bool)
    outside = np.full_like(images[:1], 1e6)
    outside[:, :, 2:9, 3:14] = images[:1, :, 2:9, 3:14]
    np.testing.assert_array_equal(crop_resize_flip(outside, box, flips, 9), crop_resize_flip(images[:1], box, flips, 9))


SYMMETRIES = {
    (False, False, False): lambda image: image,
    (True, False, False): lambda image: image[::-1],
    (False, True, False): lambda image: image[:, ::-1],
    (True, True, False): lambda image: image[::-1, ::-1],
    (False, False, True): lambda image: image.swapaxes(0, 1),
    (True, False, True): lambda image: image[::-1].swapaxes(0, 1),
    (False, True, True): lambda image: image[:, ::-1].swapaxes(0, 1),
    (True, True, True): lambda image: image[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize(("flips", "symmetry"), SYMMETRIES.items())
def test_the_whole_box_at_its_own_size_is_a_pure_flip_bit_for_bit(flips, symmetry):
    square = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    found = crop_resize_flip(square, geometry.whole_boxes(1, 8, 8), np.array([flips]), 8)
    np.testing.assert_array_equal(found[0], symmetry(square[0].transpose(1, 2, 0)))


# --- boxes


@pytest.fixture(scope="module", params=[(64, 64, (0.2, 1.0), (3 / 4, 4 / 3)), (40, 64, (0.08, 0.7), (0.5, 1.5))], ids=["square", "wide"])
def drawn(request) -> tuple[np.ndarray, tuple]:
    """4000 boxes, and (height, width, scale, ratio)."""
    return np.asarray(draw_boxes(jax.random.key(1), 4000, *request.param)), request.param


def test_boxes_keep_to_the_image_and_to_their_ranges(drawn):
    boxes, (height, width, scale, ratio) = drawn
    top, left, rows, columns = boxes.T
    assert boxes.shape == (4000, 4)
    assert (top >= 0).all() and (left >= 0).all() and (rows >= 1).all() and (columns >= 1).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()
    # Sides are rounded to whole pixels, so a box is in range where one within half a pixel of it is.
    assert ((rows + 0.5) * (columns + 0.5) >= scale[0] * height * width).all()
    assert ((rows - 0.5) * (columns - 0.5) <= scale[1] * height * width).all()
    assert ((columns + 0.5) / (rows - 0.5) >= ratio[0]).all()
    assert ((columns - 0.5) / (rows + 0.5) <= ratio[1]).all()


def test_boxes_are_distributed_as_torchvisions(drawn):
    boxes, arguments = drawn
    expected = reference.random_resized_crops(np.random.default_rng(3), 4000, *arguments)
    for name, quantity in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
    }.items():
        assert scipy.stats.ks_2samp(quantity(boxes), quantity(expected)).pvalue > 1e-3, name


def test_boxes_are_a_function_of_the_key(drawn):
    boxes, arguments = drawn
    np.testing.assert_array_equal(draw_boxes(jax.random.key(1), 4000, *arguments), boxes)
    assert (np.asarray(draw_boxes(jax.random.key(5), 4000, *arguments)) != boxes).any(axis=1).mean() > 0.9
    assert len(np.unique(boxes, axis=0)) > 2000


@pytest.mark.parametrize(("height", "width", "expected"), [(16, 128, (0, 53, 16, 21)), (128, 16, (53, 0, 21, 16))])
def test_where_no_box_fits_it_is_the_largest_central_one(height, width, expected):
    boxes = draw_boxes(jax.random.key(3), 5, height, width, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(boxes, [expected] * 5)


# --- normalisation


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float16", "float32"])
def test_normalise_in_the_archives_dtype(dtype):
    nodata = 0 if dtype.startswith("u") else NODATA
    pixels = np.random.default_rng(0).integers(1, 250, (2, 3, 4, 4)).astype(dtype)
    pixels[0, 1, 2, 3] = pixels[1, :, 0, 0] = nodata
    gain = np.array([1, 1.25], np.float32)
    found, valid = radiometry.normalise(jnp.asarray(pixels), jnp.asarray(gain), MEAN, STD, nodata)
    np.testing.assert_array_equal(valid, pixels != nodata)
    scaled = gain[:, None, None, None] * pixels.astype(float)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.where(valid, (scaled - MEAN[:, None, None]) / STD[:, None, None], 0), rtol=1e-6)


@pytest.mark.parametrize("value", [NODATA, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gain", [1.0, 0.8])
def test_values_that_are_no_data(value, gain):
    pixels = np.full((1, 3, 2, 2), 1234, np.float32)
    pixels[0, 1, 0, 1] = value
    found, valid = radiometry.normalise(jnp.asarray(pixels), jnp.array([gain]), MEAN, STD, NODATA)
    assert np.asarray(valid).sum() == 11 and not valid[0, 1, 0, 1]
    assert found[0, 1, 0, 1] == 0 and np.isfinite(found).all()


def test_published_statistics_are_the_sensor_tables():
    found = views.normalisation("published", ENMAP, {"mean": MEAN, "std": STD})
    np.testing.assert_array_equal(found.mean, ENMAP.mean)
    np.testing.assert_array_equal(found.std, ENMAP.std)


def test_the_stores_statistics_are_the_stores():
    found = views.normalisation("store", SENSOR, {"mean": MEAN + 1, "std": STD + 1})
    np.testing.assert_array_equal(found.mean, MEAN + 1)
    np.testing.assert_array_equal(found.std, STD + 1)


@pytest.mark.parametrize(
    ("statistics", "sensor", "stored", "message"),
    [
        ("published", ENMAP_PRODUCT, {"mean": MEAN, "std": STD}, "use 'store'"),
        ("store", SENSOR, None, "has no statistics"),
        ("store", SENSOR, {"mean": MEAN, "std": [1.0, 0.0, 1.0]}, "B2"),
    ],
)
def test_statistics_that_do_not_exist_are_refused(statistics, sensor, stored, message):
    with pytest.raises(ValueError, match=message):
        views.normalisation(statistics, sensor, stored)


# --- views


@functools.cache
def recipe(**fields) -> views.Recipe:
    """Compiled once for all tests that use it."""
    made = views.make_recipe(views.Config(**fields), {"three": (SENSOR, views.Normalisation(MEAN, STD, "test"))})
    return views.Recipe(jax.jit(made.train), jax.jit(made.evaluate))


def digital_numbers(count: int = 2) -> np.ndarray:
    return np.random.default_rng(6).integers(200, 5000, (count, 1, 3, SIDE, SIDE)).astype(np.int16)


def with_holes(count: int = 2) -> np.ndarray:
    """A block and a column without any data, and values of single bands."""
    pixels = digital_numbers(count)
    pixels[..., 3:7, 4:9] = NODATA
    pixels[..., 12] = NODATA
    pixels[np.random.default_rng(7).random(pixels.shape) < 0.05] = NODATA
    return pixels


def normalised(pixels: np.ndarray) -> np.ndarray:
    """[b, 1, c, h, w] -> [b, c, h, w]"""
    return np.where(pixels == NODATA, 0, (pixels.astype(float) - MEAN[:, None, None]) / STD[:, None, None])[:, 0]


def batch(pixels: np.ndarray) -> dict:
    return {"three": {"pixels": jnp.asarray(pixels)}}


def both(made: dict) -> tuple[np.ndarray, np.ndarray]:
    """(values, validity) [b, H, W, c] of the one view of the one source."""
    assert set(made) == {"three/global", "three/global/valid"}
    return np.asarray(made["three/global"])[:, 0], np.asarray(made["three/global/valid"])[:, 0]


def test_views_have_the_names_shapes_and_types_of_the_schema():
    made = recipe(size=12)
    for found in (jax.eval_shape(made.evaluate, batch(digital_numbers())), jax.eval_shape(made.train, batch(digital_numbers()), jax.random.key(0))):
        assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
            "three/global": ((2, 1, 12, 12, 3), jnp.float32),
            "three/global/valid": ((2, 1, 12, 12, 3), jnp.bool_),
        }


def test_evaluation_at_the_patchs_own_size_is_normalisation_alone():
    pixels = with_holes()
    value, valid = both(recipe(size=SIDE).evaluate(batch(pixels)))
    np.testing.assert_array_equal(valid, (pixels[:, 0] != NODATA).transpose(0, 2, 3, 1))
    np.testing.assert_allclose(value, normalised(pixels).transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [8, 12, 24, 40])
def test_no_data_takes_no_part_in_resizing(size):
    pixels = with_holes()
    value, valid = both(recipe(size=size).evaluate(batch(pixels)))
    for i, image in enumerate(normalised(pixels)):
        expected, expected_valid = reference.resize_where_valid(image, pixels[i, 0] != NODATA, size)
        np.testing.assert_array_equal(valid[i], expected_valid)
        assert np.abs(value[i] - expected).max() < 1e-4 * np.ptp(image)
    assert 0.05 < valid.mean() < 0.95


@pytest.mark.parametrize("code", [np.nan, np.inf, -np.inf])
def test_how_no_data_is_written_changes_nothing(code):
    pixels, made = with_holes(40), recipe(size=24)
    coded = np.where(pixels == NODATA, code, pixels).astype(np.float32)
    expected = made.train(batch(pixels), jax.random.key(8))
    jax.tree.map(np.testing.assert_array_equal, made.train(batch(coded), jax.random.key(8)), expected)


def test_no_data_never_leaks_through_random_crops():
    pixels = with_holes(40)
    value, valid = both(recipe(size=24).train(batch(pixels), jax.random.key(9)))
    data = normalised(pixels)
    low, high = (edge[:, None, None] for edge in (data.min(axis=(2, 3)), data.max(axis=(2, 3))))
    assert (value[~valid] == 0).all()
    assert (~valid | ((value >= low - 1e-4) & (value <= high + 1e-4))).all()
    assert 0.05 < valid.mean() < 0.95


def test_a_constant_image_with_holes_stays_constant():
    pixels = np.where(with_holes(40) == NODATA, NODATA, 2000).astype(np.int16)
    value, valid = both(recipe(size=24).train(batch(pixels), jax.random.key(9)))
    np.testing.assert_allclose(value, np.where(valid, (2000 - MEAN) / STD, 0), rtol=1e-5)


@pytest.mark.parametrize(("name", "ways"), [("crop_flip", 4), ("crop_d4", 8)])
def test_training_turns_all_ways_equally_often(name, ways):
    pixels = digital_numbers(1).repeat(400, axis=0)
    value, _ = both(recipe(recipe=name, size=SIDE, scale=(1.0, 1.0), ratio=(1.0, 1.0)).train(batch(pixels), jax.random.key(10)))
    upright = normalised(pixels[:1])[0].transpose(1, 2, 0)
    turned = np.stack([symmetry(upright) for symmetry in SYMMETRIES.values()][:ways])
    matches = np.abs(value[:, None] - turned).max(axis=(2, 3, 4)) < 1e-4
    assert (matches.sum(axis=1) == 1).all()
    assert scipy.stats.chisquare(matches.sum(axis=0)).pvalue > 1e-3


def test_a_gain_is_one_factor_a_view_drawn_evenly_from_its_range():
    pixels = np.full((400, 1, 3, SIDE, SIDE), 2000, np.int16)
    pixels[:, :, :, 3, 4] = NODATA
    value, valid = both(recipe(size=8, gain=(0.5, 1.5)).train(batch(pixels), jax.random.key(11)))
    factors = np.where(valid, (value * STD + MEAN) / 2000, np.nan).reshape(400, -1)
    assert (np.nanmax(factors, axis=1) - np.nanmin(factors, axis=1) < 1e-5).all()
    assert scipy.stats.kstest(np.nanmean(factors, axis=1), scipy.stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3


def test_evaluation_takes_no_gain_and_no_turn():
    plain, varied = recipe(size=SIDE), recipe(recipe="crop_d4", size=SIDE, gain=(0.5, 0.6))
    jax.tree.map(np.testing.assert_array_equal, varied.evaluate(batch(with_holes())), plain.evaluate(batch(with_holes())))


def test_training_is_a_function_of_the_key():
    pixels, train = digital_numbers(40), recipe(size=24).train
    first = train(batch(pixels), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, train(batch(pixels), jax.random.key(0)), first)
    assert np.abs(train(batch(pixels), jax.random.key(1))["three/global"] - first["three/global"]).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": "crop"}, "recipe"),
        ({"statistics": "imagenet"}, "statistics"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.9, 0.4)}, "scale"),
        ({"gain": (0.0, 1.0)}, "gain"),
        ({"gain": (1.2, 0.8)}, "gain"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=rf"config\.augment\.{message}"):
        views.Config(**fields)
