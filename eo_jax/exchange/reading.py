"""Reads the tensors of a file of weights: safetensors, npz, or, where that is asked for, a file of
torch.save. Nothing in a file is executed, and none takes much more memory than its size.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.exchange.npz_file import check_unpacked, read_npz
from eo_jax.exchange.safetensors_file import read_metadata, read_safetensors

Tensors = dict[str, np.ndarray]
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # endings of files of torch.save
_INDEX = ".safetensors.index.json"  # Hugging Face's, of several files
_MOST_JSON = 10**8  # bytes, as in a header of safetensors


def read_tensors(path: Path, *, allow_pth: bool = False) -> Tensors:
    """{key: array} of a file; nested dicts of a .pth file are joined with dots. bfloat16 becomes
    float32; other types stay as they are.

    Raises ValueError for a file that is not one of weights, or is truncated, and for .pth files
    unless they are allowed: those are read by torch with `weights_only=True`, which refuses
    everything but tensors and plain containers.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.name.endswith(_INDEX):
        return _sharded(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix not in TORCH:
        raise ValueError(
            f"{path}: expected .safetensors, {_INDEX}, .npz, or a file of torch.save "
            f"({', '.join(TORCH)})"
        )
    if not allow_pth:
        raise ValueError(
            f"{path}: files of torch.save are read by `python -m eo_jax.import_torch --allow-pth` "
            "only; or convert it: "
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
        return contract_of(next(iter(_shards(path))))
    if path.suffix == ".safetensors":
        text = read_metadata(path).get("eo_jax")
        return None if text is None else _parsed(path, text.encode())
    beside = path.with_suffix(".json")
    return contract_in(beside) if path.suffix in TORCH and beside.is_file() else None


def contract_in(path: Path) -> dict[str, Any] | None:
    """The contract that is the content of a .json file; None where that is something else."""
    content = _json(path)
    return content if isinstance(content, dict) and "seal" in content else None


def _json(path: Path) -> Any:
    size = path.stat().st_size
    if size > _MOST_JSON:
        raise ValueError(f"{path}: has {size:,} bytes, expected at most {_MOST_JSON:,}")
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: has no JSON that can be read ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _sharded(path: Path) -> Tensors:
    tensors: Tensors = {}
    for shard, expected in _shards(path).items():
        found = read_safetensors(shard)
        for key in sorted(found.keys() ^ expected):
            what = "lacks" if key in expected else "has, without the index saying so,"
            raise ValueError(f"{path}: {shard.name} {what} {key}; copy all of its files again")
        tensors |= found
    return tensors


def _shards(path: Path) -> dict[Path, set[str]]:
    """{file beside an index: the keys that it has}, by name."""
    index = _json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path}: lacks weight_map, the file of each tensor; copy it again")
    shards: dict[Path, set[str]] = {}
    for key, name in files.items():
        if type(name) is not str or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{path}: weight_map names {name!r}, expected .safetensors beside it")
        shards.setdefault(path.with_name(name), set()).add(key)
    for shard in shards:
        if not shard.is_file():
            raise ValueError(f"{path}: {shard.name} is not beside it; copy all of its files")
    return dict(sorted(shards.items()))


# ------------------------------------------------------------------ files of torch.save


def _pth(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: reading it needs torch: pip install 'eo_jax[torch]'; or convert it to "
            "safetensors where torch is"
        ) from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_unpacked(archive, path)
        found: Tensors = {}
        _flatten(torch.load(path, map_location="cpu", weights_only=True), "", found)
    except Exception as error:
        raise ValueError(
            f"{path}: holds more than tensors and plain containers, or is damaged "
            f"({_reason(error)}); it is not loaded. Checkpoints of MAE and DINO hold an "
            "argparse.Namespace under 'args': load such a file with weights_only=True inside `with "
            "torch.serialization.safe_globals([argparse.Namespace])`, and save its weights alone"
        ) from error
    return found


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file unsafely."""
    unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
    if unsafe:
        return f"it has {unsafe[1]}"
    first = (str(error).strip().splitlines() or [""])[0]
    return type(error).__name__ if "weights_only" in str(error) else first or type(error).__name__


def _flatten(value: Any, name: str, found: Tensors) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), found)
    elif hasattr(value, "detach") and hasattr(value, "numpy"):
        tensor = value.detach()
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} claims shape {list(tensor.shape)}, but has fewer values")
        # numpy has no bfloat16
        found[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
