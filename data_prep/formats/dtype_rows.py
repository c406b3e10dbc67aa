"""Sensor rows for archives whose files may have another dtype than the sensor table."""

from __future__ import annotations

import dataclasses

import numpy as np

from eo_jax.sensors import Sensor


def rows_by_dtype(sensor: Sensor, *dtypes: str) -> dict[str, Sensor]:
    """{dtype: row}: the table's own row, and for each other dtype a row `<id>_<dtype>` that differs
    in the dtype only.

    A no-data value that the dtype cannot represent becomes None.
    """
    rows = {}
    for dtype in dtypes:
        nodata = (
            sensor.nodata if sensor.nodata is not None and _holds(dtype, sensor.nodata) else None
        )
        rows[dtype] = dataclasses.replace(
            sensor, id=f"{sensor.id}_{dtype}", dtype=dtype, nodata=nodata
        )
    return {**rows, sensor.dtype: sensor}


def _holds(dtype: str, value: float) -> bool:
    if np.dtype(dtype).kind == "f":
        return True
    limits = np.iinfo(dtype)
    return (
        value == int(value) and limits.min <= value <= limits.max if np.isfinite(value) else False
    )
