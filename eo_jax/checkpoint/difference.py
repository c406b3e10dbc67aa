"""How two checkpoints differ, array by array."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eo_jax.checkpoint.saved import Saved


def differences(a: Saved, b: Saved) -> Iterator[tuple[str, str]]:
    """(path, how its array differs) for every path that either has; "" where all bits are equal.

    Raises DamagedError where an array is not what was saved.
    """
    for path in sorted(a.manifest.leaves.keys() | b.manifest.leaves.keys()):
        yield path, _difference(*(_array(saved, path) for saved in (a, b)))


def _array(saved: Saved, path: str) -> np.ndarray | None:
    """None where the checkpoint has no array of that path."""
    return saved.array(path) if path in saved.manifest.leaves else None


def _difference(a: np.ndarray | None, b: np.ndarray | None) -> str:
    if a is None or b is None:
        return "only in the first" if b is None else "only in the second"
    kinds = [f"{array.dtype}{list(array.shape)}" for array in (a, b)]
    if kinds[0] != kinds[1]:
        return " and ".join(kinds)
    count = np.count_nonzero((_bits(a) != _bits(b)).any(axis=1))
    if not count:
        return ""
    a, b = (np.asarray(array, np.float64) for array in (a, b))
    return (
        f"{count} of {a.size} values differ, by at most {_largest(a - b):.3g}; the largest of the "
        f"first is {_largest(a):.3g}"
    )


def _largest(values: np.ndarray) -> float:
    """The largest magnitude of those that are finite."""
    return np.max(np.abs(values[np.isfinite(values)]), initial=0)


def _bits(array: np.ndarray) -> np.ndarray:
    """Each value as bytes, [size, bytes of one], so that NaN equals NaN, and 0 differs from -0."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
