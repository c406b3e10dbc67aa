"""Tests of `eo_jax.augment`: geometry and normalisation against loops and torch, boxes against
torchvision's procedure.
"""

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
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT, get_sensor

NODATA = -32768
MEAN, STD = np.array([1000.0, 1500.0, 2200.0]), np.array([300.0, 450.0, 700.0])
SENSOR = dataclasses.replace(
    ENMAP, id="three", bands=ENMAP.bands[:3], mean=tuple(MEAN), std=tuple(STD), nodata=NODATA
)
SIDE = 16

draw_boxes = jax.jit(geometry.random_boxes, static_argnums=(1, 2, 3, 4, 5))


@functools.partial(jax.jit, static_argnums=(3, 4))
def crop_resize_flip(images, boxes, flips, out: int, interpolation: str = "bilinear") -> jax.Array:
    """The pieces of `geometry` put together, one view an image."""

    def one(image, box, flip):
        taps = [geometry.make_taps(box[i], box[2 + i], out, interpolation) for i in range(2)]
        sizes = zip(geometry.flip_axes(*taps, flip), image.shape[1:], strict=True)
        return geometry.flip_diagonal(
            geometry.resample(image, *(axis.matrix(size) for axis, size in sizes)), flip
        )

    return jax.vmap(one)(images, boxes, flips)


# --- crop, resize, flip


BOXES = np.array(
    [[0, 0, 13, 17], [2, 3, 7, 11], [12, 16, 1, 1], [5, 0, 1, 17], [0, 9, 13, 1], [6, 8, 4, 9]]
)
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


@pytest.mark.parametrize("mode", ["bilinear", "bilinear_corners", "bicubic"])
@pytest.mark.parametrize("out", [4, 9, 32])
def test_resizing_is_torchs_interpolation(images, out, mode):
    torch = pytest.importorskip("torch")
    found = np.asarray(crop_resize_flip(images, BOXES, np.zeros_like(FLIPS), out, mode))
    for i, (top, left, rows, columns) in enumerate(BOXES):
        box = torch.from_numpy(images[i : i + 1, :, top : top + rows, left : left + columns].copy())
        name, _, corners = mode.partition("_")
        expected = torch.nn.functional.interpolate(
            box, size=(out, out), mode=name, align_corners=bool(corners)
        )[0]
        assert np.abs(found[i] - expected.permute(1, 2, 0).numpy()).max() < 1e-4 * np.ptp(images[i])


@pytest.mark.parametrize(("length", "out"), [(7, 7), (12, 4), (5, 13), (1, 3), (9, 1)])
def test_aligned_corners_spread_the_views_pixels_from_the_first_of_the_crop_to_its_last(
    length, out
):
    taps = geometry.make_taps(jnp.asarray(3), jnp.asarray(length), out, "bilinear_corners")
    position = 3 + np.linspace(0, length - 1, out)
    np.testing.assert_allclose(taps.matrix(20) @ np.arange(20.0), position, atol=1e-5)
    nearest = geometry.nearest_pixels(jnp.asarray(3), jnp.asarray(length), out, "bilinear_corners")
    np.testing.assert_array_equal(nearest, np.floor(position + 0.5 + 1e-9))


@pytest.mark.parametrize("mode", ["bilinear", "bilinear_corners", "bicubic"])
def test_pixels_outside_the_box_take_no_part(images, mode):
    box, flips = np.array([[2, 3, 7, 11]]), np.zeros((1, 3), bool)
    outside = np.full_like(images[:1], 1e6)
    outside[:, :, 2:9, 3:14] = images[:1, :, 2:9, 3:14]
    np.testing.assert_array_equal(
        crop_resize_flip(outside, box, flips, 9, mode),
        crop_resize_flip(images[:1], box, flips, 9, mode),
    )


@pytest.mark.parametrize(
    ("length", "out"), [(7, 7), (12, 4), (5, 13), (1, 3), (264, 224), (97, 96)]
)
def test_nearest_pixels_are_those_that_the_centres_lie_in(length, out):
    centres = (np.arange(out) + 0.5) * length / out
    found = np.asarray(
        geometry.nearest_pixels(jnp.asarray(3), jnp.asarray(length), out, "bilinear")
    )
    np.testing.assert_array_equal(found, 3 + np.floor(centres + 1e-9))


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


@pytest.fixture(
    scope="module",
    params=[(64, 64, (0.2, 1.0), (3 / 4, 4 / 3)), (40, 64, (0.08, 0.7), (0.5, 1.5))],
    ids=["square", "wide"],
)
def drawn(request) -> tuple[np.ndarray, tuple]:
    """4000 boxes, and (height, width, scale, ratio)."""
    return np.asarray(draw_boxes(jax.random.key(1), 4000, *request.param)), request.param


