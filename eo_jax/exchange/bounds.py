"""Whether the numbers in a contract can be those of the tensors in its file. A contract may come
from anywhere, and a network is made as it says: a depth of a billion would take all memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_MOST_SIDE = 4096  # pixels of a view of a network without positions
_SECTIONS = ("architecture", "stem", "trunk")
_COUNTS = ("depth", "layers", "blocks")  # of blocks, each of which has tensors


def check_bounds(
    contract: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str
) -> None:
    """Raises ValueError with the field for a number that no tensor of the file has room for.

    Args:
        where: the file, for messages.
    """
    longest = max((n for array in tensors.values() for n in array.shape), default=0)
    for section in _SECTIONS:
        for name, value in contract[section].items():
            most = len(tensors) if name in _COUNTS else longest
            numbers = [x for x in _listed(value) if isinstance(x, int | float)]
            fits = all(0 <= x <= most for x in numbers)
            _need(fits, where, f"{section}.{name}", value, f"at most {most}")
    _check_size(contract["architecture"], contract["image_size"], where)


def _check_size(architecture: Mapping[str, Any], size: int, where: str) -> None:
    for name in ("patch", "width", *{"tokens"} & architecture.keys()):
        found = architecture.get(name)
        fits = type(found) is int and found > 0
        _need(fits, where, f"architecture.{name}", found, "1 or more")
    if "tokens" not in architecture:
        fits = 0 < size <= _MOST_SIDE
        _need(fits, where, "image_size", size, f"1 to {_MOST_SIDE}")
        return
    tokens = architecture["tokens"]
    side = math.isqrt(tokens) * architecture["patch"]
    _need(size == side, where, "image_size", size, f"{side}, as it has {tokens} tokens,")


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _need(holds: bool, where: str, field: str, found: Any, expected: str) -> None:
    if not holds:
        raise ValueError(
            f"{where}: the contract's field {field} is {found!r}, expected {expected} by the "
            "tensors in the file; take the file as it was exported"
        )
