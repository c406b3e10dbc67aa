"""The sensor table: the published numbers of each band of each product.

Each family of sensors is a module of this folder. A user's own sensor is a JSON file with the
result of `Sensor.row`; wherever a sensor is named, the name of such a file, which ends in .json,
works as well. Start from a similar row:

    json.dumps(get_sensor("sentinel2_l1c").row(), indent=1)
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from eo_jax.sensors.airborne import AIRBORNE
from eo_jax.sensors.base import (
    WAVELENGTH_TOLERANCE_NM,
    Band,
    Sensor,
    check_wavelengths,
    wavelength_tolerances_nm,
)
from eo_jax.sensors.checks import KINDS
from eo_jax.sensors.enmap import ENMAP, ENMAP_PRODUCT
from eo_jax.sensors.geobench import GEOBENCH
from eo_jax.sensors.hyperspectral import HYPERSPECTRAL
from eo_jax.sensors.landsat import LANDSAT
from eo_jax.sensors.rgb import RGB
from eo_jax.sensors.sentinel import SENTINEL

SENSORS = {
    sensor.id: sensor
    for sensor in (
        *(ENMAP, ENMAP_PRODUCT, *LANDSAT, *SENTINEL),
        *(*HYPERSPECTRAL, *AIRBORNE, *RGB, *GEOBENCH),
    )
}
_NEVER_DATA = ("nan", "inf", "-inf", "infinity", "-infinity")
_FILE_LIMIT = 10 * 2**20  # bytes; a row of 1000 bands has 0.1 MB


def get_sensor(sensor_id: str) -> Sensor:
    """The sensor of that id, or of that file if it ends in .json.

    Raises ValueError with the nearest id, or with the field that is wrong.
    """
    if sensor_id.endswith(".json"):
        return _read_sensor(Path(sensor_id))
    if sensor_id not in SENSORS:
        near = difflib.get_close_matches(sensor_id, SENSORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"no sensor {sensor_id!r} in the table; there are {', '.join(SENSORS)}, or a file that "
            f"ends in .json.{hint}"
        )
    return SENSORS[sensor_id]


def _without_unknown_nodata(row: Any) -> None:
    """NaN and infinity are never data of floats, whatever a row says, so they are no value of it;
    STAC writes them as text.
    """
    if not isinstance(row, dict) or not str(row.get("dtype")).startswith("float"):
        return
    if str(row.get("nodata")).lower() in _NEVER_DATA:
        row["nodata"] = None


def _read_sensor(path: Path) -> Sensor:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give the JSON of a row of the sensor table, or one of its ids"
        )
    if path.stat().st_size > _FILE_LIMIT:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes, expected the JSON of one sensor, at most "
            f"{_FILE_LIMIT} bytes"
        )
    try:
        row = json.loads(path.read_bytes())
        _without_unknown_nodata(row)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); write the result of Sensor.row()") from error
    try:
        sensor = Sensor.from_row(row)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if SENSORS.get(sensor.id, sensor) != sensor:
        raise ValueError(
            f"{path}: field 'id' is {sensor.id!r}, which the table has with other values; choose "
            "another id"
        )
    return sensor


__all__ = [
    "ENMAP",
    "ENMAP_PRODUCT",
    "KINDS",
    "SENSORS",
    "WAVELENGTH_TOLERANCE_NM",
    "Band",
    "Sensor",
    "check_wavelengths",
    "get_sensor",
    "wavelength_tolerances_nm",
]
