"""Hashes of a state, to compare runs by."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from eo_jax import rules


def leaf_hashes(state: Any) -> dict[str, str]:
    """SHA-256 of every leaf (dtype, shape, bytes) by path."""
    hashes = {}
    for path, leaf in rules.paths(state):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
        hashes[path] = digest.hexdigest()
    return hashes


def state_hash(hashes: dict[str, str]) -> str:
    """One SHA-256 over the hashes of all leaves."""
    return hashlib.sha256(
        "\n".join(f"{path} {digest}" for path, digest in sorted(hashes.items())).encode()
    ).hexdigest()
