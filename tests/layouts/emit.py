"""Two EMIT L2A reflectance granules of 6 bands, cut into patches of 8 pixels; some pixels are fill,
one band is in water vapour.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from rasterio.crs import CRS

OPTIONS = {"patch_size": 8}
HEIGHT, WIDTH = 18, 21
CENTRES = (470.1, 559.6, 651.2, 857.4, 1380.0, 2200.5)
GOOD = (1, 1, 1, 1, 0, 1)
GRANULES = (
    "EMIT_L2A_RFL_001_20230316T045133_2307503_005",
    "EMIT_L2A_RFL_001_20230401T101500_2309107_012",
)


def write(root: Path) -> None:
    for seed, granule in enumerate(GRANULES, 1):
        write_granule(root, granule, seed)


def cube(seed: int) -> np.ndarray:
    """float32 [downtrack, crosstrack, bands]; the first rows of the last columns are fill."""
    rng = np.random.default_rng(seed)
    found = rng.random((HEIGHT, WIDTH, len(CENTRES)), np.float32)
    found[:8, 8:16] = -9999
    found[:, :, 4] = -0.01  # what the product has where nothing is retrieved
    return found


def lookup() -> tuple[np.ndarray, np.ndarray]:
    """(glt_x, glt_y) int32 [20, 24], from 1: the swath mirrored, with a border of nothing."""
    x, y = np.zeros((2, 20, 24), np.int32)
    y[1:19, 1:22], x[1:19, 1:22] = np.mgrid[1 : HEIGHT + 1, WIDTH:0:-1]
    return x, y


def write_granule(
    root: Path, granule: str = GRANULES[0], seed: int = 1, centres=CENTRES, **attributes: object
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / f"{granule}.nc", "w") as file:
        found = file.create_dataset(
            "reflectance", data=cube(seed), chunks=(8, WIDTH, 2), compression="gzip"
        )
        found.attrs["_FillValue"] = np.array([-9999], np.float32)
        found.attrs["units"] = "unitless"
        below = "sensor_band_parameters"
        file[f"{below}/wavelengths"] = np.array(centres, np.float32)
        file[f"{below}/wavelengths"].attrs["units"] = "nm"
        file[f"{below}/fwhm"] = np.full(len(centres), 8.5, np.float32)
        file[f"{below}/good_wavelengths"] = np.array(GOOD, np.uint8)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        file["location/lat"] = 45 - rows * 5e-4
        file["location/lon"] = 11 + columns * 5e-4
        file["location/glt_x"], file["location/glt_y"] = lookup()
        date = granule.split("_")[4]
        file.attrs.update(
            {
                "time_coverage_start": f"{date[:4]}-{date[4:6]}-{date[6:11]}:{date[11:13]}:33+0000",
                "geotransform": np.array([11.0, 5e-4, 0, 45.0, 0, -5e-4]),
                "spatial_ref": CRS.from_epsg(4326).to_wkt(),
                **attributes,
            }
        )
    return root / f"{granule}.nc"
