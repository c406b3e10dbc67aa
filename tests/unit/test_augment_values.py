"""Tests of what changes values: blur against scipy, solarise against Pillow, the rest against
numpy; the values that a crop set allows, and for which sensor.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image, ImageOps

from eo_jax.augment import photometric, views
from eo_jax.augment.blur import blur_matrix
from eo_jax.augment.crops import Config, CropSet, check_sensor, crop_sets
from eo_jax.sensors import ENMAP, get_sensor

# Compiled in a third of the time; every operation runs once.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
B, V, SIDE, BANDS = 3, 2, 6, 4
WIDE = np.full((2, BANDS), [[-9.0], [9.0]])  # limits that nothing reaches


@pytest.fixture(scope="module")
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(B, V, SIDE, SIDE, BANDS)).astype(np.float32)


@pytest.fixture(scope="module")
def valid() -> np.ndarray:
    """With single values missing, a band of a view, and a pixel."""
    valid = np.random.default_rng(1).random((B, V, SIDE, SIDE, BANDS)) > 0.2
    valid[0, 1, :, :, 2] = valid[1, 0, 3, 4] = False
    return valid


def apply(operation, *arguments) -> np.ndarray:
    """Jitted; arrays with a row or a view go in as they do in a recipe, constants of a sensor as
    numpy.
    """
    traced = [
        i
        for i, argument in enumerate(arguments)
        if isinstance(argument, np.ndarray) and argument.ndim > 1
    ]

    def call(*arrays):
        given = dict(zip(traced, arrays, strict=True))
        return operation(*(given.get(i, argument) for i, argument in enumerate(arguments)))

    return np.asarray(jit(call)(*(arguments[i] for i in traced)))


def per_view(factor: np.ndarray) -> np.ndarray:
    return factor[:, :, None, None, None]


# --- blur


@pytest.mark.parametrize(("size", "kernel"), [(16, 3), (16, 9), (24, 23), (5, 9), (1, 1)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_scipys_gaussian_with_mirrored_borders(size, kernel, sigma):
    image = np.random.default_rng(0).normal(size=(size, size))
    matrix = np.asarray(jit(lambda sigma: blur_matrix(sigma, size, kernel))(jnp.float32(sigma)))
    expected = scipy.ndimage.gaussian_filter(image, sigma, mode="mirror", radius=kernel // 2)
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-5)


def test_a_blur_of_sigma_0_is_none():
    np.testing.assert_array_equal(blur_matrix(jnp.float32(0), 9, 5), np.eye(9))


# --- one operation each


def test_brightness_multiplies_physical_values_of_bands_in_the_light(z, valid):
    mean, std, zero, lit = (
        np.array([5.0, 6, 7, 8]),
        np.array([1.0, 2, 3, 4]),
        np.array([0.0, 1, 2, 0]),
        np.array([True, True, True, False]),
    )
    factor = np.random.default_rng(2).uniform(0.6, 1.4, (B, V)).astype(np.float32)
    found = apply(photometric.brightness, z, valid, factor, (zero - mean) / std, lit)
    brighter = per_view(factor) * (z * std + mean - zero) + zero
    expected = np.where(lit, (brighter - mean) / std, z)
    np.testing.assert_allclose(found, np.where(valid, expected, 0), atol=1e-5)


def test_contrast_stretches_around_the_mean_of_what_is_valid(z, valid):
    factor = np.random.default_rng(2).uniform(0.6, 1.4, (B, V)).astype(np.float32)
    found = apply(photometric.contrast, z, valid, factor)
    mean = np.ma.array(z, mask=~valid).mean(axis=(2, 3), keepdims=True).filled(0)
    np.testing.assert_allclose(
        found, np.where(valid, mean + per_view(factor) * (z - mean), 0), atol=1e-5
    )


def test_additive_jitter_is_kornias(z, valid):
    """RandomBrightness: clip(x + f - 1, 0, 1). RandomContrast: clip(f x, 0, 1). Each on the images
    that it was drawn for, x in 0..1.
    """
    random = np.random.default_rng(2)
    low, high = np.array([-2.0, -1, -3, -1.5]), np.array([2.0, 3, 2, 1])
    x = random.random(z.shape).astype(np.float32)
    brightness, contrast = random.uniform(0.2, 1.8, (2, B, V)).astype(np.float32)
    brighter, stretched = np.array([[True, False], [True, True], [False, False]]), brightness > 1
    shifted = apply(
        photometric.shift, x * (high - low) + low, valid, brightness - 1, brighter, low, high
    )
    found = apply(photometric.stretch, shifted, valid, contrast, stretched, low, high)
    expected = np.where(per_view(brighter), np.clip(x + per_view(brightness) - 1, 0, 1), x)
    expected = np.where(per_view(stretched), np.clip(expected * per_view(contrast), 0, 1), expected)
    np.testing.assert_allclose(found, np.where(valid, expected * (high - low) + low, 0), atol=1e-5)


def test_grey_is_the_mean_of_a_pixels_valid_bands(z, valid):
    coin = np.array([[True, False], [True, True], [False, False]])
    kept = np.where(valid, z, 0)
    found = apply(photometric.grayscale, kept, valid, coin)
    mean = np.ma.array(z, mask=~valid).mean(axis=-1, keepdims=True).filled(0)
    np.testing.assert_allclose(found, np.where(per_view(coin) & valid, mean, kept), atol=1e-6)


def test_solarise_of_uint8_is_pillows():
    dn = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(dn[0, 0, :, :, 0]), 128))
    mean, std = np.array([100.0]), np.array([50.0])
    low, high = (0 - mean) / std, (255 - mean) / std
    found = apply(
        photometric.solarise,
        ((dn - mean) / std).astype(np.float32),
        np.ones(dn.shape, bool),
        np.array([[True]]),
        low,
        high,
        0.5,
    )
    np.testing.assert_allclose(found[0, 0, :, :, 0] * std + mean, expected, atol=1e-3)


def test_solarise_clips_to_the_physical_range_and_leaves_dark_values():
    reflectance = np.float32([-0.2, 0.0, 0.49, 0.5, 0.8, 1.0, 1.7]).reshape(1, 1, 1, 7, 1)
    found = apply(
        photometric.solarise,
        reflectance,
        np.ones(reflectance.shape, bool),
        np.array([[True]]),
        np.array([0.0]),
        np.array([1.0]),
        0.5,
    )
    np.testing.assert_allclose(np.ravel(found), [-0.2, 0.0, 0.49, 0.5, 0.2, 0.0, 0.0], atol=1e-6)


def test_noise_is_gaussian_and_independent():
    shape = (4, 2, 10, 10, 20)
    found = apply(
        photometric.add_noise,
        np.zeros(shape, np.float32),
        np.ones(shape, bool),
        jax.random.key(0),
        0.3,
    )
    assert scipy.stats.kstest(found.ravel(), scipy.stats.norm(0, 0.3).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(found.reshape(8, -1)) - np.eye(8)).max() < 0.1


def test_bands_are_dropped_in_the_number_asked_for_and_evenly():
    count = np.arange(1000).reshape(500, 2) % 8
    found = apply(
        photometric.drop_bands, np.ones((500, 2, 2, 3, 9), np.float32), jax.random.key(0), count
    )
    dropped = found[:, :, 0, 0] == 0
    assert ((found == 0) == dropped[:, :, None, None]).all()
    np.testing.assert_array_equal(dropped.sum(-1), count)
    assert scipy.stats.chisquare(dropped.sum((0, 1))).pvalue > 1e-3


@pytest.mark.parametrize(
    "operation",
    [
        lambda z, valid: photometric.brightness(
            z, valid, jnp.full((B, V), 1.3), np.full(BANDS, -2.0), np.ones(BANDS, bool)
        ),
        lambda z, valid: photometric.contrast(z, valid, jnp.full((B, V), 1.3)),
        lambda z, valid: photometric.shift(
            z, valid, jnp.full((B, V), 0.3), jnp.ones((B, V), bool), *WIDE
        ),
        lambda z, valid: photometric.stretch(
            z, valid, jnp.full((B, V), 1.3), jnp.ones((B, V), bool), *WIDE
        ),
        lambda z, valid: photometric.grayscale(z, valid, jnp.ones((B, V), bool)),
        lambda z, valid: photometric.solarise(
            z, valid, jnp.ones((B, V), bool), np.full(BANDS, -2.0), np.full(BANDS, 2.0), 0.0
        ),
        lambda z, valid: photometric.add_noise(z, valid, jax.random.key(0), 1.0),
    ],
    ids=["brightness", "contrast", "shift", "stretch", "grey", "solarise", "noise"],
)
@pytest.mark.parametrize("nodata", [0, np.nan])
def test_what_is_no_data_is_0_and_changes_nothing_else(z, valid, operation, nodata):
    found = apply(operation, np.where(valid, z, nodata).astype(np.float32), valid)
    assert (found[~valid] == 0).all() and np.isfinite(found).all()
    assert np.abs(found - z)[valid].max() > 0.1
    np.testing.assert_array_equal(found, apply(operation, np.where(valid, z, 0), valid))


# --- the values that a crop set allows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": 0}, r"views: 0; expected at least 1"),
        ({"size": 0}, r"size: 0; expected at least 1"),
        (
            {"interpolation": "nearest"},
            r"interpolation: 'nearest'; expected one of bilinear, bilinear_corners, bicubic",
        ),
        ({"flips": "up"}, r"flips: 'up'; expected one of none, left_right, both, d4"),
        ({"dates": "all"}, r"dates: 'all'; expected one of first, each, random, shared"),
        ({"jitter": "kornia"}, r"jitter: 'kornia'; expected one of multiplicative, additive"),
        ({"scale": (0.0, 1.0)}, r"scale: \(0.0, 1.0\); expected 0 < low <= high <= 1"),
        ({"scale": (0.5, 1.1)}, r"scale"),
        ({"ratio": (2.0, 1.0)}, r"ratio: \(2.0, 1.0\); expected 0 < low <= high"),
        ({"gain": (1.2, 0.8)}, r"gain"),
        ({"brightness": (0.0, 1.0)}, r"brightness"),
        ({"contrast": (1.2, 0.8)}, r"contrast"),
        (
            {"jitter_prob": 1.5},
            r"jitter_prob: \(1.5,\); expected one number from 0 to 1, or 1, one per view",
        ),
        (
            {"blur_prob": (0.5, 0.5, 0.5), "views": 2},
            r"blur_prob: \(0.5, 0.5, 0.5\); expected one number from 0 to 1, or 2, one per view",
        ),
        ({"blur_sigma": (0.0, 1.0)}, r"blur_sigma"),
        ({"blur_kernel": 4}, r"blur_kernel: 4; expected an odd number below 256"),
        ({"blur_kernel": 11, "size": 5}, r"blur_kernel: 11; expected an odd number below 10"),
        (
            {"blur_prob": 0.5, "size": 9},
            r"blur_kernel: 0; expected an odd number from 3: with size 9 the kernel is 1 pixel",
        ),
        (
            {"solarise_threshold": 128.0},
            r"solarise_threshold: 128.0; expected a fraction of the physical range",
        ),
        ({"noise_std": -0.1}, r"noise_std"),
        (
            {"band_drop": (0, 3)},
            r"band_drop: \(0, 3\); expected two integers, 0 < low <= high",
        ),
    ],
)
def test_impossible_crop_sets_are_refused(fields, message):
    with pytest.raises(ValueError, match=rf"config\.augment\.crops\.local\.{message}"):
        Config(crops={"global": CropSet(), "local": CropSet(**fields)})


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", (0.5,)), ("gain", 1.0), ("band_drop", (1.0, 3.0)), ("band_drop", (1, 2, 3))],
)
def test_ranges_of_another_form_are_refused(field, value):
    crop = CropSet()
    object.__setattr__(crop, field, value)  # the type checker of the tests would be faster
    assert [found for found, _ in crop.faults()] == [field]


def test_statistics_are_published_or_the_stores():
    with pytest.raises(
        ValueError,
        match=r"config\.augment\.statistics: 'imagenet'; expected one of published, store",
    ):
        Config(statistics="imagenet")


def test_probabilities_are_kept_as_tuples():
    """ml_collections lets no number become a tuple, but reads 0.5 for a tuple as (0.5,)."""
    assert CropSet(blur_prob=0.5).blur_prob == (0.5,) and CropSet(
        blur_prob=(1.0, 0.1), views=2
    ).blur_prob == (1.0, 0.1)


@pytest.mark.parametrize(("size", "kernel"), [(128, 13), (48, 5), (224, 23), (96, 9)])
def test_the_kernel_of_published_sizes(size, kernel):
    assert CropSet(size=size).blur_side == kernel
    assert CropSet(size=size, blur_kernel=3).blur_side == 3


def test_every_setting_is_documented():
    for config_class in (CropSet, Config):
        assert all(
            f"{field.name}:" in config_class.__doc__ for field in dataclasses.fields(config_class)
        )


# --- crop sets of sources


def test_a_sources_own_crop_set_replaces_the_shared_one():
    config = Config(
        crops={
            "global": CropSet(views=2),
            "local": CropSet(views=8),
            "s1/global": CropSet(views=1),
            "s2/extra": CropSet(),
        }
    )
    assert crop_sets(config, ["s1", "s2", "s10"]) == {
        "s1": {"global": 1, "local": 8},
        "s2": {"global": 2, "local": 8, "extra": 1},
        "s10": {"global": 2, "local": 8},
    }


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (
            {"global": CropSet(), "s3/global": CropSet()},
            r"config\.augment\.crops\.s3/global: no source 's3'; there are s1, s2",
        ),
        (
            {"local": CropSet(), "s1/global": CropSet()},
            r"config\.augment\.crops: local for source 's2'; expected 'global' among them",
        ),
    ],
)
def test_crop_sets_that_fit_no_source_are_refused(crops, message):
    with pytest.raises(ValueError, match=message):
        crop_sets(Config(crops=crops), ["s1", "s2"])


@pytest.mark.parametrize(
    ("sensor", "fields", "message"),
    [
        (
            "sentinel1_grd",
            {"brightness": (0.6, 1.4)},
            r"brightness: \(0.6, 1.4\), but source 'x' \(Sentinel-1.*\) has no reflective band, "
            r"and .* dB",
        ),
        ("sentinel1_grd", {"gain": (0.6, 1.4)}, r"gain: .* no reflective band"),
        (
            "geonrw_dem",
            {"brightness": (0.6, 1.4)},
            r"brightness: .* no reflective band, and a factor on m ",
        ),
        (
            "sentinel1_grd",
            {"solarise_prob": (0.0,), "band_drop_prob": 0.5, "band_drop": (1, 2)},
            r"band_drop: \(1, 2\), .* has 2 bands, at least one",
        ),
        (
            "sentinel1_grd",
            {"solarise_prob": 0.2},
            r"solarise_prob: \(0.2,\), .* has no known physical range to invert band VV in",
        ),
        ("casi_houston2013", {"solarise_prob": 0.2}, r"solarise_prob: .* no known physical range"),
        (
            "sentinel1_grd",
            {"jitter": "additive", "contrast": (0.6, 1.4)},
            r"jitter: 'additive', .* has no known physical range to shift band VV in",
        ),
    ],
)
def test_what_a_sensor_cannot_have_is_refused(sensor, fields, message):
    with pytest.raises(
        ValueError,
        match=rf"config\.augment\.crops\.global\.{message}.*switch it off .* "
        r"config\.augment\.crops\[.x/global.\]",
    ):
        check_sensor(Config(crops={"global": CropSet(**fields)}), "x", get_sensor(sensor))
    check_sensor(
        Config(crops={"global": CropSet(**fields), "x/global": CropSet()}), "x", get_sensor(sensor)
    )


def test_a_recipe_refuses_what_its_sensors_cannot_have():
    numbers = views.normalisation("published", get_sensor("sentinel1_grd"), None)
    sources = {
        "s1": (get_sensor("sentinel1_grd"), numbers),
        "enmap": (ENMAP, views.normalisation("published", ENMAP, None)),
    }
    with pytest.raises(
        ValueError, match=r"config\.augment\.crops\.global\.brightness: .* source 's1'"
    ):
        views.make_recipe(Config(crops={"global": CropSet(brightness=(0.6, 1.4))}), sources)
