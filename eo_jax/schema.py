"""The five nouns of eo_jax, their fields and shapes. Names only; behaviour lives elsewhere.

Axis letters, everywhere: `b` batch, `t` time, `c` band, `h w` rows and columns, `v` view, `n`
token, `d` width, `k` prototype, `l` layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One acquisition on one grid: one location, time and sensor. Absent is None, never a guess.

    Attributes:
        pixels: [c, h, w] in the archive's own dtype and digital numbers, bands in the order of the
            sensor table.
        sensor: id of the row in `eo_jax.sensors`.
        id: unique in its store, e.g. "0287155/07676".
        group: name of the location; all samples of one location share it.
        product: product version, as in the archive.
        time: acquisition time, seconds since 1970 UTC.
        lonlat: centre of the patch, degrees.
        crs: "EPSG:..." or WKT.
        affine: pixel -> CRS as (a, b, c, d, e, f), x = a col + b row + c, y = d col + e row + f.
        gsd_m: ground sampling distance in metres.
        wavelengths_nm: float [c], the file's own centre wavelengths, if any.
        labels: named label arrays: maps [h, w], or [k] or [] for the whole patch.
        masks: named quality masks [h, w].
    """

    pixels: np.ndarray
    sensor: str
    id: str
    group: str
    product: str | None = None
    time: int | None = None
    lonlat: tuple[float, float] | None = None
    crs: str | None = None
    affine: tuple[float, float, float, float, float, float] | None = None
    gsd_m: float | None = None
    wavelengths_nm: np.ndarray | None = None
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


# {source: {"pixels": [b, t, c, h, w], "time": int32 [b, t], "lonlat": f32 [b, 2],
#           "position": int64 [b], "label"?: ...}}
# Instead of "pixels" there may be "band_differences/<n>", see `eo_jax.data.differences`.
Batch: TypeAlias = dict[str, dict[str, Any]]
# {"<source>/<crop set>": f32 [b, v, H, W, c],
#  "<source>/<crop set>/valid": bool [b, v, H, W, c or 1],
#  "<source>/<crop set>/label"?: [b, v, H, W] of maps, [b, v, ...] of whole patches}
Views: TypeAlias = dict[str, Any]
# Nested dicts of arrays. The gradient is with respect to Params; Carry is all other state of a
# method (running statistics, teacher, queue).
Params: TypeAlias = dict[str, Any]
Carry: TypeAlias = dict[str, Any]
# {"step": int32, "params": Params, "carry": Carry, "optimizer": optax state,
#  "recent_losses": {sources of a mixture component: eo_jax.spikes.Recent}}
TrainState: TypeAlias = dict[str, Any]
# {name: scalar}
Metrics: TypeAlias = dict[str, Any]
DIFFERENCES = "band_differences/"  # prefix of the field of a Batch, before a number of bands
POOLED = "pooled/"  # prefix of a source's features [m, d] among the Metrics of a logged step

# What `time` holds in a Batch where a record has none; lonlat holds NaN.
TIME_ABSENT = np.int32(-(2**31))
