"""--dtype uint8: the published formulas, clipped where the original code wraps around, and recorded
in the manifest.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_prep.archive import ArchiveError
from data_prep.conversion import quantise
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, get_sensor


def uint8_of(sensor: str, pixels: np.ndarray) -> Sample:
    return quantise.make("uint8", [get_sensor(sensor)]).apply(
        Sample(pixels, sensor, "a", "a"), "a.tif"
    )


@given(hnp.arrays(np.uint16, (13, 2, 2), elements=st.integers(0, 65535)))
def test_sentinel2_as_published(pixels: np.ndarray) -> None:
    published = np.minimum(pixels.astype(np.float64) / 10000 * 255, 255).astype(np.uint8)
    np.testing.assert_array_equal(uint8_of("sentinel2_l1c", pixels).pixels, published)


def test_bright_pixels_are_clipped_and_do_not_wrap() -> None:
    """SSL4EO-S12's own code casts without clipping: 10,040 / 10000 x 255 = 256.02 becomes
    0 there.
    """
    pixels = np.full((12, 1, 1), 10_040, np.uint16)
    assert (pixels / 10000 * 255).astype(int).astype(np.uint8).max() == 0
    assert (uint8_of("sentinel2_l2a", pixels).pixels == 255).all()


def test_sentinel1_as_published() -> None:
    sensor = get_sensor("sentinel1_grd")
    pixels = np.linspace(-60, 30, 200, dtype=np.float32).reshape(2, 10, 10)
    for band in range(2):
        mean, std = sensor.mean[band], sensor.std[band]
        published = (
            np.clip((pixels[band].astype(np.float64) - (mean - 2 * std)) / (4 * std), 0, 1) * 255
        ).astype(np.uint8)
        np.testing.assert_array_equal(uint8_of("sentinel1_grd", pixels).pixels[band], published)


@pytest.mark.parametrize("sensor", sorted(quantise.FORMULAS))
def test_the_row_gives_physical_values_back(sensor: str) -> None:
    original = get_sensor(sensor)
    (row,) = quantise.make("uint8", [original]).sensors
    formula = quantise.FORMULAS[sensor]
    low, high = np.array(formula.low)[:, None, None], np.array(formula.high)[:, None, None]
    dn = (low + (high - low) * np.linspace(0, 1, 11)).astype(original.dtype)
    physical = dn * original.scales[:, None, None] + original.offsets[:, None, None]
    again = uint8_of(sensor, dn).pixels * row.scales[:, None, None] + row.offsets[:, None, None]
    step = row.scales[:, None, None]
    assert (np.abs(again - physical) <= 1.01 * step + 1e-9).all()


def test_no_published_formula() -> None:
    with pytest.raises(ValueError, match="no formula is published for enmap"):
        quantise.make("uint8", [ENMAP])
    assert quantise.make("archive", [ENMAP]) is None


def test_missing_values_are_refused() -> None:
    pixels = np.full((2, 1, 1), np.nan, np.float32)
    with pytest.raises(ArchiveError, match="no-data"):
        uint8_of("sentinel1_grd", pixels)
