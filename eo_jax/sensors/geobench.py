"""Bands of GEO-Bench v1's sets (Lacoste et al. 2023, arXiv 2306.03831) that no other row has.

Sets of 8-bit or rescaled bands have digital numbers without a unit. Names and order of the bands:
torchgeo/torchgeo-bench datasets/m_*.py and IBM/terratorch datasets/m_*.py; centres: sentinel.py and
landsat.py.
"""

from __future__ import annotations

import dataclasses

from eo_jax.sensors.base import Band, Sensor
from eo_jax.sensors.landsat import LANDSAT8_OLI_SR
from eo_jax.sensors.sentinel import SENTINEL2_L1C, SENTINEL2_L2A

_DN = {"scale": 1.0, "units": "digital number", "nodata": None}
_SOURCE = "torchgeo/torchgeo-bench datasets and IBM/terratorch datasets, m_*.py (bands, values)"


def _renumbered(sensor: Sensor, names: tuple[str, ...]) -> tuple[Band, ...]:
    """Some bands of a row, numbered from 1."""
    by_name = {band.name: band for band in sensor.bands}
    return tuple(
        dataclasses.replace(by_name[name], number=position)
        for position, name in enumerate(names, 1)
    )


def _colours(gsd_m: float | None, *names: str) -> tuple[Band, ...]:
    return tuple(
        Band(name, position, None, None, gsd_m=gsd_m) for position, name in enumerate(names, 1)
    )


def _photographs(id: str, title: str) -> Sensor:
    return Sensor(
        id=id,
        title=title,
        bands=_colours(None, *_RGB),
        gsd_m=None,
        dtype="uint8",
        **_DN,
        true_colour=(0, 1, 2),
        source=_SOURCE,
    )


_RGB = ("red", "green", "blue")
_KILN = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12")
_FOREST = ("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")

BRICK_KILN = Sensor(
    id="geobench_brick_kiln",
    title="Sentinel-2 of GEO-Bench m-brick-kiln, ten bands",
    bands=_renumbered(SENTINEL2_L1C, _KILN),
    gsd_m=10.0,
    dtype="float32",
    scale=1e-4,
    units="reflectance",
    nodata=None,
    true_colour=(3, 2, 1),
    false_colour=(7, 3, 2),
    source=f"{_SOURCE}; nobody states the processing level",
)
FORESTNET = Sensor(
    id="geobench_forestnet",
    title="Landsat 8 of GEO-Bench m-forestnet, six bands in 8 bits",
    bands=_renumbered(LANDSAT8_OLI_SR, _FOREST),
    gsd_m=30.0,
    dtype="uint8",
    **_DN,
    true_colour=(2, 1, 0),
    false_colour=(3, 2, 1),
    source=f"{_SOURCE}; 30 m as measured, pansharpened to 15 m (arXiv 2011.05479)",
)
SA_CROP_TYPE = Sensor(
    id="geobench_sa_crop_type",
    title="Sentinel-2 of GEO-Bench m-SA-crop-type, twelve bands in 8 bits",
    bands=SENTINEL2_L2A.bands,
    gsd_m=10.0,
    dtype="uint8",
    **_DN,
    true_colour=(3, 2, 1),
    false_colour=(7, 3, 2),
    source=_SOURCE,
)
CHESAPEAKE = Sensor(
    id="geobench_chesapeake",
    title="NAIP of GEO-Bench m-chesapeake, red, green, blue, infrared in [0, 1]",
    bands=_colours(1.0, *_RGB, "nir"),
    gsd_m=1.0,
    dtype="float32",
    **_DN,
    true_colour=(0, 1, 2),
    source=_SOURCE,
)
GEOBENCH = (
    BRICK_KILN,
    FORESTNET,
    SA_CROP_TYPE,
    CHESAPEAKE,
    _photographs("geobench_pv4ger", "Aerial photographs of GEO-Bench m-pv4ger"),
    _photographs("geobench_nz_cattle", "Aerial photographs of GEO-Bench m-nz-cattle"),
    _photographs("geobench_neontree", "Aerial photographs of GEO-Bench m-NeonTree"),
)
