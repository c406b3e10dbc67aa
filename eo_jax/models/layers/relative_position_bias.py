"""BEiT's relative positions: a learned number for every offset between two patch tokens, added to
the attention logits of all blocks.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eo_jax.models.layers.position_embedding import check_grid

# Entries after the offsets: class token to patch, patch to class token, class token to itself.
_EXTRA = 3


@functools.cache
def relative_index(side: int, prefix: int) -> np.ndarray:
    """Entry of the table for each pair of tokens, int32 [query, key]: `prefix` tokens (class token
    and registers), then side^2 patches row by row.

    There are 2 side - 1 offsets per direction. An offset of (rows, columns), query minus key, has
    entry (rows + side - 1) (2 side - 1) + columns + side - 1. The last three entries are prefix to
    patch, patch to prefix, and prefix to prefix (Bao et al. 2022, arXiv 2106.08254, whose code has
    one class token; registers share its entries).
    """
    row, column = np.divmod(np.arange(side**2), side)
    offsets = 2 * side - 1
    index = np.empty((prefix + side**2,) * 2, np.int32)
    index[prefix:, prefix:] = (
        (row[:, None] - row + side - 1) * offsets + column[:, None] - column + side - 1
    )
    index[:prefix, prefix:] = offsets**2
    index[prefix:, :prefix] = offsets**2 + 1
    index[:prefix, :prefix] = offsets**2 + 2
    return index


class RelativePositions(nnx.Module):
    """Table [entries, heads] for a grid of side x side patch tokens, initially zero as in BEiT."""

    def __init__(self, side: int, heads: int):
        self.table = nnx.Param(jnp.zeros(((2 * side - 1) ** 2 + _EXTRA, heads)))
        self.side = side

    def __call__(
        self, tokens: int, grid: tuple[int, int], prefix: int
    ) -> Float[Array, "1 heads n n"]:
        """The bias of attention logits. Raises ValueError for a view with another grid, and if
        patch tokens are left out.
        """
        check_grid(self.side, tokens, grid, "relative")
        return jnp.moveaxis(self.table[...][relative_index(self.side, prefix)], -1, 0)[None]
