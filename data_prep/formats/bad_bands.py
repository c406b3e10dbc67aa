"""Bad-band lists, `bbl` of ENVI headers and of the band tags of GeoTIFFs: 0 marks a bad band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from eo_jax.sensors import Sensor


def exclude(name: str, pixels: np.ndarray, bad: Sequence[int], sensor: Sensor) -> np.ndarray:
    """The pixels [c, h, w] with no-data in the bands at the positions `bad`.

    Raises ArchiveError where the sensor has no value for them.
    """
    if not bad or sensor.missing(pixels[list(bad)]).all():
        return pixels
    nodata = np.nan if sensor.nodata is None and pixels.dtype.kind == "f" else sensor.nodata
    if nodata is None:
        raise ArchiveError(
            name,
            f"its bad-band list (bbl) excludes {in_words(bad, sensor)}, but {sensor.title} has no "
            'no-data value for them; give a --sensor row (JSON) with a "nodata", or '
            "--drop-bad-bands where the reader has it",
        )
    remarks.note(f"bad bands (bbl) are no-data: {in_words(bad, sensor)}")
    kept = pixels.copy()
    kept[list(bad)] = nodata
    return kept


def in_words(bad: Sequence[int], sensor: Sensor) -> str:
    """The names of the bands at some positions."""
    listed = ", ".join(sensor.bands[position].name for position in bad[:20])
    return listed + (f" and {len(bad) - 20} more" if len(bad) > 20 else "")
