"""Tests of whether a file says which of its bands is which."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rasterio.io import MemoryFile

from data_prep.formats.band_identity import identify
from eo_jax.sensors import Sensor, get_sensor

S2 = get_sensor("sentinel2_l2a")
NAMES = [band.name for band in S2.bands]
RGBN = S2.select(("B2", "B3", "B4", "B8"))
COMMON = ["coastal", "blue", "green", "red", *["rededge"] * 3, "nir", "nir08", "nir09"]


@pytest.mark.parametrize(
    ("sensor", "descriptions", "told"),
    [
        (S2, NAMES, True),
        (S2, [f"{band.centre_nm} nm" for band in S2.bands], True),
        (S2, [""] * 12, False),
        (S2, [f"Band {number}" for number in range(1, 13)], False),
        (S2, [*NAMES[:11], ""], False),
        (S2, [*COMMON, "swir16", "swir22"], False),  # which "rededge" is B5?
        (RGBN, ["blue", "green", "red", "nir"], True),
    ],
)
def test_a_file_tells_its_bands_where_only_one_order_fits(
    sensor: Sensor, descriptions: Sequence[str], told: bool
) -> None:
    size = {"count": len(descriptions), "height": 1, "width": 1, "dtype": "uint16"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **size) as dataset:
            dataset.descriptions = descriptions
        with memory.open() as dataset:
            bands = identify("file", dataset, sensor)
    assert bands.told is told
    assert bands.numbers == list(range(1, len(descriptions) + 1))
    assert bands.pick([0]).told is told
