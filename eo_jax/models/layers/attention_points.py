"""Where the points of a deformable attention are: ours, and those of DAT's code.

Points are (row, column) in cells of the image, in float32; cell centres are whole numbers.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Centred:
    """Points start at the centres of equal parts of the image and move by a bounded offset. Nothing
    depends on the size of the image.

    Attributes:
        offset_range: DAT's range factor s: with n points along a side of length 2, each moves by at
            most s / n; with s = 2 as far as the next point.
    """

    offset_range: float = 2.0

    def place(
        self, moves: Float[Array, "b h2 w2 2"], size: tuple[int, int]
    ) -> Float[Array, "b p 2"]:
        """The points in an image of `size`: the centres of h2 x w2 parts, moved by tanh(moves) x
        offset_range / (h2, w2) on sides of length 2.
        """
        part = np.divide(size, moves.shape[1:3])
        centres = ((_grid(moves.shape[1:3]) + 0.5) * part - 0.5).astype(np.float32)
        reach = (part * self.offset_range / 2).astype(np.float32)
        points = centres + reach * jnp.tanh(moves.astype(jnp.float32))
        return points.reshape(len(moves), -1, 2)


@dataclasses.dataclass(frozen=True)
class AsInDAT:
    """Points as in DAT's code without a range factor, with a relative position bias: those of
    DeCUR's published weights.

    Attributes:
        cells: side in cells of the image that the table of the bias is for; on others the same
            fraction of the side has the same entry.
    """

    cells: int

    def place(
        self, moves: Float[Array, "b h2 w2 2"], size: tuple[int, int]
    ) -> Float[Array, "b p 2"]:
        """The points in an image of `size`, whose first and last cells have their centres at -1 and
        1: along a side of n, point k starts at (2 k + 1) / (n - 1) - 1, moves by any distance, and
        is clipped to [-1, 1].

        With n in the denominator points would start at the centres of equal parts. With n - 1 they
        start lower and further right, and the last one outside.

        Raises ValueError for fewer than two points along a side, whose starts do not exist.
        """
        number = moves.shape[1:3]
        if min(number) < 2:
            raise ValueError(
                f"attention 'dat': an image of {size[0]} x {size[1]} cells has {number[0]} x "
                f"{number[1]} points; it needs 2 or more along each side. Use larger views, or "
                "config.model.trunk.attention='deformable'"
            )
        starts = (2 * _grid(number) + 1) / np.subtract(number, 1) - 1
        placed = jnp.clip(starts.astype(np.float32) + moves.astype(jnp.float32), -1.0, 1.0)
        points = (placed + 1) * (np.subtract(size, 1) / 2).astype(np.float32)
        return points.reshape(len(moves), -1, 2)


def _grid(number: tuple[int, int]) -> np.ndarray:
    """Row and column of each point, [h2, w2, 2]."""
    return np.stack(np.meshgrid(*map(np.arange, number), indexing="ij"), -1)
