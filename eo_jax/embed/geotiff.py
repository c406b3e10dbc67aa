"""Writes a map as a Cloud Optimized GeoTIFF: tiled, with overviews, all channels of a pixel
together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from eo_jax.data.store.files import writing
from eo_jax.embed import quantise
from eo_jax.embed.dense import Map

TAG = "EO_JAX_EMBED"  # the facts of a map, as JSON
_BLOCK_BYTES = 2**24
_GDAL = {"GDAL_CACHEMAX": 256 * 2**20, "GDAL_PAM_ENABLED": "NO"}


def write_cog(path: Path, folder: Path, features: Map, dtype: str) -> None:
    """Writes the map, or nothing; what is unfinished is in a folder on the same disk.

    float32 has NaN where there is no data; int8 has -128 there, and a scale per band.
    """
    plain, cog = folder / "plain.tif", folder / "cog.tif"
    try:
        with writing(path), rasterio.Env(**_GDAL):
            _write_plain(plain, features, dtype)
            options = _options(features, dtype)
            rasterio.shutil.copy(
                plain,
                cog,
                driver="COG",
                BLOCKSIZE=options["blockxsize"],
                COMPRESS="DEFLATE",
                PREDICTOR="YES",
                OVERVIEW_RESAMPLING="AVERAGE",
                BIGTIFF="IF_SAFER",
            )
        cog.replace(path)
    except rasterio.errors.RasterioError as error:
        reason = error.__cause__ or error
        raise OSError(f"{path}: cannot be written ({reason}); is there free space?") from error


def facts_of(path: Path) -> dict[str, Any] | None:
    """The facts of a map that was written; None where it has none."""
    try:
        with rasterio.open(path, driver="GTiff") as dataset:
            return json.loads(dataset.tags().get(TAG, "null"))
    except (rasterio.errors.RasterioError, ValueError):
        return None


def _options(features: Map, dtype: str) -> dict[str, Any]:
    itemsize = np.dtype(dtype).itemsize
    side = 512
    while side > 16 and side * side * features.width * itemsize > _BLOCK_BYTES:
        side //= 2
    return {
        "driver": "GTiff",
        "height": features.rows,
        "width": features.columns,
        "count": features.width,
        "dtype": dtype,
        "nodata": quantise.NODATA if dtype == "int8" else np.nan,
        "crs": features.crs,
        "transform": rasterio.Affine(*features.affine) if features.affine else None,
        "tiled": True,
        "blockxsize": side,
        "blockysize": side,
        "interleave": "pixel",
        "bigtiff": "IF_SAFER",
    }


def _write_plain(path: Path, features: Map, dtype: str) -> None:
    """A tiled GeoTIFF, block by block."""
    options = _options(features, dtype)
    with rasterio.open(path, "w", **options) as dataset:
        dataset.update_tags(**{TAG: json.dumps(features.facts)})
        scales = quantise.scales_of(features) if dtype == "int8" else None
        if scales is not None:
            dataset.scales = scales.tolist()
        for row, column, rows, columns in quantise.parts(features, options["blockxsize"]):
            values = features.read(row, column, rows, columns)
            values = values if scales is None else quantise.to_int8(values, scales)
            dataset.write(np.moveaxis(values, -1, 0), window=Window(column, row, columns, rows))
