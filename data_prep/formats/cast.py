"""The option --cast of readers: float64 files, stored as the float32 of the row."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.reader import option
from eo_jax.sensors import Sensor


def cast_option() -> Any:
    """The option --cast of a reader."""
    return option(
        False, "round float64 files to float32, where --sensor has that; they are refused without"
    )


def wide(sensor: Sensor, dtype: str) -> Sensor:
    """The row to read a file of that dtype with, before `narrow` rounds it."""
    is_wide = (sensor.dtype, dtype) == ("float32", "float64")
    return dataclasses.replace(sensor, dtype="float64") if is_wide else sensor


def narrow(name: str, pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Pixels read with the `wide` row in the dtype of the sensor.

    Raises ArchiveError where a value becomes infinite, or data become no-data or the reverse.
    """
    if pixels.dtype == sensor.dtype:
        return pixels
    with np.errstate(over="ignore"):
        rounded = pixels.astype(sensor.dtype)
    changed = sensor.missing(pixels) != sensor.missing(rounded)
    if changed.any():
        value = pixels[changed].flat[0]
        raise ArchiveError(
            name,
            f"{value:g} is data in one of {pixels.dtype} and {sensor.dtype} only; give a --sensor "
            "row (JSON) with dtype float64, without --cast",
        )
    remarks.note(f"{pixels.dtype} rounded to {sensor.dtype} (--cast)")
    return rounded
