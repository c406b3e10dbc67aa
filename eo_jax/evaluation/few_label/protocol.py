"""The protocol of the few-label benchmark. It was written, and committed, before the scenes of
`REPORTED_ON` were looked at.

Encoders are pretrained on all pixels of the scene without labels. A method is fitted on `LABELS`
labelled pixels of each class and scored by overall accuracy on the test pixels, with `DRAWS` draws
of the labels, the same for every method. Of the two splits, "blocks" is the one that counts: labels
come from the dark squares of a checkerboard of `BLOCK` pixels, test pixels are all labelled pixels
of the light ones. In "random" they come from anywhere, and all others are test pixels, so that most
of these have a labelled neighbour.

No setting is chosen on test pixels. Where a classifier has settings, three-fold cross-validation on
the labelled pixels chooses. A method may look at a window of `WINDOW` pixels around a pixel, the
floors too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TUNED_ON = ("pavia", "hymap")
REPORTED_ON = ("salinas_a", "enmap")

LABELS = (1, 5, 10, 20, 50)
DRAWS = 10
BLOCK = 8
WINDOW = 9
# A class counts if each half of the checkerboard has at least this many labelled pixels. For more
# labels than half of its pixels, all of those are drawn.
LEAST = 10
SPLITS = ("blocks", "random")


class Draw(NamedTuple):
    """Pixel numbers, row by row: those with a label, sorted by class, and those of the test."""

    labelled: np.ndarray
    test: np.ndarray


def dark_squares(shape: tuple[int, int]) -> np.ndarray:
    """bool [h, w], the squares of the checkerboard from which labels come."""
    rows, columns = np.indices(shape) // BLOCK
    return (rows + columns) % 2 == 0


def counted(classes: np.ndarray) -> np.ndarray:
    """Classes [h, w], 0 where a class has too few pixels to count. Raises ValueError if fewer than
    two are left.
    """
    dark = dark_squares(classes.shape)
    kept = [
        code
        for code in np.unique(classes[classes > 0])
        if min((classes[dark] == code).sum(), (classes[~dark] == code).sum()) >= LEAST
    ]
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} classes with {LEAST} labelled pixels in each half of a checkerboard of "
            f"{BLOCK} pixels; expected at least 2"
        )
    return np.where(np.isin(classes, kept), classes, 0)


def draws(classes: np.ndarray, labels: int, split: str) -> list[Draw]:
    """The draws of a split, the same for the same classes [h, w]."""
    flat, labelled = classes.ravel(), np.flatnonzero(classes)
    dark = dark_squares(classes.shape).ravel()
    pool = labelled[dark[labelled]] if split == "blocks" else labelled
    fixed = labelled[~dark[labelled]] if split == "blocks" else None
    found = []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        chosen = np.concatenate(
            [_some(pool[flat[pool] == code], labels, random) for code in np.unique(flat[labelled])]
        )
        found.append(Draw(chosen, np.setdiff1d(labelled, chosen) if fixed is None else fixed))
    return found


def _some(pixels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    return np.sort(random.choice(pixels, min(count, max(1, len(pixels) // 2)), replace=False))
