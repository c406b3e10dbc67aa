"""Writes a map as Zarr v3, as xarray and rioxarray read it: features [feature, y, x], coordinates
of the centres, and the grid mapping `spatial_ref`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from eo_jax.data.store.files import writing
from eo_jax.embed import quantise
from eo_jax.embed.dense import Map

KEY = "eo_jax_embed"  # attribute with the facts of a map
_CHUNK_BYTES = 2**24


def write_zarr(path: Path, folder: Path, features: Map, dtype: str) -> None:
    """Writes the map, or nothing; what is unfinished is in a folder on the same disk.

    float32 has NaN where there is no data; int8 has -128 there, and an array `scale` [feature].
    """
    import zarr

    unfinished = folder / "map.zarr"
    shutil.rmtree(unfinished, ignore_errors=True)
    with writing(path):
        _write(zarr.create_group(store=unfinished), features, dtype)
        unfinished.replace(path)


def facts_of(path: Path) -> dict[str, Any] | None:
    """The facts of a map that was written; None where it has none."""
    try:
        return json.loads((path / "zarr.json").read_bytes())["attributes"].get(KEY)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _write(group: Any, features: Map, dtype: str) -> None:
    scales = quantise.scales_of(features) if dtype == "int8" else None
    side = max(16, int((_CHUNK_BYTES / (np.dtype(dtype).itemsize * features.width)) ** 0.5))
    nodata = quantise.NODATA if dtype == "int8" else np.nan
    array = group.create_array(
        "features",
        shape=(features.width, features.rows, features.columns),
        chunks=(features.width, min(side, features.rows), min(side, features.columns)),
        dtype=dtype,
        fill_value=nodata,
        dimension_names=("feature", "y", "x"),
        attributes={"grid_mapping": "spatial_ref"},
    )
    for row, column, rows, columns in quantise.parts(features, side):
        values = features.read(row, column, rows, columns)
        values = values if scales is None else quantise.to_int8(values, scales)
        array[:, row : row + rows, column : column + columns] = np.moveaxis(values, -1, 0)
    if scales is not None:
        _vector(group, "scale", scales, "feature", {"meaning": "value = int8 x scale"})
    _write_place(group, features)
    group.attrs.update({KEY: features.facts})


def _write_place(group: Any, features: Map) -> None:
    if features.affine is None:
        return
    a, b, c, d, e, f = features.affine
    text = {"GeoTransform": " ".join(map(repr, (c, a, b, f, d, e)))}
    if features.crs:
        text["crs_wkt"] = CRS.from_user_input(features.crs).to_wkt()
    group.create_array("spatial_ref", shape=(), dtype="int64", attributes=text)
    if b == d == 0:  # a rotated grid has no coordinate per column and row
        _vector(group, "x", c + a * (np.arange(features.columns) + 0.5), "x", {})
        _vector(group, "y", f + e * (np.arange(features.rows) + 0.5), "y", {})


def _vector(group: Any, name: str, values: np.ndarray, axis: str, attributes: dict) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        dimension_names=(axis,),
        attributes=attributes,
    )
    array[:] = values
