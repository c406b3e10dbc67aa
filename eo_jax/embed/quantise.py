"""float32 features as int8 with a scale per channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eo_jax.embed.dense import Map

NODATA = -128
_LARGEST = 127
_PART_BYTES = 2**24


def scales_of(features: Map) -> np.ndarray:
    """float32 [width]: value = int8 x scale; the largest absolute value of a channel is 127."""
    largest = np.zeros(features.width, np.float32)
    for row, column, rows, columns in parts(features, _part_side(features)):
        values = np.abs(features.read(row, column, rows, columns))
        largest = np.fmax(largest, np.fmax.reduce(values.reshape(-1, features.width), axis=0))
    return np.where(largest > 0, largest / np.float32(_LARGEST), np.float32(1)).astype(np.float32)


def to_int8(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int8, like `values` [..., width]; NODATA for NaN."""
    rounded = np.rint(np.nan_to_num(values, nan=0.0) / scales)
    rounded = np.clip(rounded, -_LARGEST, _LARGEST)
    return np.where(np.isnan(values), NODATA, rounded).astype(np.int8)


def _part_side(features: Map) -> int:
    return max(16, int((_PART_BYTES / (4 * features.width)) ** 0.5))


def parts(features: Map, side: int) -> Iterator[tuple[int, int, int, int]]:
    """(row, column, rows, columns) of adjacent parts of side x side tokens, row by row."""
    for row in range(0, features.rows, side):
        for column in range(0, features.columns, side):
            yield (
                row,
                column,
                min(side, features.rows - row),
                min(side, features.columns - column),
            )
