"""Classes of tokens from maps of pixels."""

from __future__ import annotations

import numpy as np

UNLABELLED = 0


def token_majority(label: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The most common class among the labelled pixels of each token, [b, H, W] -> [b, h, w]; 0
    where a token has none.
    """
    b, height, width = label.shape
    if height % grid[0] or width % grid[1]:
        raise ValueError(
            f"labels of {height} x {width} pixels do not divide into {grid[0]} x {grid[1]} dense "
            "features; choose another data.crop"
        )
    tokens = (
        label.reshape(b, grid[0], height // grid[0], grid[1], width // grid[1])
        .transpose(0, 1, 3, 2, 4)
        .reshape(b, *grid, -1)
    )
    classes = np.unique(label)
    classes = classes[classes != UNLABELLED]
    if not len(classes):
        return np.zeros((b, *grid), label.dtype)
    counts = np.stack([(tokens == code).sum(-1) for code in classes], axis=-1)
    return np.where(counts.max(-1) > 0, classes[counts.argmax(-1)], UNLABELLED)
