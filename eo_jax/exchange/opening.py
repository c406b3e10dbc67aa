"""Opens a file of weights with its contract, which are what was exported, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eo_jax.exchange.bounds import check_bounds
from eo_jax.exchange.reading import Tensors, contract_of, read_tensors
from eo_jax.exchange.sealing import check_contract, check_tensors


def open_weights(path: Path, *, allow_pth: bool = False) -> tuple[Tensors, dict[str, Any] | None]:
    """(tensors, contract) of a file; the contract is None where `eo_jax.export` did not write it.

    Raises ValueError for a file that cannot be read, see `read_tensors`, and where contract and
    tensors are not those that were exported.
    """
    contract = contract_of(path)
    if contract is not None:
        check_contract(contract, str(path))
    tensors = read_tensors(path, allow_pth=allow_pth)
    if contract is not None:
        check_tensors(contract, tensors, str(path))
        check_bounds(contract, tensors, str(path))
    return tensors, contract
