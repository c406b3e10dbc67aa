"""MTL.txt of Landsat and MTD_MSI*.xml of Sentinel-2, damaged at random: values that a sample can
have, or one line that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from layouts import landsat_c2, sentinel2_safe

from data_prep.archive import ArchiveError
from data_prep.readers import _landsat_mtl, _safe_metadata
from eo_jax.sensors import get_sensor

QUICK, LONG = 300, 5000
NAME = "folder/metadata"
ODD = (
    *(b"nan", b"inf", b"-1e999", b"9" * 400, b"\xff", b"\0", b"", b"&a;", b"=", b'"', b"\n"),
    *(b"GROUP = X\n", b"END_GROUP = X\n", b"END\n", b"<!--", b"<b/>", b"<!DOCTYPE x>", b"-1000"),
    *(b"2022-99-99", b"9999-12-31T23:59:59-23:59", "\u2028".encode(), "\u0661".encode()),
)
_VALUE = re.compile(rb'(?<=[>=" ])[\w.:+-]+(?=[<"\n])')


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """One to four changes: a flipped bit, a repeated or odd piece, or another value."""
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(len(data) + 1))
        odd = ODD[rng.integers(len(ODD))]
        way = rng.integers(4)
        if way == 0:
            flipped = bytes([byte ^ (1 << int(rng.integers(8))) for byte in data[start:][:1]])
            data = data[:start] + flipped + data[start + 1 :]
        elif way == 1:
            data = data[:start] + data[start : start + rng.integers(200)] + data[start:]
        elif way == 2:
            data = data[:start] + odd + data[start + rng.integers(40) :]
        else:
            values = list(_VALUE.finditer(data)) or [re.match(b"", data)]
            begin, end = values[rng.integers(len(values))].span()
            data = data[:begin] + odd + data[end:]
    return data


def try_mtl(rng: np.random.Generator) -> None:
    product = list(landsat_c2.ROWS)[rng.integers(len(landsat_c2.ROWS))]
    sensor = get_sensor(landsat_c2.ROWS[product])
    data = damage(rng, landsat_c2.mtl(product).encode())
    mtl = _landsat_mtl.parse(NAME, data)
    _landsat_mtl.check_product(NAME, mtl, product)
    assert isinstance(_landsat_mtl.time(NAME, mtl, product.split("_")[3]), int)
    _landsat_mtl.check_scale(NAME, mtl, product[6], sensor)
    if product[6] == "1":
        numbers = _landsat_mtl.calibration(NAME, mtl, "1", sensor)
        assert all(np.isfinite(number).all() for number in numbers.values())


def try_mtd(rng: np.random.Generator) -> None:
    product = list(sentinel2_safe.ROWS)[rng.integers(len(sentinel2_safe.ROWS))]
    data = damage(rng, sentinel2_safe.metadata(product).encode())
    metadata = _safe_metadata.parse(NAME, data, product[8:10], product)
    sensor = get_sensor(sentinel2_safe.ROWS[product])
    assert metadata.offset in (0, -1000) and isinstance(metadata.time, int)
    found_nm = _safe_metadata.wavelengths_nm(NAME, metadata, sensor)
    assert found_nm is None or np.abs(found_nm - sensor.centres_nm).max() < 31


def run(attempt: Callable[[np.random.Generator], None], seeds: range) -> None:
    outcomes = set()
    for seed in seeds:
        try:
            attempt(np.random.default_rng(seed))
            outcomes.add("read")
        except ArchiveError as error:
            assert error.name == NAME and "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("attempt", [try_mtl, try_mtd], ids=["mtl", "mtd"])
def test_damaged_metadata_is_read_or_refused(attempt: Callable) -> None:
    run(attempt, range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [try_mtl, try_mtd], ids=["mtl", "mtd"])
def test_damaged_metadata_is_read_or_refused_at_length(attempt: Callable) -> None:
    run(attempt, range(QUICK, QUICK + LONG))
