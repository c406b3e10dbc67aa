"""Sentinel-2 MSI and Sentinel-1 GRD as SSL4EO-S12 v1.0 and v1.1, BigEarthNet and So2Sat store them.

Sources: centre wavelengths and native GSD from torchgeo datasets/sentinel.py, which has no
bandwidths; band order and statistics v1.0 from zhu-xlab/SSL4EO-S12 (50k subset), v1.1 from the
README of DLR-MF-DAS/SSL4EO-S12-v1.1. Digital numbers of v1.1 are those of v1.0 + 1000, so the two
never share a row. Neither documents a no-data value; in BigEarthNet's files it is 0. Sentinel-1
measures at 5.55 cm (C band), which is not an optical wavelength.
"""

from __future__ import annotations

import dataclasses

from eo_jax.sensors.base import Band, Sensor

# Centre in nm, native GSD in m.
_MSI = {
    "B1": (442.7, 60.0),
    "B2": (492.7, 10.0),
    "B3": (559.8, 10.0),
    "B4": (664.6, 10.0),
    "B5": (704.1, 20.0),
    "B6": (740.5, 20.0),
    "B7": (782.8, 20.0),
    "B8": (832.8, 10.0),
    "B8A": (864.7, 20.0),
    "B9": (945.1, 60.0),
    "B10": (1373.5, 60.0),
    "B11": (1613.7, 20.0),
    "B12": (2202.4, 20.0),
}
_L1C = tuple(_MSI)
_L2A = tuple(name for name in _MSI if name != "B10")
_SO2SAT = tuple(name for name in _MSI if name not in ("B1", "B9", "B10"))
_V1_0 = "SSL4EO-S12 v1.0, 50k subset (zhu-xlab/SSL4EO-S12, datasets/SSL4EO)"
_V1_1 = "SSL4EO-S12 v1.1 (DLR-MF-DAS/SSL4EO-S12-v1.1, README)"
_TORCHGEO = "torchgeo datasets/sentinel.py (centres, GSD)"


def _msi(names: tuple[str, ...]) -> tuple[Band, ...]:
    return tuple(
        Band(name, position, _MSI[name][0], None, gsd_m=_MSI[name][1])
        for position, name in enumerate(names, 1)
    )


def _zero_padded(bands: tuple[Band, ...]) -> tuple[Band, ...]:
    """The same bands under the names of v1.1: B1 is B01, B8A is B8A."""
    return tuple(dataclasses.replace(band, name=f"B{band.name[1:]:0>2}") for band in bands)


