"""Samples whose pixels encode their origin: sample * 1000 + row * 20 + column."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_jax.schema import Batch, Sample

HEIGHT, WIDTH, CROP = 10, 8, 6


def traced(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """int16 [202, height, width], the origin of each pixel."""
    where = 1000 * number + 20 * np.arange(height)[:, None] + np.arange(width)
    return np.broadcast_to(where, (202, height, width)).astype(np.int16)


def sample(
    number: int, location: int | str = 0, pixels: np.ndarray | None = None, **fields: Any
) -> Sample:
    pixels = traced(number) if pixels is None else pixels
    return Sample(
        pixels=pixels, sensor="enmap", id=f"id{number}", group=f"location{location}", **fields
    )


def origin(pixels: np.ndarray) -> tuple[int, int, int]:
    """(sample, row, column) of the corner of a crop [c, h, w], which must be complete."""
    corner = int(pixels[0, 0, 0])
    number, (top, left) = corner // 1000, divmod(corner % 1000, 20)
    side = slice(top, top + pixels.shape[1]), slice(left, left + pixels.shape[2])
    np.testing.assert_array_equal(pixels, traced(number, 50, 20)[:, *side])
    return number, top, left


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.keys() == expected.keys()
    for name, fields in expected.items():
        assert found[name].keys() == fields.keys()
        for field, array in fields.items():
            np.testing.assert_array_equal(found[name][field], array, strict=True)


def joined(parts: list[Batch]) -> Batch:
    """The global batch of the parts of several processes."""
    return {
        name: {field: np.concatenate([part[name][field] for part in parts]) for field in fields}
        for name, fields in parts[0].items()
    }
