"""What the attributes of a Zarr or HDF5 array say about its values, by the CF conventions.

https://cfconventions.org, sections 2.5.1 (missing data) and 8.1 (packed data).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.archive import ArchiveError
from eo_jax.sensors import Sensor

_FILLS = ("_FillValue", "missing_value")


def check_attributes(name: str, attributes: Mapping[str, Any], sensor: Sensor) -> None:
    """Raises ArchiveError where no-data value, scale or offset are not those of the sensor."""
    for key in _FILLS:
        value = number_of(name, attributes, key)
        if value is not None and math.isfinite(value) and value != sensor.nodata:
            raise ArchiveError(
                name,
                f"{key} is {value:g}, but {sensor.title} has the no-data value {sensor.nodata}; "
                "copy the file again, or where the reader takes a --sensor row (JSON), give one "
                "with this value",
            )
    for key, neutral, expected in (
        ("scale_factor", 1.0, sensor.scale),
        ("add_offset", 0.0, sensor.offset),
    ):
        value = number_of(name, attributes, key)
        if value is not None and value != neutral and not math.isclose(value, expected):
            raise ArchiveError(
                name,
                f"{key} is {value:g}, but {sensor.title} has {expected:g}; copy the file again",
            )


def number_of(name: str, attributes: Mapping[str, Any], key: str) -> float | None:
    """The number in an attribute, None where there is none. Raises ArchiveError."""
    if attributes.get(key) is None:
        return None
    try:
        return float(np.asarray(attributes[key]).item())
    except (ValueError, TypeError) as error:
        raise ArchiveError(
            name,
            f"{key} is {str(attributes[key])[:40]!r}, expected a number; copy the file again",
        ) from error
