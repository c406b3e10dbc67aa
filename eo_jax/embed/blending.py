"""Where views overlap, a token is the weighted mean of what the views say.

The token at row i and column j of a view weighs ramp(i) x ramp(j); ramp grows linearly from
1 / (overlap + 1) at the border of the view to 1 at `overlap` tokens from it. So neighbouring views
fade into each other, and a token that only one view has is that view's, as it is. An encoder with
attention over the whole view sees other surroundings in each of two views: the blended value is
neither's, and the rule is all that can be promised.
"""

from __future__ import annotations

import numpy as np


def ramp(side: int, overlap: int) -> np.ndarray:
    """float32 [side], weights along one axis of a view."""
    from_border = 1 + np.minimum(np.arange(side), np.arange(side)[::-1])
    return (np.minimum(from_border, overlap + 1) / (overlap + 1)).astype(np.float32)


def view_weights(side: int, overlap: int) -> np.ndarray:
    """float32 [side, side], weights of a view's tokens."""
    along = ramp(side, overlap)
    return along[:, None] * along


class Strip:
    """Sums over the views of one row of views, as wide as the scene, and what earlier ones left.

    Args:
        columns: of tokens in the scene.
        side, overlap: see `tiles.Grid`.
        width: channels of a token.
    """

    def __init__(self, columns: int, side: int, overlap: int, width: int):
        columns = max(columns, side)
        self._weights = view_weights(side, overlap)
        self._sums = np.zeros((side, columns, width), np.float32)
        self._total = np.zeros((side, columns), np.float32)
        self._valid = np.zeros((side, columns), bool)

    def add(self, column: int, dense: np.ndarray, valid: np.ndarray) -> None:
        """Adds a view [side, side, d] that begins at a column, and which tokens have data."""
        at = slice(column, column + dense.shape[1])
        self._sums[:, at] += self._weights[..., None] * dense
        self._total[:, at] += self._weights
        self._valid[:, at] |= valid

    def take(self, rows: int, columns: int) -> np.ndarray:
        """float32 [rows, columns, d]: the first rows, which are final, NaN where there is no data;
        the strip moves on by them.
        """
        has_data = self._valid[:rows] & (self._total[:rows] > 0)
        final = self._sums[:rows] / np.maximum(self._total[:rows], 1e-9)[..., None]
        final = np.where(has_data[..., None], final, np.float32(np.nan))[:, :columns]
        for array in (self._sums, self._total, self._valid):
            array[: len(array) - rows] = array[rows:].copy()
            array[len(array) - rows :] = 0
        return final
