"""Writes pooled features with what is known of each file, as npz or GeoParquet."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eo_jax.data.store.files import writing

_UNKNOWN_TIME = np.datetime64("NaT", "s")


class Table(NamedTuple):
    """One row per file.

    Attributes:
        features: float32 [n, d], NaN where a file has no data.
        notes: of each row: name, sha256, lonlat, crs, time, valid_fraction.
        facts: all that decides their values.
    """

    features: np.ndarray
    notes: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]

    def column(self, name: str) -> list[Any]:
        """The values of a note, one per row."""
        return [note[name] for note in self.notes]


def write_npz(path: Path, folder: Path, table: Table) -> None:
    """Arrays name, features, lonlat [n, 2], crs, time (datetime64[s]), ..., and `facts`, JSON.

    NaN, NaT and "" stand for what is not known. Reading it needs no pickle.
    """
    arrays = {
        "name": np.array(table.column("name"), str),
        "features": table.features,
        "lonlat": np.array([_lonlat(note) for note in table.notes], float).reshape(-1, 2),
        "crs": np.array([crs or "" for crs in table.column("crs")], str),
        "time": np.array(
            [_UNKNOWN_TIME if t is None else np.datetime64(t, "s") for t in table.column("time")],
            "datetime64[s]",
        ),
        "valid_fraction": np.array(table.column("valid_fraction"), np.float32),
        "sha256": np.array(table.column("sha256"), str),
        "facts": np.array(json.dumps(table.facts)),
    }
    unfinished = folder / "table.npz"
    with writing(path):
        np.savez(unfinished, **arrays)
        unfinished.replace(path)


def facts_of_npz(path: Path) -> dict[str, Any] | None:
    """The facts of a table that was written; None where it has none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return json.loads(str(arrays["facts"]))
    except Exception:  # zipfile's, numpy's and json's: it is another file
        return None


# ------------------------------------------------------------------ Parquet


def require_pyarrow() -> Any:
    """The module. Raises ValueError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "--output: Parquet needs pyarrow: pip install 'eo_jax[parquet]', or write .npz"
        ) from error
    return pyarrow


def write_parquet(path: Path, folder: Path, table: Table) -> None:
    """GeoParquet 1.1: the columns of `write_npz`, null for what is not known, and `geometry`, the
    centre of each file as a point in longitude and latitude.

    Source: https://geoparquet.org/releases/v1.1.0/.
    """
    pa = require_pyarrow()
    width = table.features.shape[1]
    values = pa.array(np.ascontiguousarray(table.features).reshape(-1), pa.float32())
    columns = {
        "name": pa.array(table.column("name"), pa.string()),
        "geometry": pa.array(list(map(_point, table.column("lonlat"))), pa.binary()),
        "crs": pa.array(table.column("crs"), pa.string()),
        "time": pa.array(table.column("time"), pa.timestamp("s", tz="UTC")),
        "valid_fraction": pa.array(table.column("valid_fraction"), pa.float32()),
        "sha256": pa.array(table.column("sha256"), pa.string()),
        "features": pa.FixedSizeListArray.from_arrays(values, width),
    }
    geometry = {"encoding": "WKB", "geometry_types": ["Point"]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    metadata = {"geo": json.dumps(geo), "eo_jax_embed": json.dumps(table.facts)}
    made = pa.table(columns).replace_schema_metadata(metadata)
    unfinished = folder / "table.parquet"
    with writing(path):
        pa.parquet.write_table(made, unfinished)
        unfinished.replace(path)


def facts_of_parquet(path: Path) -> dict[str, Any] | None:
    """The facts of a table that was written; None where it has none."""
    pa = require_pyarrow()
    try:
        return json.loads(pa.parquet.read_schema(path).metadata[b"eo_jax_embed"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def _lonlat(note: Mapping[str, Any]) -> Sequence[float]:
    return (np.nan, np.nan) if note["lonlat"] is None else note["lonlat"]


def _point(lonlat: Sequence[float] | None) -> bytes | None:
    """Well-known binary of a point."""
    return None if lonlat is None else struct.pack("<BIdd", 1, 1, *lonlat)
