"""SSL4EO-S12 v1.1: a file of three locations and one of two, four dates, four products; 8 pixels
instead of 264.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr

SIZE = 8
DATES = 4
L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
BANDS = {
    "S1GRD": ("vv", "vh"),
    "S2L1C": L1C,
    "S2L2A": tuple(band for band in L1C if band != "B10"),
    "S2RGB": ("red", "green", "blue"),
}
DTYPES = {"S1GRD": "float16", "S2L1C": "int16", "S2L2A": "int16", "S2RGB": "uint8"}
TIME_ATTRIBUTES = {"units": "seconds since 2019-11-01 02:30:01", "calendar": "proleptic_gregorian"}
LOCATIONS = {"train": ("0080717", "0060573", "0179869"), "val": ("0000173", "0012333")}


def write(root: Path) -> None:
    for split, locations in LOCATIONS.items():
        for product in BANDS:
            write_file(path_of(root, split, product), arrays(product, locations))
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"ssl4eos12_{split}.txt").write_text(
            f"ssl4eos12_{split}_seasonal_data_000001.zarr.zip\n"
        )


def path_of(root: Path, split: str, product: str) -> Path:
    return root / split / product / f"ssl4eos12_{split}_seasonal_data_000001.zarr.zip"


def arrays(product: str, locations: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of a file, as written by xarray."""
    count, bands = len(locations), BANDS[product]
    rng = np.random.default_rng([len(product), count])
    shape = (count, DATES, len(bands), SIZE, SIZE)
    pixels = (
        rng.integers(0, 20, shape)
        + 20 * np.arange(len(bands))[:, None, None]
        + (1000 if DTYPES[product] == "int16" else 0)
    )
    scene = "S1A_IW_GRDH_1SDV_2020" if product == "S1GRD" else "20201116T023001_T51"
    found = {
        "bands": (
            pixels - 60 if product == "S1GRD" else pixels % 256 if product == "S2RGB" else pixels
        ).astype(DTYPES[product]),
        "band": np.array(bands),
        "sample": np.array(locations),
        "center_lat": 40.0 + np.arange(count),
        "center_lon": 120.0 - np.arange(count),
        "crs": np.array([32651, 32751, 32652][:count]),
        "x_": 714900.0 + 10 * np.arange(SIZE) + 1000 * np.arange(count)[:, None],
        "y_": 4728000.0 - 10 * np.arange(SIZE) + 1000 * np.arange(count)[:, None],
        "time_": 86_400 * 91 * np.arange(DATES) + 3600 * np.arange(count)[:, None],
        "file_id": np.array(
            [[f"{scene}_{location}_{date}" for date in range(DATES)] for location in locations]
        ),
        "sample_id": np.array(
            [[f"{location}_{date}" for date in range(DATES)] for location in locations]
        ),
    }
    if product.startswith("S2L"):
        found["cloud_mask"] = rng.integers(0, 7, (count, DATES, SIZE, SIZE), np.uint8)
    return found


def write_file(
    path: Path,
    found: dict[str, np.ndarray],
    attributes: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """A Zarr version 2 file with one chunk per date. `attributes` replace those of `time_`;
    `changes` are passed to zarr.create_array.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with zarr.storage.ZipStore(path, mode="w") as store:
        zarr.create_group(store, zarr_format=2)
        for key, values in found.items():
            chunks = (
                (values.shape[0], 1, *values.shape[2:])
                if key in ("bands", "cloud_mask")
                else values.shape
            )
            about = TIME_ATTRIBUTES if attributes is None else attributes
            how = {
                "chunks": chunks,
                "compressors": numcodecs.Blosc(),
                "attributes": about if key == "time_" else None,
                **changes,
            }
            how["config"] = {"write_empty_chunks": True}  # as in zarr-python 2
            zarr.create_array(
                store, name=key, shape=values.shape, dtype=values.dtype, zarr_format=2, **how
            )[...] = values


def time_of(sample: int, date: int) -> int:
    """Seconds since 1970 of the times in `arrays`."""
    begin = datetime.datetime(2019, 11, 1, 2, 30, 1, tzinfo=datetime.UTC)
    return int(begin.timestamp()) + 86_400 * 91 * date + 3600 * sample
