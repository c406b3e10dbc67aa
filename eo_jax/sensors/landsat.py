"""Landsat TM, ETM+ and OLI/TIRS: SSL4EO-L products, level 1, Collection 2.

Level 1 is as cloud benchmarks store it, and as Collection 2 delivers it. Landsat 4 TM and Landsat 9
OLI-2 have the nominal ranges of Landsat 5 and 8, and share their rows.

Sources: band ranges and native GSD as in torchgeo (datasets/landsat.py, band_data.csv); a centre
here is the middle of the range, a FWHM its width. uint8 scaling and file order of SSL4EO-L from
torchgeo's experiments/ssl4eo/landsat. SSL4EO-L publishes no mean and standard deviation (its data
module divides by 255), and its uint8 has no value for no-data: 0 is the lower end of the scale.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from eo_jax.sensors.base import Band, Sensor

_RANGES = "torchgeo datasets/landsat.py, band_data.csv (ranges)"

# Lower and upper end in nm, native GSD in m.
_Range = tuple[int, int, float]
_TM: dict[int, _Range] = {
    1: (450, 520, 30.0),
    2: (520, 600, 30.0),
    3: (630, 690, 30.0),
    4: (760, 900, 30.0),
    5: (1550, 1750, 30.0),
    6: (10400, 12500, 120.0),
    7: (2080, 2350, 30.0),
}
_ETM: dict[int, _Range] = {
    1: (450, 520, 30.0),
    2: (520, 600, 30.0),
    3: (630, 690, 30.0),
    4: (770, 900, 30.0),
    5: (1550, 1750, 30.0),
    6: (10400, 12500, 60.0),
    7: (2090, 2350, 30.0),
    8: (520, 900, 15.0),
}
_OLI_TIRS: dict[int, _Range] = {
    1: (430, 450, 30.0),
    2: (450, 510, 30.0),
    3: (530, 590, 30.0),
    4: (640, 670, 30.0),
    5: (850, 880, 30.0),
    6: (1570, 1650, 30.0),
    7: (2110, 2290, 30.0),
    8: (500, 680, 15.0),
    9: (1360, 1380, 30.0),
    10: (10600, 11190, 100.0),
    11: (11500, 12510, 100.0),
}

_TOA = {"scale": 0.4 / 255, "units": "top-of-atmosphere reflectance"}  # 0..0.4 in 0..255
# 248.15..318.15 K in 0..255.
_KELVIN = {
    "scale": (318.15 - 248.15) / 255,
    "offset": 248.15,
    "units": "K",
}
_SR = {"scale": 0.3 / 255, "units": "surface reflectance"}  # 0..0.3 in 0..255
_SR_COLLECTION_2 = {"scale": 0.0000275, "offset": -0.2, "units": "surface reflectance"}
_DN = {"scale": 1.0, "units": "digital number"}
# Level 1 of OLI; the sun's elevation is in the MTL of each scene.
_TOA_COLLECTION_2 = {
    "scale": 0.00002,
    "offset": -0.1,
    "units": "top-of-atmosphere reflectance x sine of the sun's elevation",
}


def _bands(ranges: dict[int, _Range], names: dict[str, int], **thermal: Any) -> tuple[Band, ...]:
    """The bands of {name in the product: number in `ranges`}, in that order.

    `thermal` are fields of the thermal ones.
    """
    bands = []
    for position, (name, number) in enumerate(names.items(), 1):
        low, high, gsd_m = ranges[number]
        other = {"kind": "thermal", **thermal} if low > 3000 else {}
        bands.append(
            Band(name, position, (low + high) / 2, float(high - low), gsd_m=gsd_m, **other)
        )
    return tuple(bands)


def _numbered(prefix: str, *numbers: int) -> dict[str, int]:
    return {f"{prefix}{number}": number for number in numbers}


# B3, B2, B1 and B4, B3, B2; of ETM+ too.
_TM_COLOURS = {
    "true_colour": (2, 1, 0),
    "false_colour": (3, 2, 1),
}
_OLI_COLOURS = {"true_colour": (3, 2, 1), "false_colour": (4, 3, 2)}  # B4, B3, B2 and B5, B4, B3
_ETM_TOA_NAMES = (
    _numbered("B", 1, 2, 3, 4, 5) | {"B6_VCID_1": 6, "B6_VCID_2": 6} | _numbered("B", 7, 8)
)
_ETM_L1_NAMES = {
    "B10": 1,
    "B20": 2,
    "B30": 3,
    "B40": 4,
    "B50": 5,
    "B61": 6,
    "B62": 6,
    "B70": 7,
    "B80": 8,
}
_SR_NAMES = _numbered("SR_B", 1, 2, 3, 4, 5, 7)  # of TM and ETM+; 6 is thermal

_SSL4EO_L = {
    "gsd_m": 30.0,
    "dtype": "uint8",
    "nodata": None,
    "source": f"{_RANGES}; experiments/ssl4eo/landsat (order, scaling)",
}
_COLLECTION_2 = {
    "gsd_m": 30.0,
    "dtype": "uint16",
    "nodata": 0,
    "source": f"{_RANGES}; google/earthengine-catalog pipelines/landsat.py (bands, scaling); dtype "
    "and fill 0 are general knowledge (USGS)",
}
_LEVEL_1 = {
    **_COLLECTION_2,
    "source": f"{_RANGES}; bands, dtype, fill 0 and the scale of OLI are general knowledge (USGS)",
}

LANDSAT5_TM_TOA = Sensor(
    id="landsat5_tm_toa",
    title="Landsat 5 TM top of atmosphere, SSL4EO-L, 7 bands",
    bands=_bands(_TM, _numbered("B", *range(1, 8)), **_KELVIN),
    **_TOA,
    **_TM_COLOURS,
    **_SSL4EO_L,
)
LANDSAT7_ETM_TOA = Sensor(
    id="landsat7_etm_toa",
    title="Landsat 7 ETM+ top of atmosphere, SSL4EO-L, 9 bands",
    bands=_bands(_ETM, _ETM_TOA_NAMES, **_KELVIN),
    **_TOA,
    **_TM_COLOURS,
    **_SSL4EO_L,
)
LANDSAT7_ETM_SR = Sensor(
    id="landsat7_etm_sr",
    title="Landsat 7 ETM+ surface reflectance, SSL4EO-L, 6 bands",
    bands=_bands(_ETM, _SR_NAMES),
    **_SR,
    **_TM_COLOURS,
    **_SSL4EO_L,
)
LANDSAT8_OLI_TIRS_TOA = Sensor(
    id="landsat8_oli_tirs_toa",
    title="Landsat 8 OLI/TIRS top of atmosphere, SSL4EO-L, 11 bands",
    bands=_bands(_OLI_TIRS, _numbered("B", *range(1, 12)), **_KELVIN),
    **_TOA,
    **_OLI_COLOURS,
    **_SSL4EO_L,
)
LANDSAT8_OLI_SR = Sensor(
    id="landsat8_oli_sr",
    title="Landsat 8 OLI surface reflectance, SSL4EO-L, 7 bands",
    bands=_bands(_OLI_TIRS, _numbered("SR_B", *range(1, 8))),
    **_SR,
    **_OLI_COLOURS,
    **_SSL4EO_L,
)

LANDSAT7_ETM_L1 = Sensor(
    id="landsat7_etm_l1",
    title="Landsat 7 ETM+ level 1, digital numbers, 9 bands",
    bands=_bands(_ETM, _ETM_L1_NAMES),
    gsd_m=30.0,
    dtype="uint8",
    nodata=0,
    **_DN,
    **_TM_COLOURS,
    source=f"{_RANGES}; datasets/l7irish.py (order); fill 0 is general knowledge (USGS)",
)
LANDSAT8_OLI_TIRS_L1 = Sensor(
    id="landsat8_oli_tirs_l1",
    title="Landsat 8 OLI/TIRS level 1, digital numbers as L8 Biome re-released them in uint8, 11 "
    "bands",
    bands=_bands(_OLI_TIRS, _numbered("B", *range(1, 12))),
    gsd_m=30.0,
    dtype="uint8",
    nodata=0,
    **_DN,
    **_OLI_COLOURS,
    source=f"{_RANGES}; datasets/l8biome.py (order, dtype); fill 0 is general knowledge (USGS)",
)

LANDSAT5_TM_SR_C2 = Sensor(
    id="landsat5_tm_sr_c2",
    title="Landsat 5 TM Collection 2 level 2 surface reflectance, 6 bands",
    bands=_bands(_TM, _SR_NAMES),
    **_SR_COLLECTION_2,
    **_TM_COLOURS,
    **_COLLECTION_2,
)
LANDSAT7_ETM_SR_C2 = dataclasses.replace(
    LANDSAT5_TM_SR_C2,
    id="landsat7_etm_sr_c2",
    title="Landsat 7 ETM+ Collection 2 level 2 surface reflectance, 6 bands",
    bands=_bands(_ETM, _SR_NAMES),
)
LANDSAT8_OLI_SR_C2 = Sensor(
    id="landsat8_oli_sr_c2",
    title="Landsat 8 OLI Collection 2 level 2 surface reflectance, 7 bands",
    bands=_bands(_OLI_TIRS, _numbered("SR_B", *range(1, 8))),
    **_SR_COLLECTION_2,
    **_OLI_COLOURS,
    **_COLLECTION_2,
)
# Scale and offset of TM and ETM+ differ between scenes, so theirs are in the MTL. Without the
# panchromatic band, which has a grid of its own.
LANDSAT5_TM_L1_C2 = Sensor(
    id="landsat5_tm_l1_c2",
    title="Landsat 5 TM Collection 2 level 1, digital numbers, 7 bands",
    bands=_bands(_TM, _numbered("B", *range(1, 8))),
    **_DN,
    **_TM_COLOURS,
    **{**_LEVEL_1, "dtype": "uint8"},
)
LANDSAT7_ETM_L1_C2 = dataclasses.replace(
    LANDSAT5_TM_L1_C2,
    id="landsat7_etm_l1_c2",
    title="Landsat 7 ETM+ Collection 2 level 1, digital numbers, 8 bands",
    bands=_bands(_ETM, {name: number for name, number in _ETM_TOA_NAMES.items() if name != "B8"}),
)
LANDSAT8_OLI_TIRS_L1_C2 = Sensor(
    id="landsat8_oli_tirs_l1_c2",
    title="Landsat 8 OLI/TIRS Collection 2 level 1, 10 bands",
    bands=_bands(_OLI_TIRS, _numbered("B", *range(1, 8), *range(9, 12)), offset=0.0, **_DN),
    **_TOA_COLLECTION_2,
    **_OLI_COLOURS,
    **_LEVEL_1,
)

LANDSAT = (
    LANDSAT5_TM_TOA,
    LANDSAT7_ETM_TOA,
    LANDSAT7_ETM_SR,
    LANDSAT8_OLI_TIRS_TOA,
    LANDSAT8_OLI_SR,
    LANDSAT7_ETM_L1,
    LANDSAT8_OLI_TIRS_L1,
    LANDSAT5_TM_SR_C2,
    LANDSAT7_ETM_SR_C2,
    LANDSAT8_OLI_SR_C2,
    LANDSAT5_TM_L1_C2,
    LANDSAT7_ETM_L1_C2,
    LANDSAT8_OLI_TIRS_L1_C2,
)
