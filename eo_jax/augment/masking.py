"""Random masking of patch tokens with a static number of visible ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Rectangles drawn per sample: nearly always enough to cover what has to be hidden; otherwise single
# tokens are added.
_BLOCKS = 32


def visible_count(tokens: int, mask_ratio: float) -> int:
    """Number of `tokens` that stay visible: int(n (1 - ratio)), as in SpectralEarth and MAE.
    ValueError where it is none or all.
    """
    # 1e-9: 20 * (1 - 0.9) must be 2, not 1.
    visible = int(tokens * (1 - mask_ratio) + 1e-9)
    if not 0 < visible < tokens:
        raise ValueError(
            f"mask_ratio {mask_ratio} leaves {visible} of {tokens} tokens visible; at least one "
            "must be visible and one masked"
        )
    return visible


def random_split(
    key: jax.Array, has_data: Bool[Array, "b n"], visible: int
) -> tuple[Int[Array, "b k"], Int[Array, "b h"]]:
    """(ids of the visible tokens, ids of the masked ones). Tokens without data are masked first;
    the count is fixed.
    """
    noise = jax.random.uniform(key, has_data.shape) + 2.0 * ~has_data
    order = jnp.argsort(noise, axis=1)
    return order[:, :visible], order[:, visible:]


def hidden_count(tokens: int, mask_ratio: float) -> int:
    """Number of `tokens` that are hidden: the nearest integer. ValueError where it is none or
    all.
    """
    hidden = round(tokens * mask_ratio)
    if not 0 < hidden < tokens:
        raise ValueError(
            f"mask_ratio {mask_ratio} hides {hidden} of {tokens} tokens; at least one must be "
            "hidden and one visible"
        )
    return hidden


def valid_values(valid: Bool[Array, "b H W m"], patch: int) -> Float[Array, "b n"]:
    """Number of valid values of each patch token, row by row; exact up to 16 million."""
    b, height, width, m = valid.shape
    # Rows of a token first: on CPU, XLA adds eight values at once only along an axis that is short
    # and not the last.
    rows = valid.reshape(b, height // patch, patch, width // patch, patch * m).sum(
        2, dtype=jnp.int32
    )
    return rows.astype(jnp.float32).sum(-1).reshape(b, -1)


def random_blocks(
    key: jax.Array, has_data: Bool[Array, "b n"], rows: int, columns: int, hidden: int
) -> Bool[Array, "b n"]:
    """Hides `hidden` tokens of each sample in rectangles, those without data first (BEiT's
    block-wise masking, Bao et al. 2022, algorithm 1).

    Rectangles are drawn one after another until they cover enough; the last one contributes only as
    many tokens, at random, as are still missing, so the number is fixed. Areas range from 16 tokens
    (an eighth of the grid where that is less) to `hidden`, aspect ratios from 0.3 to 1 / 0.3.
    """
    b = len(has_data)
    area_key, aspect_key, top_key, left_key, noise_key = jax.random.split(key, 5)

    def draw(key, low, high):
        return jax.random.uniform(key, (b, _BLOCKS), minval=low, maxval=high)

    area = draw(area_key, min(16, rows * columns / 8), hidden)
    aspect = jnp.exp(draw(aspect_key, jnp.log(0.3), -jnp.log(0.3)))
    high = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, rows)
    wide = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, columns)
    top, left = (
        jnp.floor(draw(top_key, 0, 1) * (rows - high + 1)),
        jnp.floor(draw(left_key, 0, 1) * (columns - wide + 1)),
    )

    def between(at, start, length):
        return (at >= start[..., None]) & (at < (start + length)[..., None])

    covers = (
        between(jnp.arange(rows), top, high)[..., :, None]
        & between(jnp.arange(columns), left, wide)[..., None, :]
    )  # [b, block, rows, columns]
    first = jnp.where(covers.any(1), covers.argmax(1), _BLOCKS).reshape(b, -1)
    # The first block that covers a token decides its turn; noise below 1 orders the tokens of a
    # block.
    order = jnp.argsort(
        jnp.where(has_data, first, -1) + jax.random.uniform(noise_key, first.shape), axis=1
    )
    return jnp.argsort(order, axis=1) < hidden
