"""Checksums of every tensor and of every field of the contract, taken at the export, so that later
changes are found by name. They find mistakes; they do not prove who wrote a file.

`eo_jax_torch.py` compares the same checksums. This module needs neither JAX nor a network.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eo_jax.exchange.tensor import Tensor

VERSION = 2  # of the contract's fields
_AGAIN = "take the file as it was exported, or export it again from the run"
_LISTED = 5  # names in a message
# Without these, nothing can be checked.
_NEEDED = {
    "layout": str,
    "encoder": str,
    "pool": str,
    "stem": dict,
    "trunk": dict,
    "architecture": dict,
    "sensor": dict,
    "mean": list,
    "std": list,
    "image_size": int,
}


def sealed(contract: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The contract with "seal": {"fields": {path: checksum}, "tensors": {key: [dtype, shape,
    checksum]}}. Each tensor is made once, and only one is in memory.

    Raises ValueError for a tensor whose values are not finite.
    """
    bare = {name: value for name, value in contract.items() if name != "seal"}
    fields = {path: checksum(value) for path, value in leaves(bare)}
    return {**bare, "seal": {"fields": fields, "tensors": _rows(tensors)}}


def _rows(tensors: Mapping[str, Tensor]) -> dict[str, list]:
    rows = {}
    for key, tensor in tensors.items():
        array = tensor.make()
        if not np.isfinite(array).all():
            raise ValueError(f"export: {key} has values that are not finite; choose another step")
        rows[key] = _row(array)
    return rows


def check_contract(contract: Any, where: str) -> None:
    """Raises ValueError with the field for a contract that is not what was exported.

    Args:
        where: the file, for messages.
    """
    if not isinstance(contract, dict) or contract.get("version") != VERSION:
        found = contract.get("version") if isinstance(contract, dict) else type(contract).__name__
        raise ValueError(
            f"{where}: its contract has version {found!r}, expected {VERSION}; export it again "
            "with this version of eo_jax"
        )
    before = _seal(contract, "fields", where)
    now = _fields(contract, where)
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            raise ValueError(f"{where}: the contract lacks its field {path}; {_AGAIN}")
        if path not in before:
            raise ValueError(f"{where}: the contract has an unknown field {path}; {_AGAIN}")
        if checksum(now[path]) != before[path]:
            raise ValueError(
                f"{where}: the contract's field {path} was changed after the export; it is "
                f"{_short(now[path])}; {_AGAIN}"
            )
    for name, kind in _NEEDED.items():
        if not isinstance(contract.get(name), kind):
            raise ValueError(
                f"{where}: the contract's field {name} is {_short(contract.get(name))}, expected "
                f"{kind.__name__}; {_AGAIN}"
            )


def check_tensors(
    contract: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str
) -> None:
    """Raises ValueError with the key for tensors that are not what was exported."""
    before = _seal(contract, "tensors", where)
    for what, keys in (
        ("lacks", sorted(before.keys() - tensors.keys())),
        ("has, without their being exported,", sorted(tensors.keys() - before.keys())),
    ):
        if keys:
            more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
            raise ValueError(f"{where}: {what} {', '.join(keys[:_LISTED])}{more}; {_AGAIN}")
    for key, array in tensors.items():
        _check_tensor(key, array, before[key], where)


def _check_tensor(key: str, array: np.ndarray, before: Any, where: str) -> None:
    if not isinstance(before, list) or len(before) != 3:
        raise ValueError(f"{where}: the seal of {key} is {_short(before)}; {_AGAIN}")
    for what, found, exported in (
        ("type", array.dtype.name, before[0]),
        ("shape", list(array.shape), before[1]),
    ):
        if found != exported:
            raise ValueError(
                f"{where}: {key} has {what} {found}, exported was {exported}; {_AGAIN}"
            )
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: {key} has values that are not finite; {_AGAIN}")
    if _row(array) != before:
        raise ValueError(
            f"{where}: the values of {key} were changed, or put in another order, after the "
            f"export; {_AGAIN}"
        )


def _fields(contract: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return dict(leaves({name: value for name, value in contract.items() if name != "seal"}))
    except RecursionError as error:
        raise ValueError(f"{where}: the contract is nested too deeply; {_AGAIN}") from error


def checksum(value: Any) -> str:
    """CRC-32 of a value as JSON, hexadecimal."""
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path with dots, value) of everything in nested dicts; a list is one value."""
    if not isinstance(value, Mapping) or not value:
        yield path, value
        return
    for name, inner in value.items():
        yield from leaves(inner, f"{path}.{name}" if path else name)


def _row(array: np.ndarray) -> list:
    values = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return [array.dtype.name, list(array.shape), f"{values:08x}"]


def _seal(contract: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
    seal = contract.get("seal")
    found = seal.get(part) if isinstance(seal, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: the contract lacks its checksums (seal.{part}); {_AGAIN}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
