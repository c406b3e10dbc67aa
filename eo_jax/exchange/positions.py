"""Learned positions for another image size."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.schema import Params

_MOST_SIDE = 512  # rows and columns of tokens


def resample_positions(table: np.ndarray, side: int, prefix: int = 1) -> np.ndarray:
    """[1, prefix + n, d] -> [1, prefix + side^2, d]: patch positions resampled with a cubic kernel
    (a = -0.5) and anti-aliasing, as timm does with torch's bicubic; those before them stay.
    """
    table = np.asarray(table, np.float32)
    before = round((table.shape[1] - prefix) ** 0.5)
    grid = table[0, prefix:].reshape(before, before, -1)
    weights = _cubic_weights(before, side)
    resampled = np.einsum("ih,hwd,jw->ijd", weights, grid, weights, optimize=True)
    patches = resampled.reshape(1, side * side, -1).astype(np.float32)
    return np.concatenate([table[:, :prefix], patches], axis=1)


def _cubic_weights(before: int, after: int) -> np.ndarray:
    """[after, before], torch's bicubic with antialias=True: support 2 pixels of the coarser grid,
    edges renormalised.
    """
    scale = before / after
    width = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / width
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


def check_image_size(encoder: Encoder, image_size: int, option: str) -> None:
    """Raises ValueError for views that tokens do not divide, or that have very many.

    Args:
        option: that gave the size, for the message.
    """
    side, rest = divmod(image_size, encoder.patch)
    if rest or not 1 <= side <= _MOST_SIDE:
        raise ValueError(
            f"{option}: {image_size}; expected a multiple of {encoder.patch}, the side of a token "
            f"in pixels, up to {_MOST_SIDE * encoder.patch}"
        )


def resized(
    encoder: Encoder, params: Params, image_size: int, option: str
) -> tuple[Encoder, Params]:
    """An encoder with learned positions for another image size, which tokens divide; one without
    stays as it is.

    Args:
        option: that gave the size, for the message.

    Raises ValueError for relative positions, which are not resampled.
    """
    if encoder.kind != "tokens" or not getattr(encoder.trunk, "grid", 0):
        return encoder, params
    side = image_size // encoder.patch
    if side == encoder.trunk.grid:
        return encoder, params
    if encoder.trunk.positions != "learned":
        raise ValueError(
            f"{option}: {image_size}; relative positions are for views of "
            f"{encoder.trunk.grid * encoder.patch} pixels, and are not resampled"
        )
    trunk = dataclasses.replace(encoder.trunk, grid=side)
    table = resample_positions(params["trunk"]["position_embedding"]["table"], side)
    params = jax.tree.map(np.asarray, params)
    params["trunk"] = {**params["trunk"], "position_embedding": {"table": table}}
    return make_encoder(encoder.stem, trunk, encoder.sensor, encoder.dtype), params
