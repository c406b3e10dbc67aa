"""Batches whose pixels are still the differences that a store keeps, and their pixels on the host.

A store keeps integers as differences of neighbouring bands. With
`config.data.undo_differences="device"` a source's fields have "band_differences/<n>" instead of
"pixels", of the same shape and dtype: bands 0, n, 2n ... are digital numbers, every other band is
its difference to the band before it, modulo 2^bits. `eo_jax.augment.differences` sums them up
inside jit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eo_jax.schema import DIFFERENCES


def pixels_key(bands: int) -> str:
    """The field of a batch whose differences start again after so many bands; 0: its pixels."""
    return f"{DIFFERENCES}{bands}" if bands else "pixels"


def with_pixels(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a batch on the host, with pixels [b, t, c, h, w] in place of differences."""
    found = dict(fields)
    for name in fields:
        if name.startswith(DIFFERENCES):
            found["pixels"] = _summed(found.pop(name), int(name.removeprefix(DIFFERENCES)))
    return found


def _summed(differences: np.ndarray, bands: int) -> np.ndarray:
    parts = [
        np.cumsum(differences[:, :, first : first + bands], axis=2, dtype=differences.dtype)
        for first in range(0, differences.shape[2], bands)
    ]
    return np.concatenate(parts, axis=2)
