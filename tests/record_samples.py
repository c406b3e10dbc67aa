"""Samples with every field and dtype of a record, and what it is for two of them to be equal."""

from __future__ import annotations

import numpy as np

from eo_jax.schema import Sample

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)


def sample(pixels: np.ndarray, **fields) -> Sample:
    return Sample(pixels=pixels, sensor="enmap", id="a/b", group="a", **fields)


def cube(dtype: str = "int16", shape: tuple[int, ...] = (3, 4, 5)) -> np.ndarray:
    """Values over the whole range of a dtype: random bits, so floats include NaN and infinity."""
    values = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    return (values % 2).astype(bool)[..., 0] if dtype == "bool" else values.view(dtype)[..., 0]


def full() -> Sample:
    """A small sample with every field present."""
    return sample(
        cube(),
        product="V010400",
        time=1_650_000_000,
        lonlat=(13.123456789012345, -52.1),
        crs="EPSG:32633",
        affine=(30.0, 0.0, 366015.0, 0.0, -30.0, 5809965.0),
        gsd_m=30.0,
        wavelengths_nm=np.array([418.42, 1 / 3, 2445.3]),
        labels={
            "landuse": cube("uint8", (4, 5)),
            "mixture": cube("float32", (6,)),
            "crop": np.array(3_301_090_205),
        },
        masks={"cloud": cube("bool", (4, 5)), "landuse": cube("uint8", (4, 5))},
    )


def assert_equal_arrays(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()  # NaN payloads and the sign of zero included


def assert_equal_samples(found: Sample, expected: Sample) -> None:
    assert_equal_arrays(found.pixels, expected.pixels)
    for arrays in ("labels", "masks"):
        assert sorted(getattr(found, arrays)) == sorted(getattr(expected, arrays))
        for name, array in getattr(expected, arrays).items():
            assert_equal_arrays(getattr(found, arrays)[name], array)
    for field in ("sensor", "id", "group", "product", "time", "lonlat", "crs", "affine", "gsd_m"):
        assert getattr(found, field) == getattr(expected, field), field