def test_boxes_keep_to_the_image_and_to_their_ranges(drawn):
    boxes, (height, width, scale, ratio) = drawn
    top, left, rows, columns = boxes.T
    assert boxes.shape == (4000, 4)
    assert (top >= 0).all() and (left >= 0).all() and (rows >= 1).all() and (columns >= 1).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()
    # Sides are rounded to whole pixels, so a box is in range where one within half a pixel of it
    # is.
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
    assert (np.asarray(draw_boxes(jax.random.key(5), 4000, *arguments)) != boxes).any(
        axis=1
    ).mean() > 0.9
    assert len(np.unique(boxes, axis=0)) > 2000


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(16, 128, (0, 53, 16, 21)), (128, 16, (53, 0, 21, 16))]
)
def test_where_no_box_fits_it_is_the_largest_central_one(height, width, expected):
    boxes = draw_boxes(jax.random.key(3), 5, height, width, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(boxes, [expected] * 5)


# --- normalisation


def normalised(pixels: np.ndarray, gain: np.ndarray, nodata: int) -> tuple[jax.Array, jax.Array]:
    """(normalised, valid) of digital numbers [b, c, h, w], a gain each."""
    valid = radiometry.valid_values(jnp.asarray(pixels), nodata)
    x = radiometry.brighten(
        jnp.asarray(pixels, jnp.float32), jnp.asarray(gain)[:, None, None, None], SENSOR
    )
    return radiometry.normalise(x, valid, MEAN, STD), valid


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float16", "float32"])
def test_normalise_in_the_archives_dtype(dtype):
    nodata = 0 if dtype.startswith("u") else NODATA
    pixels = np.random.default_rng(0).integers(1, 250, (2, 3, 4, 4)).astype(dtype)
    pixels[0, 1, 2, 3] = pixels[1, :, 0, 0] = nodata
    gain = np.array([1, 1.25], np.float32)
    found, valid = normalised(pixels, gain, nodata)
    np.testing.assert_array_equal(valid, pixels != nodata)
    scaled = gain[:, None, None, None] * pixels.astype(float)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found, np.where(valid, (scaled - MEAN[:, None, None]) / STD[:, None, None], 0), rtol=1e-6
    )


@pytest.mark.parametrize("value", [NODATA, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gain", [1.0, 0.8])
def test_values_that_are_no_data(value, gain):
    pixels = np.full((1, 3, 2, 2), 1234, np.float32)
    pixels[0, 1, 0, 1] = value
    found, valid = normalised(pixels, np.float32([gain]), NODATA)
    assert np.asarray(valid).sum() == 11 and not valid[0, 1, 0, 1]
    assert found[0, 1, 0, 1] == 0 and np.isfinite(found).all()


def test_a_gain_acts_on_physical_values():
    """Of a sensor with an offset: twice the light is twice the reflectance, not twice the digital
    number.
    """
    sensor = get_sensor("sentinel2_l2a_offset")
    dn = np.random.default_rng(0).integers(900, 9000, (2, 12, 4, 4)).astype(np.float32)
    found = radiometry.brighten(jnp.asarray(dn), jnp.float32([[[[2.0]]], [[[0.5]]]]), sensor)
    reflectance = (dn.astype(float) * 1e-4 - 0.1) * np.array([2, 0.5])[:, None, None, None]
    np.testing.assert_allclose(found, (reflectance + 0.1) * 1e4, rtol=1e-6)


def test_a_gain_leaves_temperatures_as_they_are():
    sensor = get_sensor("landsat8_oli_tirs_toa")
    dn = np.random.default_rng(0).integers(1, 255, (1, 11, 4, 4)).astype(np.float32)
    found = np.asarray(radiometry.brighten(jnp.asarray(dn), jnp.float32([[[[1.5]]]]), sensor))
    np.testing.assert_array_equal(found[:, 9:], dn[:, 9:])
    np.testing.assert_allclose(found[:, :9], 1.5 * dn[:, :9], rtol=1e-6)


@pytest.mark.parametrize(
    ("sensor", "expected"),
    [
        ("sentinel2_l1c", (0, 10000)),
        ("sentinel2_l1c_offset", (1000, 11000)),
        ("sentinel2_so2sat", (0, 1)),
        ("landsat8_oli_tirs_toa", (0, 255)),
        ("sentinel2_rgb", (0, 255)),
        ("sentinel1_grd", None),
        ("geonrw_dem", None),
    ],
)
def test_physical_ranges_in_digital_numbers(sensor, expected):
    ranges = radiometry.physical_ranges(get_sensor(sensor))
    assert len(ranges) == len(get_sensor(sensor).bands)
    assert all(found == (expected and pytest.approx(expected)) for found in ranges)


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
