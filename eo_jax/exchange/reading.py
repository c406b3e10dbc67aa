"""Reads the tensors of a file of weights: safetensors, npz, or, where that is asked for, a file of
torch.save. Nothing in a file is executed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

Tensors = dict[str, np.ndarray]


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
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix not in (".pth", ".pt", ".bin", ".ckpt", ".tar"):
        raise ValueError(
            f"{path}: expected .safetensors, .npz, or a file of torch.save (.pth, .pt, .bin, .ckpt)"
        )
    if not allow_pth:
        raise ValueError(
            f"{path}: files of torch.save are read with --allow-pth only; or convert it: "
            "safetensors.torch.save_file(torch.load(..., weights_only=True), ...)"
        )
    return _pth(path)


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
