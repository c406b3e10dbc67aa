"""Tests of `config.augment.sampling`: gathered views are those of matrix products."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from view_recipes import MEAN, SENSOR, STD, batch, digital_numbers, jit, with_holes

from eo_jax.augment import placement, views
from eo_jax.augment.crops import Config, CropSet

# Dates, gain and flips per view; the sides of a view and of the crop have no common divisor.
VARIED = {"views": 3, "size": 21, "flips": "d4", "gain": (0.8, 1.2), "dates": "each"}
CASES = {
    "half pixels": (VARIED, SENSOR),
    "corners, one date": (VARIED | {"interpolation": "bilinear_corners", "dates": "first"}, SENSOR),
    "blurred": (VARIED | {"blur_prob": 0.5}, SENSOR),
    "no no-data": (VARIED, dataclasses.replace(SENSOR, nodata=None)),
}


def rendered(sampling: str, fields: dict, sensor, pixels: np.ndarray) -> dict[str, np.ndarray]:
    numbers = views.Normalisation(MEAN, STD, "test")
    config = Config(crops={"global": CropSet(**fields)}, sampling=sampling)
    train = jit(views.make_recipe(config, {"three": (sensor, numbers)}).train)
    return jax.tree.map(np.asarray, train(batch(pixels), jax.random.key(3)))


@pytest.mark.parametrize("case", CASES)
def test_gathered_views_are_those_of_products_and_valid_at_the_same_places(case):
    fields, sensor = CASES[case]
    pixels = np.concatenate([with_holes(8), digital_numbers(8)], axis=1)
    gathered, products = (rendered(way, fields, sensor, pixels) for way in ("gather", "products"))
    valid = products["three/global/valid"]
    assert valid.all() == (sensor.nodata is None) and valid.mean() > 0.2
    np.testing.assert_array_equal(gathered["three/global/valid"], valid)
    expected = products["three/global"]
    largest = np.abs(expected).max()
    np.testing.assert_allclose(gathered["three/global"], expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize(
    ("platform", "fields", "expected"),
    [
        ("cpu", {}, "gather"),
        ("cpu", {"blur_prob": (0.0, 0.1), "views": 2}, "products"),
        ("gpu", {"blur_prob": 0.5}, "gather"),
        ("tpu", {}, "products"),
        ("gpu", {"interpolation": "bicubic"}, "products"),
    ],
)
def test_auto_goes_by_platform_and_crop_set(monkeypatch, platform, fields, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert placement.sampling_of(CropSet(**fields), "auto") == expected


def test_what_is_asked_for_is_done_where_it_can_be():
    assert placement.sampling_of(CropSet(blur_prob=1.0), "gather") == "gather"
    assert placement.sampling_of(CropSet(), "products") == "products"
    assert placement.sampling_of(CropSet(interpolation="bicubic"), "gather") == "products"
    with pytest.raises(ValueError, match="sampling: 'sum'; expected one of auto, gather"):
        Config(sampling="sum")
