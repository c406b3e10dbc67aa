"""Random masking of patch tokens with a static number of visible ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def visible_count(tokens: int, mask_ratio: float) -> int:
    """How many of `tokens` stay visible: int(n (1 - ratio)), as SpectralEarth and MAE count. ValueError where none or all would."""
    visible = int(tokens * (1 - mask_ratio) + 1e-9)  # 1e-9: 64 * (1 - 0.9) is 6.3999...; 20 * (1 - 0.9) must be 2, not 1
    if not 0 < visible < tokens:
        raise ValueError(f"mask_ratio {mask_ratio} leaves {visible} of {tokens} tokens visible; at least one must be visible and one masked")
    return visible


def random_visible(key: jax.Array, has_data: Bool[Array, "b n"], visible: int) -> tuple[Int[Array, "b k"], Bool[Array, "b n"]]:
    """(ids of the visible tokens, True where masked). Tokens without any data are masked first; the count never changes."""
    noise = jax.random.uniform(key, has_data.shape) + 2.0 * ~has_data
    order = jnp.argsort(noise, axis=1)
    ids = order[:, :visible]
    masked = jnp.ones(has_data.shape, bool).at[jnp.arange(len(order))[:, None], ids].set(False)
    return ids, masked
