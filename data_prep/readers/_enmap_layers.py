"""Shared by the readers of EnMAP L2A: the bands to keep, and quality layers on the image's grid."""

from __future__ import annotations

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats import geotiff
from data_prep.formats.band_identity import check_count
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

LAYOUTS = {len(sensor.bands): sensor for sensor in (ENMAP, ENMAP_PRODUCT)}
# Layers of one band each, without the pixel mask per band, the test flags and the quicklooks.
QUALITY = {
    "cloud": "QL_QUALITY_CLOUD",
    "cloudshadow": "QL_QUALITY_CLOUDSHADOW",
    "cirrus": "QL_QUALITY_CIRRUS",
    "haze": "QL_QUALITY_HAZE",
    "snow": "QL_QUALITY_SNOW",
    "classes": "QL_QUALITY_CLASSES",
}


def read_layer(
    image: rasterio.DatasetReader,
    name: str,
    layer: rasterio.DatasetReader,
    window: Window | None = None,
) -> np.ndarray:
    """A quality layer uint8 [h, w], or a window of it.

    Raises ArchiveError for another dtype, and where it is not on the grid of its image.
    """
    check_count(name, layer, 1, "a quality layer")
    geotiff.check_shape(name, layer, *image.shape)
    if layer.dtypes[0] != "uint8":
        raise ArchiveError(
            name, f"quality layer is {layer.dtypes[0]}, expected uint8; copy it again"
        )
    if (layer.crs, layer.transform) != (image.crs, image.transform):
        raise ArchiveError(
            name,
            "quality layer has another CRS or transform than its image; take both from one product",
        )
    return layer.read(1, window=window)
