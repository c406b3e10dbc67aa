"""The tasks of GEO-Bench v1: which dataset of a file is which band, and what its labels mean.

Names in the files are not always the bands: in m-eurosat, the names from the ninth on are shifted
(08A is B9, 09 is B10, 10 is B11, 11 is B12, 12 is B8A), by the statistics of the files and by
correlations of bands. In m-brick-kiln, "08A" and "09" have the values of B11 and B12, and "10" to
"12" are 8-bit pictures, which are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eo_jax.sensors import Sensor, get_sensor

_S2 = {
    "B1": "01 - Coastal aerosol",
    "B2": "02 - Blue",
    "B3": "03 - Green",
    "B4": "04 - Red",
    "B5": "05 - Vegetation Red Edge",
    "B6": "06 - Vegetation Red Edge",
    "B7": "07 - Vegetation Red Edge",
    "B8": "08 - NIR",
    "B8A": "08A - Vegetation Red Edge",
    "B9": "09 - Water vapour",
    "B10": "10 - SWIR - Cirrus",
    "B11": "11 - SWIR",
    "B12": "12 - SWIR",
}
_EUROSAT = _S2 | {
    "B8A": "12 - SWIR",
    "B9": "08A - Vegetation Red Edge",
    "B10": "09 - Water vapour",
    "B11": "10 - SWIR - Cirrus",
    "B12": "11 - SWIR",
}
_BRICK_KILN = _S2 | {"B11": "08A - Vegetation Red Edge", "B12": "09 - Water vapour"}
_OLI = {
    "SR_B2": "02 - Blue",
    "SR_B3": "03 - Green",
    "SR_B4": "04 - Red",
    "SR_B5": "05 - NIR",
    "SR_B6": "06 - SWIR1",
    "SR_B7": "07 - SWIR2",
}
_COLOURS = {"red": "Red", "green": "Green", "blue": "Blue", "nir": "NIR"}


class Task(NamedTuple):
    """A task.

    Attributes:
        sensor: the row of its bands.
        names: {band: name in the files}.
        kind: "class", "multilabel" or "map".
        classes: number of codes in the files, which count from 0.
        unlabelled: the code of a map without a class; None where every code is one.
    """

    sensor: Sensor
    names: Mapping[str, str]
    kind: str
    classes: int
    unlabelled: int | None = None


TASKS = {
    "m-eurosat": Task(get_sensor("sentinel2_l1c"), _EUROSAT, "class", 10),
    "m-bigearthnet": Task(get_sensor("sentinel2_l2a_bigearthnet"), _S2, "multilabel", 43),
    "m-so2sat": Task(get_sensor("sentinel2_so2sat"), _S2, "class", 17),
    "m-forestnet": Task(get_sensor("geobench_forestnet"), _OLI, "class", 12),
    "m-brick-kiln": Task(get_sensor("geobench_brick_kiln"), _BRICK_KILN, "class", 2),
    "m-pv4ger": Task(get_sensor("geobench_pv4ger"), _COLOURS, "class", 2),
    "m-pv4ger-seg": Task(get_sensor("geobench_pv4ger"), _COLOURS, "map", 2),
    "m-cashew-plant": Task(get_sensor("sentinel2_l2a"), _S2, "map", 7, 0),
    "m-SA-crop-type": Task(get_sensor("geobench_sa_crop_type"), _S2, "map", 10, 0),
    "m-nz-cattle": Task(get_sensor("geobench_nz_cattle"), _COLOURS, "map", 2),
    "m-NeonTree": Task(get_sensor("geobench_neontree"), _COLOURS, "map", 2),
    "m-chesapeake": Task(get_sensor("geobench_chesapeake"), _COLOURS, "map", 7, 6),
}
