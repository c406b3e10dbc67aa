"""Other hyperspectral products of SpectralEarth's downstream tasks: DESIS, Hyperion, HYPERVIEW.

The wavelengths of their bands are not published, so they have none here, only positions.
SpectralEarth ships mean and standard deviation of all three as files, which are not copied here.
The dtype is an expectation, not published.
"""

from __future__ import annotations

from eo_jax.sensors.base import Sensor, numbered_bands

_UNKNOWN_SCALE = {"dtype": "int16", "scale": 1.0, "units": "digital number", "nodata": None}

DESIS = Sensor(
    id="desis",
    title="DESIS as SpectralEarth has it, 235 bands",
    bands=numbered_bands(235, 30.0),
    gsd_m=30.0,
    **_UNKNOWN_SCALE,
    source="SpectralEarth configs/data/desis_cdl.yaml (235 bands). 30 m is general knowledge. Its "
    "mean, 649 to 3627, looks like reflectance x 10000, "
    "but nobody says so",
)
EO1_HYPERION = Sensor(
    id="eo1_hyperion",
    title="EO-1 Hyperion as SpectralEarth has it, 198 bands",
    bands=numbered_bands(198, 30.0),
    gsd_m=30.0,
    **_UNKNOWN_SCALE,
    source="SpectralEarth (198 bands); catalyst.earth (30 m). Which of the 242 channels is not "
    "documented; its statistics look like scaled radiance "
    "of 50 VNIR (x 40) and 148 SWIR bands (x 80), 8-57 and 77-224. Numbers are positions in the "
    "file",
)
HYPERVIEW = Sensor(
    id="hyperview",
    title="HYPERVIEW (AI4EO), 150 bands",
    bands=numbered_bands(150, None),
    gsd_m=None,
    **_UNKNOWN_SCALE,
    source="SpectralEarth (150 bands)",
)

HYPERSPECTRAL = (DESIS, EO1_HYPERION, HYPERVIEW)
