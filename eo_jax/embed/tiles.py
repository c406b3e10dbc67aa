"""How a scene is cut into views whose tokens lie on one grid, from the scene's upper left.

All numbers are of tokens. Views begin at whole tokens and overlap; the last one of each direction
is moved inward, so that it ends where the grid ends. A scene that is smaller than a view has one
view, which ends beyond it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple


class Grid(NamedTuple):
    """The tokens of a scene and its views.

    Attributes:
        rows, columns: of tokens; the last ones may reach beyond the scene.
        side: rows and columns of tokens in a view.
        overlap: rows and columns that neighbouring views have in common, at most half of `side`.
    """

    rows: int
    columns: int
    side: int
    overlap: int

    @property
    def row_starts(self) -> tuple[int, ...]:
        """First row of each row of views."""
        return starts(self.rows, self.side, self.overlap)

    @property
    def column_starts(self) -> tuple[int, ...]:
        """First column of each view in a row of views."""
        return starts(self.columns, self.side, self.overlap)

    def finished_rows(self, views: int) -> int:
        """Rows of tokens that no later view reaches, after that many rows of views."""
        return self.rows if views == len(self.row_starts) else self.row_starts[views]

    def first_needed(self, views: int) -> int:
        """The first row of views that reaches beyond `finished_rows(views)`: where to go on after
        that many rows of views.
        """
        finished = self.finished_rows(views)
        reaching = [k for k, start in enumerate(self.row_starts) if start + self.side > finished]
        return min([views, *reaching])


def make_grid(height: int, width: int, patch: int, side: int, overlap: int) -> Grid:
    """The grid of a scene of height x width pixels; `overlap` is in tokens."""
    return Grid(-(-height // patch), -(-width // patch), side, overlap)


@functools.lru_cache(8)
def starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
    """First tokens of the views along an axis of `length` tokens."""
    if length <= side:
        return (0,)
    return (*range(0, length - side, side - overlap), length - side)
