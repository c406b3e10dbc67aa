"""Averages features over a window around each pixel: over all of it, or over what is alike.

A label of a pixel mostly holds for its neighbours, and their average has less noise. Across a
border it does not hold: the weighted average leaves out neighbours whose features differ.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Likeness(NamedTuple):
    """How far apart features are: distances are of channels times `per_channel`, and `scale` is the
    distance^2 at which a neighbour has a weight of 1 / e.
    """

    per_channel: np.ndarray
    scale: np.float32


def likeness(features: np.ndarray, valid: np.ndarray) -> Likeness:
    """That of an image [h, w, d]: channels of unit variance, and the median of distance^2 of
    adjacent valid pixels as the scale, so that there is nothing to choose.
    """
    inside = features[valid]
    spread = inside.std(0) if len(inside) else np.zeros(features.shape[-1])
    per_channel = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0).astype(np.float32)
    return Likeness(per_channel, _typical_step(features * per_channel, valid))


def mean_of_window(features: np.ndarray, valid: np.ndarray, window: int) -> np.ndarray:
    """float32 [h, w, d]: the mean over the valid pixels of a window around each.

    Args:
        features: [h, w, d].
        valid: bool [h, w]. A window without a valid pixel gives 0.
        window: its side, odd. What lies outside of the image does not count.

    Raises ValueError for an even window.
    """
    check_window(window)
    equal = Likeness(np.zeros(features.shape[-1], np.float32), np.float32(1))
    return mean_of_similar(features, valid, window, equal)


def mean_of_similar(
    features: np.ndarray, valid: np.ndarray, window: int, like: Likeness
) -> np.ndarray:
    """float32 [h, w, d]: the mean over a window, weighted by exp(-distance^2 / scale) of a
    neighbour's features from those of the pixel: one step of a bilateral filter (Tomasi and
    Manduchi 1998) whose guide is the features themselves.

    For other arguments and errors see `mean_of_window`.
    """
    check_window(window)
    return np.asarray(_averaged(_kept(features, valid), valid, window, *like))


def check_window(window: int) -> None:
    """Raises ValueError unless a window is odd, 1 or more."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: {window}; expected an odd number of pixels")


def _kept(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], features, 0).astype(np.float32)


def _typical_step(guide: np.ndarray, valid: np.ndarray) -> np.float32:
    """The median of distance^2 of adjacent valid pixels; 1 where there are none, or it is 0."""
    found = np.concatenate(
        [
            np.square(guide[1:] - guide[:-1]).sum(-1)[valid[1:] & valid[:-1]],
            np.square(guide[:, 1:] - guide[:, :-1]).sum(-1)[valid[:, 1:] & valid[:, :-1]],
        ]
    )
    return np.float32(np.median(found) if len(found) and np.median(found) > 0 else 1.0)


@functools.partial(jax.jit, static_argnames="window")
def _averaged(
    features: Float[Array, "h w d"],
    valid: Bool[Array, "h w"],
    window: int,
    per_channel: Float[Array, " d"],
    scale: Float[Array, ""],
) -> Float[Array, "h w d"]:
    """See `mean_of_similar`; a `per_channel` of 0 makes all weights alike."""
    (height, width), half = valid.shape, window // 2
    around = jnp.pad(features, ((half, half), (half, half), (0, 0)))
    has = jnp.pad(valid, half).astype(jnp.float32)

    def add(place, sums):
        total, weight = sums
        row, column = place // window, place % window
        near = jax.lax.dynamic_slice(around, (row, column, 0), features.shape)
        distance = jnp.square((near - features) * per_channel).sum(-1)
        share = jnp.exp(-distance / scale)
        share *= jax.lax.dynamic_slice(has, (row, column), (height, width))
        return total + share[..., None] * near, weight + share

    start = jnp.zeros(features.shape), jnp.zeros(valid.shape)
    total, weight = jax.lax.fori_loop(0, window**2, add, start)
    return total / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)[..., None]
