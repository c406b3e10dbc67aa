"""Label maps whose pixels are larger or smaller than those of their image, by a rule that is named.

The same ground is assumed for both, since maps in .mat files have no coordinates.
"""

from __future__ import annotations

import numpy as np

from data_prep.archive import ArchiveError

RULES = ("nearest", "mode")


def on_grid(name: str, classes: np.ndarray, shape: tuple[int, int], rule: str) -> np.ndarray:
    """A map [h, w] on a grid of `shape`, which is a whole multiple of it, or the reverse.

    Larger pixels of a map are repeated, by either rule. Of smaller ones, "nearest" takes the one at
    the centre (the lower right of the four around it), "mode" the most frequent class, unlabelled
    counting as one, and of equally frequent ones the smallest. Raises ArchiveError for other sizes.
    """
    finer = _factor(classes.shape, shape)
    coarser = _factor(shape, classes.shape)
    if coarser:
        return classes.repeat(coarser, 0).repeat(coarser, 1)
    if not finer:
        sizes = " and ".join(f"{height} x {width}" for height, width in (classes.shape, shape))
        raise ArchiveError(
            name,
            f"label map and image have {sizes} pixels, of which neither is a whole multiple of the "
            "other; resample the map to the grid of the image",
        )
    if rule == "nearest":
        return classes[finer // 2 :: finer, finer // 2 :: finer]
    return _mode(classes, finer)


def _factor(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    """How many pixels of `fine` a side of one of `coarse` has; 0 where that is not a whole number,
    or not the same for both sides.
    """
    factor = fine[0] // coarse[0]
    return factor if fine == tuple(side * factor for side in coarse) else 0


def _mode(classes: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in classes.shape)
    best = np.zeros((height, width), classes.dtype)
    most = np.zeros((height, width), np.int64)
    for value in np.unique(classes):  # ascending, so that the smallest of equals stays
        same = (classes == value).reshape(height, factor, width, factor)
        count = same.sum(axis=(1, 3))
        best[count > most] = value
        most = np.maximum(most, count)
    return best
