"""The footprint of a grid: where its corners are on the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence

import rasterio
import rasterio.warp


def footprint(
    crs: str | None, affine: Sequence[float] | None, height: int, width: int
) -> list[float] | None:
    """Longitude and latitude of the four corners of a grid, [8]; None where it has no place on the
    ground.
    """
    if crs is None or affine is None:
        return None
    a, b, c, d, e, f = affine
    columns, rows = (0, width, width, 0), (0, 0, height, height)
    x = [a * column + b * row + c for column, row in zip(columns, rows, strict=True)]
    y = [d * column + e * row + f for column, row in zip(columns, rows, strict=True)]
    try:
        longitudes, latitudes = rasterio.warp.transform(crs, "EPSG:4326", x, y)
    except rasterio.errors.RasterioError:  # an engineering CRS
        return None
    corners = [value for pair in zip(longitudes, latitudes, strict=True) for value in pair]
    return corners if all(map(math.isfinite, corners)) else None


def centre(
    crs: str | None, affine: Sequence[float] | None, height: int, width: int
) -> tuple[float, float] | None:
    """Longitude and latitude of the centre of a grid; None where it has no place on the ground."""
    if crs is None or affine is None:
        return None
    a, b, c, d, e, f = affine
    column, row = width / 2, height / 2
    corners = footprint(crs, (a, b, a * column + b * row + c, d, e, d * column + e * row + f), 0, 0)
    return (corners[0], corners[1]) if corners else None
