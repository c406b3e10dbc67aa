"""GDAL's mask of a raster: internal masks, .msk files and alpha bands become no-data values.

https://gdal.org/development/rfc/rfc15_nodatabitmask.html; a no-data tag is a mask as well, but the
row of the sensor table already covers it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from eo_jax.sensors import Sensor


def has_mask(dataset: rasterio.DatasetReader) -> bool:
    """Whether a file has a mask or an alpha band, besides a no-data tag."""
    return any(
        MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
        for flags in dataset.mask_flag_enums
    )


def apply_mask(
    name: str,
    dataset: rasterio.DatasetReader,
    sensor: Sensor,
    pixels: np.ndarray,
    numbers: Sequence[int],
    window: Window | None,
) -> np.ndarray:
    """The pixels [c, h, w] with the sensor's no-data value wherever the file's mask excludes them.

    Afterwards `sensor.missing` is GDAL's mask. Raises ArchiveError where the sensor has no value
    for masked pixels, and where a valid pixel has that value.
    """
    if not has_mask(dataset):
        return pixels
    masked = dataset.read_masks(list(numbers), window=window) == 0
    _check_valid(name, sensor, pixels, masked)
    if not masked.any():
        return pixels
    remarks.note("no-data by the mask or alpha band of the file")
    return np.where(masked, _fill(name, sensor, pixels, masked), pixels).astype(pixels.dtype)


def _fill(name: str, sensor: Sensor, pixels: np.ndarray, masked: np.ndarray) -> float:
    if sensor.nodata is not None:
        return sensor.nodata
    if pixels.dtype.kind == "f":
        return np.nan
    raise ArchiveError(
        name,
        f"its mask excludes {masked.mean():.1%} of the pixels, but {sensor.title} has no no-data "
        'value for them; give a --sensor row (JSON) with a "nodata" that no valid pixel has'
        f"{_free_value(pixels, masked)}",
    )


def _free_value(pixels: np.ndarray, masked: np.ndarray) -> str:
    """A value that no valid pixel of this file has, as a hint."""
    valid, limits = pixels[~masked], np.iinfo(pixels.dtype)
    free = [value for value in (0, limits.max, limits.min) if not (valid == value).any()]
    return f", such as {free[0]} in this file" if free else ""


def _check_valid(name: str, sensor: Sensor, pixels: np.ndarray, masked: np.ndarray) -> None:
    if sensor.nodata is None:
        return
    clash = ~masked & (pixels == sensor.nodata)
    if clash.any():
        band, row, column = np.argwhere(clash)[0]
        raise ArchiveError(
            name,
            f"{clash.sum()} pixels that its mask declares valid have the no-data value "
            f"{sensor.nodata:g} of {sensor.title}, the first in band {band + 1} at row {row}, "
            f"column {column}; give a --sensor row (JSON) with a no-data value that no valid pixel "
            "has",
        )
