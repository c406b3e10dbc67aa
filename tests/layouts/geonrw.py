"""GeoNRW: three tiles of two cities, one photograph as GeoTIFF, patches of 16 pixels with
remainders at the edges.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.transform import Affine

from tests import tiny_archives

OPTIONS = {"patch_size": 16}
TILES = {"aachen/287_5623": (33, 40), "aachen/288_5623": (32, 32), "herne/371_5710": (32, 32)}
AS_TIFF = "aachen/288_5623"
GRID = {"crs": "EPSG:25832", "transform": Affine(1, 0, 287000, 0, -1, 5624000)}


def write(root: Path) -> None:
    for tile, shape in TILES.items():
        write_tile(root, tile, shape)


def write_tile(root: Path, tile: str, shape: tuple[int, int]) -> None:
    """A tile's photograph, elevation and map."""
    rng = np.random.default_rng(shape[0])
    rgb = rng.integers(0, 60, (3, *shape)) + np.array([0, 80, 160])[:, None, None]
    as_tiff = tile == AS_TIFF
    lossless = {} if as_tiff else {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    tiny_archives.write(
        root / f"{tile}_rgb.{'tif' if as_tiff else 'jp2'}",
        rgb.astype(np.uint8),
        **{**GRID, **lossless},
    )
    tiny_archives.write(
        root / f"{tile}_dem.tif", (100 + rng.normal(size=(1, *shape))).astype(np.float32), **GRID
    )
    tiny_archives.write(
        root / f"{tile}_seg.tif", rng.integers(0, 11, (1, *shape), np.uint8), **GRID
    )
