"""Reads safetensors with numpy alone. bfloat16, which numpy lacks, becomes float32, which has all
of its values.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

# Source: https://github.com/huggingface/safetensors#format.
_BFLOAT16 = "BF16"
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    _BFLOAT16: "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header. Raises ValueError where the header cannot be read."""
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file that can be read ({error})") from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """{key: array}.

    Raises ValueError for a file that is damaged, and for types that numpy does not have.
    """
    read_metadata(path)  # the library holds sizes and offsets to the length of the file
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for key, row in header.items():
            if row["dtype"] not in _TYPES:
                raise ValueError(
                    f"{path}: {key} has type {row['dtype']}; expected one of {', '.join(_TYPES)}; "
                    "write the file again with tensor.float()"
                )
        return {key: _tensor(file, 8 + length, row) for key, row in header.items()}


def _tensor(file: BinaryIO, start: int, row: dict[str, Any]) -> np.ndarray:
    file.seek(start + row["data_offsets"][0])
    values = np.fromfile(file, _TYPES[row["dtype"]], math.prod(row["shape"]))
    if row["dtype"] == _BFLOAT16:  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(row["shape"])
