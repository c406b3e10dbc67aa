"""Writes state dicts as torch.save does, where torch is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_jax.data.store.files import replacing, writing
from eo_jax.exchange.tensor import Tensor


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def write_pth(path: Path, content: Mapping[str, Any]) -> None:
    """A plain file of tensors and texts, in nested dicts, that `weights_only=True` reads."""
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy(value.make().copy())
        return value if isinstance(value, str) else {k: tensors(x) for k, x in value.items()}

    with writing(path), replacing(path) as temporary:
        torch.save(tensors(content), temporary)