SENTINEL2_L1C = Sensor(
    id="sentinel2_l1c",
    title="Sentinel-2 L1C without offset (SSL4EO-S12 v1.0), 13 bands",
    bands=_msi(_L1C),
    gsd_m=10.0,
    dtype="uint16",
    scale=1e-4,
    units="top-of-atmosphere reflectance",
    nodata=None,
    mean=(
        1605.6,
        1390.8,
        1314.9,
        1363.5,
        1549.4,
        2091.7,
        2371.7,
        2299.9,
        2560.3,
        830.1,
        22.1,
        2177.1,
        1524.1,
    ),
    std=(
        786.8,
        850.3,
        875.1,
        1138.8,
        1122.2,
        1161.6,
        1274.4,
        1248.4,
        1345.5,
        577.3,
        51.2,
        1336.1,
        1136.5,
    ),
    statistics_source=_V1_0,
    true_colour=(3, 2, 1),  # B4, B3, B2
    false_colour=(7, 3, 2),  # B8, B4, B3
    source=_TORCHGEO,
)
SENTINEL2_L2A = dataclasses.replace(
    SENTINEL2_L1C,
    id="sentinel2_l2a",
    title="Sentinel-2 L2A without offset (SSL4EO-S12 v1.0), 12 bands",
    bands=_msi(_L2A),
    units="surface reflectance",
    mean=(
        752.4,
        884.3,
        1144.2,
        1297.5,
        1624.9,
        2194.6,
        2422.2,
        2517.8,
        2581.6,
        2645.5,
        2368.5,
        1805.1,
    ),
    std=(
        1108.0,
        1155.2,
        1183.6,
        1368.1,
        1370.3,
        1355.6,
        1416.5,
        1474.8,
        1439.3,
        1582.3,
        1455.5,
        1343.5,
    ),
)
# Its statistics are those of SSL4EO-S12, which encoders that were pretrained there expect.
SENTINEL2_L2A_BIGEARTHNET = dataclasses.replace(
    SENTINEL2_L2A,
    id="sentinel2_l2a_bigearthnet",
    title="Sentinel-2 L2A of BigEarthNet, 12 bands",
    nodata=0,
)
SENTINEL2_L1C_OFFSET = dataclasses.replace(
    SENTINEL2_L1C,
    id="sentinel2_l1c_offset",
    title="Sentinel-2 L1C, SSL4EO-S12 v1.1, DN + 1000, 13 bands",
    bands=_zero_padded(_msi(_L1C)),
    dtype="int16",
    offset=-0.1,
    mean=(
        2607.345,
        2393.068,
        2320.225,
        2373.963,
        2562.536,
        3110.071,
        3392.832,
        3321.154,
        3583.77,
        1838.712,
        1021.753,
        3205.112,
        2545.798,
    ),
    std=(
        786.523,
        849.702,
        875.318,
        1143.578,
        1126.248,
        1161.98,
        1273.505,
        1246.79,
        1342.755,
        576.795,
        45.626,
        1340.347,
        1145.036,
    ),
    statistics_source=_V1_1,
)
SENTINEL2_L2A_OFFSET = dataclasses.replace(
    SENTINEL2_L2A,
    id="sentinel2_l2a_offset",
    title="Sentinel-2 L2A, SSL4EO-S12 v1.1, DN + 1000, 12 bands",
    bands=_zero_padded(_msi(_L2A)),
    dtype="int16",
    offset=-0.1,
    mean=(
        1793.243,
        1924.863,
        2184.553,
        2340.936,
        2671.402,
        3240.082,
        3468.412,
        3563.244,
        3627.704,
        3711.071,
        3416.714,
        2849.625,
    ),
    std=(
        1160.144,
        1201.092,
        1219.943,
        1397.225,
        1400.035,
        1373.136,
        1429.17,
        1485.025,
        1447.836,
        1652.703,
        1471.002,
        1365.307,
    ),
    statistics_source=_V1_1,
)
# Products as ESA and the clouds distribute them since baseline 04.00; 0 is their no-data value.
SENTINEL2_L1C_OFFSET_UINT16 = dataclasses.replace(
    SENTINEL2_L1C_OFFSET,
    id="sentinel2_l1c_offset_uint16",
    title="Sentinel-2 L1C, processing baseline 04.00 and later, DN + 1000, 13 bands",
    bands=_msi(_L1C),
    dtype="uint16",
    nodata=0,
)
SENTINEL2_L2A_OFFSET_UINT16 = dataclasses.replace(
    SENTINEL2_L2A_OFFSET,
    id="sentinel2_l2a_offset_uint16",
    title="Sentinel-2 L2A, processing baseline 04.00 and later, DN + 1000, 12 bands",
    bands=_msi(_L2A),
    dtype="uint16",
    nodata=0,
)
# The same before baseline 04.00, with ESA's no-data value.
SENTINEL2_L1C_UINT16 = dataclasses.replace(
    SENTINEL2_L1C,
    id="sentinel2_l1c_uint16",
    title="Sentinel-2 L1C, processing baselines before 04.00, 13 bands",
    nodata=0,
)
SENTINEL2_L2A_UINT16 = dataclasses.replace(
    SENTINEL2_L2A,
    id="sentinel2_l2a_uint16",
    title="Sentinel-2 L2A, processing baselines before 04.00, 12 bands",
    nodata=0,
)
SENTINEL2_SO2SAT = Sensor(
    id="sentinel2_so2sat",
    title="Sentinel-2 of So2Sat LCZ42, stored as reflectance, 10 bands",
    bands=_msi(_SO2SAT),
    gsd_m=10.0,
    dtype="float32",
    scale=1.0,
    units="reflectance",
    nodata=None,
    true_colour=(2, 1, 0),  # B4, B3, B2
    false_colour=(6, 2, 1),  # B8, B4, B3
    source=f"{_TORCHGEO}; zhu-xlab/SSL4EO-S12 (which bands, in [0, 1])",
)
SENTINEL2_RGB = Sensor(
    id="sentinel2_rgb",
    title="Sentinel-2 RGB pictures, SSL4EO-S12 v1.1, 3 bands",
    bands=tuple(
        Band(name, position, None, None, gsd_m=10.0)
        for position, name in enumerate(("red", "green", "blue"), 1)
    ),
    gsd_m=10.0,
    dtype="uint8",
    scale=1.0,
    units="digital number",
    nodata=None,
    mean=(100.708, 87.489, 61.932),
    std=(68.55, 47.647, 40.592),
    statistics_source=_V1_1,
    true_colour=(0, 1, 2),
    source=f"{_V1_1}; names are ours",
)


def _sar(*names: str) -> tuple[Band, ...]:
    return tuple(
        Band(name, position, None, None, gsd_m=10.0, kind="sar")
        for position, name in enumerate(names, 1)
    )


SENTINEL1_GRD = Sensor(
    id="sentinel1_grd",
    title="Sentinel-1 GRD, C band (5.55 cm), SSL4EO-S12 v1.0, VV and VH",
    bands=_sar("VV", "VH"),
    gsd_m=10.0,
    dtype="float32",
    scale=1.0,
    units="dB",
    nodata=None,
    mean=(-12.548, -20.192),
    std=(5.257, 5.912),
    statistics_source=_V1_0,
    source="zhu-xlab/SSL4EO-S12 (order, 10 m grid, dB); torchgeo datasets/sentinel.py (5.55 cm)",
)
SENTINEL1_GRD_V1_1 = dataclasses.replace(
    SENTINEL1_GRD,
    id="sentinel1_grd_v1_1",
    title="Sentinel-1 GRD, C band (5.55 cm), SSL4EO-S12 v1.1, vv and vh",
    bands=_sar("vv", "vh"),
    dtype="float16",
    mean=(-12.577, -20.265),
    std=(5.179, 5.872),
    statistics_source=_V1_1,
    source=f"{_V1_1}; torchgeo datasets/sentinel.py (5.55 cm)",
)

SENTINEL = (
    SENTINEL2_L1C,
    SENTINEL2_L2A,
    SENTINEL2_L2A_BIGEARTHNET,
    SENTINEL2_L1C_OFFSET,
    SENTINEL2_L2A_OFFSET,
    SENTINEL2_L1C_OFFSET_UINT16,
    SENTINEL2_L2A_OFFSET_UINT16,
    SENTINEL2_L1C_UINT16,
    SENTINEL2_L2A_UINT16,
    SENTINEL2_SO2SAT,
    SENTINEL2_RGB,
    SENTINEL1_GRD,
    SENTINEL1_GRD_V1_1,
)
