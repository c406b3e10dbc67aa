"""Stores of any number of records, whose shards are all the same file.

`benchmarks.opening` has the rows of a whole store in memory. Here the index is written shard by
shard, so that ten million rows take no more memory than a thousand.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import opening
from eo_jax.data.store import index_file
from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.manifest import content_sha256
from eo_jax.data.store.zarr_shards import Kind

PER_SHARD = opening.PER_SHARD
_PER_LOCATION = opening.DATES * len(opening.SENSORS)  # records


def write_store(path: Path, format: str, records: int) -> None:
    """The store of `opening.write_store`, to the byte; `records` is a multiple of 1000."""
    opening.write_store(path, format, PER_SHARD)
    with np.load(path / "index.npz") as first:
        columns = {name: first[name] for name in first.files}
    _write_index(path / "index.npz", columns, records)
    manifest = json.loads((path / "manifest.json").read_bytes())
    shards = records // PER_SHARD
    manifest |= {
        "samples": records,
        "tasks": shards,
        "shards": _link_shards(path, manifest, shards),
    }
    if "arrays" in manifest:
        manifest["arrays"] = _write_arrays(path, format, columns, shards)
    with (path / "index.npz").open("rb") as index:
        manifest["index_sha256"] = hashlib.file_digest(index, "sha256").hexdigest()
    manifest["content_sha256"] = content_sha256(manifest)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_atomically(path / "manifest.json", text.encode())


def _write_index(file: Path, first: dict[str, np.ndarray], records: int) -> None:
    """An index as np.savez writes it: the columns of the first shard over and over, but for those
    that differ between shards.
    """
    changing = _changing(records)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for name, column in first.items():
            about = np.lib.format.header_data_from_array_1_0(column)
            about["shape"] = (records, *column.shape[1:])
            shards = changing.get(name, itertools.repeat(column, records // PER_SHARD))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, about)
                for rows in shards:
                    member.write(rows.astype(column.dtype).tobytes())


def _changing(records: int) -> dict[str, Iterator[np.ndarray]]:
    """{column: its rows in each shard} of those that differ between shards."""
    locations = max(1, records // _PER_LOCATION)
    starts = range(0, records, PER_SHARD)

    def codes(first: int) -> np.ndarray:
        return np.arange(first, first + PER_SHARD) // 2 * opening.STEP % locations

    return {
        "group": (np.strings.zfill(codes(first).astype("U7"), 7) for first in starts),
        "group_code": map(codes, starts),
        "shard": (np.full(PER_SHARD, first // PER_SHARD) for first in starts),
    }


def _link_shards(path: Path, manifest: dict[str, Any], shards: int) -> list[dict[str, Any]]:
    """The manifest's entries of so many shards, whose files are links to those of the first."""
    (first,) = manifest["shards"]
    entries = opening.numbered(first, shards)
    for entry in entries[1:]:
        for file, source in zip(opening.files(entry), opening.files(first), strict=True):
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(path / source, path / file)
    return entries


def _write_arrays(
    path: Path, format: str, columns: dict[str, np.ndarray], shards: int
) -> dict[str, Any]:
    """Writes zarr.json of each kind of pixels; the manifest's entries."""
    arrays = {}
    for about in index_file.kinds(columns):
        kind = Kind(format, *about)
        data = kind.metadata(shards, PER_SHARD)
        write_atomically(path / kind.metadata_name, data)
        digest = hashlib.sha256(data).hexdigest()
        arrays[kind.name] = {"file": kind.metadata_name, "bytes": len(data), "sha256": digest}
    return arrays
