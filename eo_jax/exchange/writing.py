"""Writes tensors one after the other, so that only one of them is in memory besides the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eo_jax.data.store.files import replacing, write_atomically, writing
from eo_jax.exchange.outputs import check_free
from eo_jax.exchange.tensor import Tensor

_SHARD_BYTES = 5 * 10**9  # Hugging Face's
_TYPES = {"float32": "F32", "int64": "I64"}


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """A safetensors file: eight bytes with the length of a JSON header, the header, the values.

    The library's own writer takes all tensors at once. Source:
    https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight bytes
    with writing(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.make(), np.dtype(tensor.dtype)).data)


def write_model(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> list[Path]:
    """One file, or above 5 GB shards with Hugging Face's index beside them; returns the files of
    weights.

    Raises ValueError where one of these is there already, and is not of an earlier export.
    """
    parts = in_shards(tensors, _SHARD_BYTES)
    if len(parts) == 1:
        check_free([path])
        write_safetensors(path, tensors, metadata)
        return [path]
    index_file = path.with_name(f"{path.name}.index.json")
    count = len(parts)
    shards = [
        path.with_name(f"{path.stem}-{k:05d}-of-{count:05d}.safetensors")
        for k in range(1, count + 1)
    ]
    check_free([*shards, index_file])
    weight_map: dict[str, str] = {}
    for shard, part in zip(shards, parts, strict=True):
        write_safetensors(shard, part, metadata)
        weight_map |= dict.fromkeys(part, shard.name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_atomically(index_file, (json.dumps(index, indent=1) + "\n").encode())
    return shards


def in_shards(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """The tensors in order, in parts of at most `most` bytes (or one tensor)."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts
