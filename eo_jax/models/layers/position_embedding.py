"""Fixed 2-D sine-cosine positions, in the order of MAE and SpectralEarth."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def sincos_2d(width: int, rows: int, columns: int) -> np.ndarray:
    """Positions of a grid of tokens, float32 [rows * columns, width], row by row.

    The first half of the width encodes the column, the second the row; in each half, sines come
    before cosines, with frequencies 10000^(-2 i / (width / 2)) (He et al. 2022, arXiv 2111.06377,
    whose code builds the grid with the column first).
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {width}")
    row, column = np.meshgrid(
        np.arange(rows, dtype=np.float64), np.arange(columns, dtype=np.float64), indexing="ij"
    )
    return np.concatenate(
        [_sincos_1d(width // 2, column.ravel()), _sincos_1d(width // 2, row.ravel())], axis=1
    ).astype(np.float32)


def _sincos_1d(width: int, position: np.ndarray) -> np.ndarray:
    frequency = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = position[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
