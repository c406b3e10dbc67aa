"""Colour pictures and their elevation or depth: GeoNRW and SUN RGB-D.

Cameras have no wavelengths here, since nobody published them.
"""

from __future__ import annotations

from eo_jax.sensors.base import Band, Sensor


def _bands(gsd_m: float | None, kind: str, *names: str) -> tuple[Band, ...]:
    return tuple(
        Band(name, position, None, None, gsd_m=gsd_m, kind=kind)
        for position, name in enumerate(names, 1)
    )


_DN = {"scale": 1.0, "units": "digital number", "nodata": None}
_GEONRW = "torchgeo docs/api/datasets/non_geo_datasets.csv (1 m), datasets/geonrw.py"
_CMX = "SUN RGB-D in the layout of CMX (arXiv 2203.04838)"

GEONRW_RGB = Sensor(
    id="geonrw_rgb",
    title="GeoNRW aerial photographs, red, green, blue",
    bands=_bands(1.0, "reflective", "red", "green", "blue"),
    gsd_m=1.0,
    dtype="uint8",
    **_DN,
    true_colour=(0, 1, 2),
    source=_GEONRW,
)
GEONRW_DEM = Sensor(
    id="geonrw_dem",
    title="GeoNRW elevation",
    bands=_bands(1.0, "elevation", "dem"),
    gsd_m=1.0,
    dtype="float32",
    scale=1.0,
    units="m",
    nodata=None,
    source=f"{_GEONRW}; dtype and unit are general knowledge",
)
SUNRGBD_RGB = Sensor(
    id="sunrgbd_rgb",
    title="SUN RGB-D photographs, red, green, blue",
    bands=_bands(None, "reflective", "red", "green", "blue"),
    gsd_m=None,
    dtype="uint8",
    **_DN,
    true_colour=(0, 1, 2),
    source=_CMX,
)
SUNRGBD_DEPTH = Sensor(
    id="sunrgbd_depth",
    title="SUN RGB-D depth",
    bands=_bands(None, "depth", "depth"),
    gsd_m=None,
    dtype="uint16",
    **_DN,
    source=f"{_CMX}; nobody says in which unit",
)
SUNRGBD_HHA = Sensor(
    id="sunrgbd_hha",
    title="SUN RGB-D depth as HHA: disparity, height above ground, angle with gravity",
    bands=_bands(None, "depth", "disparity", "height", "angle"),
    gsd_m=None,
    dtype="uint8",
    **_DN,
    source=_CMX,
)

RGB = (GEONRW_RGB, GEONRW_DEM, SUNRGBD_RGB, SUNRGBD_DEPTH, SUNRGBD_HHA)
