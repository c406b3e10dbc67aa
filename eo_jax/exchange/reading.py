"""Reads the tensors of a file of weights: safetensors, npz, or, where that is asked for, a file of
torch.save. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

Tensors = dict[str, np.ndarray]
_INDEX = ".safetensors.index.json"  # Hugging Face's, of several files
_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_tensors(path: Path, *, allow_pth: bool = False) -> Tensors:
    """{key: array} of a file; nested dicts of a .pth file are joined with dots.

    Raises ValueError for a file that is not one of weights, or is truncated, and for .pth files
    unless they are allowed: those are read by torch with `weights_only=True`, which refuses
    everything but tensors and plain containers.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.name.endswith(_INDEX):
        return _sharded(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix not in _TORCH:
        raise ValueError(
            f"{path}: expected .safetensors, {_INDEX}, .npz, or a file of torch.save "
            f"({', '.join(_TORCH)})"
        )
    if not allow_pth:
        raise ValueError(
            f"{path}: files of torch.save are read with --allow-pth only; or convert it: "
            "safetensors.torch.save_file(torch.load(..., weights_only=True), ...)"
        )
    return _pth(path)


def contract_of(path: Path) -> dict[str, Any] | None:
    """The contract of a file that `eo_jax.export` wrote, from its header, or beside a .pth file;
    None for other files. It is not checked.

    Raises ValueError where the header cannot be read.
    """
    if not path.is_file():
        return None
    if path.name.endswith(_INDEX):
        return contract_of(_shards(path)[0])
    if path.suffix == ".safetensors":
        return _from_header(path)
    beside = path.with_suffix(".json")
    if path.suffix not in _TORCH or not beside.is_file():
        return None
    content = _parsed(beside, beside.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) and "seal" in content else None


def _from_header(path: Path) -> Any:
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get("eo_jax")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read ({error})") from error
    return None if text is None else _parsed(path, text)


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its contract is not JSON that can be read ({error})") from error


def _sharded(path: Path) -> Tensors:
    tensors: Tensors = {}
    for shard in _shards(path):
        tensors |= read_tensors(shard)
    return tensors


def _shards(path: Path) -> list[Path]:
    """The files that an index names, which are beside it."""
    index = _parsed(path, path.read_text(encoding="utf-8"))
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{path}: lacks weight_map, the file of each tensor; copy it again")
    shards = sorted(set(map(str, names.values())))
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{path}: weight_map names {name!r}, expected .safetensors beside it")
        if not path.with_name(name).is_file():
            raise ValueError(f"{path}: {name} is not beside it; copy all of its files")
    return [path.with_name(name) for name in shards]


def _safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, "np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read ({error})") from error


def _npz(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an NPZ file that can be read ({error})") from error


def _pth(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: reading it needs torch: pip install 'eo_jax[torch]'; or convert it to "
            "safetensors where torch is"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path}: holds more than tensors and plain containers, or is damaged ({first}); it is "
            "not loaded. Checkpoints of MAE and DINO hold an argparse.Namespace under 'args': load "
            "such a file with weights_only=True inside `with torch.serialization.safe_globals("
            "[argparse.Namespace])`, and save its weights alone"
        ) from error
    found: Tensors = {}
    _flatten(content, "", found)
    return found


def _flatten(value: Any, name: str, found: Tensors) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), found)
    elif hasattr(value, "detach") and hasattr(value, "numpy"):
        tensor = value.detach()
        # numpy has no bfloat16
        found[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
