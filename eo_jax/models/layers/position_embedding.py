"""2-D positions of patch tokens that are added to their embeddings: fixed sines and cosines, in the
two published orders, or a learned table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


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


def sincos_2d_row_first(width: int, rows: int, columns: int) -> np.ndarray:
    """`sincos_2d` with its halves exchanged: the row, then the column.

    Chen et al. 2021 (MoCo-v3, arXiv 2104.02057): the code means the column first, but its meshgrid
    indexes as a matrix while tokens are numbered row by row.
    """
    return np.roll(sincos_2d(width, rows, columns), width // 2, axis=1)


# {`positions` of a trunk's config: the function of width, rows and columns}
FIXED: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "sincos": sincos_2d,
    "sincos_moco_v3": sincos_2d_row_first,
}


def _sincos_1d(width: int, position: np.ndarray) -> np.ndarray:
    frequency = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = position[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


class LearnedPositions(nnx.Module):
    """A learned vector for the class token and for each of side x side patch tokens, row by row,
    initially normal with standard deviation 0.02, as in timm.
    """

    def __init__(self, side: int, width: int, *, rngs: nnx.Rngs):
        shape = (1, 1 + side**2, width)
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.side = side

    def __call__(self, tokens: int, grid: tuple[int, int]) -> Float[Array, "1 n1 d"]:
        """Raises ValueError for a view with another grid, and if patch tokens are left out."""
        check_grid(self.side, tokens, grid, "learned")
        return jnp.asarray(self.table[...])


def check_grid(side: int, tokens: int, grid: tuple[int, int], positions: str) -> None:
    """ValueError where a view's patch tokens are not those that a trunk's positions are for."""
    if grid != (side, side):
        raise ValueError(
            f"config.model.trunk.grid: {side}, but a view has {grid[0]} x {grid[1]} patch tokens; "
            "set it to the views' size divided by the patch, or use trunk.positions='sincos' for "
            "views of several sizes"
        )
    if tokens != side**2:
        raise ValueError(
            f"config.model.trunk.positions: {positions!r} needs all {side**2} patch tokens of a "
            f"view, found {tokens}; use 'sincos' for objectives that encode only visible tokens"
        )
