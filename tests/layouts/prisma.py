"""Two PRISMA L2D products with some of the bands of each camera, cut into patches of 8 pixels: one
patch is beyond the swath, some pixels have error codes.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

OPTIONS = {"patch_size": 8}
HEIGHT, WIDTH = 17, 26
# As in products: descending, 0 where the cube has no band; the cameras overlap.
CENTRES = {"Vnir": (0.0, 972.5, 959.4, 651.2, 553.1, 469.8), "Swir": (2496.9, 1004.1, 943.3, 0.0)}
FLAGS = {"Vnir": (0, 1, 1, 1, 1, 1), "Swir": (0, 1, 1, 0)}
STARTS = ("20201214060713", "20210607101500")
L2_SCALE = {"Vnir": (0.0, 1.2), "Swir": (0.0, 0.9)}


def write(root: Path) -> None:
    for seed, start in enumerate(STARTS, 1):
        write_product(root / start, start, seed)


def cubes(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{camera: cube uint16 and error codes uint8, [row, band, column]}."""
    rng = np.random.default_rng(seed)
    found = {}
    for camera, centres in CENTRES.items():
        shape = (HEIGHT, len(centres), WIDTH)
        cube = rng.integers(1, 65535, shape, np.uint16)
        cube[:8, :, 16:] = 0  # beyond the swath
        errors = np.zeros(shape, np.uint8)
        errors[10, 1, 2:4] = (1, 3)
        errors[:8, :, 16:] = 1
        found[camera] = cube, errors
    return found


def write_product(
    folder: Path,
    start: str = STARTS[0],
    seed: int = 1,
    level: str = "L2D",
    scale: dict[str, tuple[float, float]] | None = None,
    **attributes: object,
) -> Path:
    """An HE5 file; `scale` are the ends of the scale of each camera."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"PRS_{level}_STD_{start}_{int(start) + 4}_0001.he5"
    with h5py.File(path, "w") as file:
        swath = f"HDFEOS/SWATHS/PRS_{level}_HCO"
        kind = "SAT_ERR" if level == "L1" else "L2_ERR"
        for camera, (cube, errors) in cubes(seed).items():
            below = f"{swath}/Data Fields/{camera.upper()}"
            how = {"chunks": (8, 1, WIDTH), "compression": "gzip"}
            file.create_dataset(f"{below}_Cube", data=cube, **how)
            file.create_dataset(f"{below}_PIXEL_{kind}_MATRIX", data=errors, **how)
            low, high = (scale or L2_SCALE)[camera]
            centres = np.array(CENTRES[camera], np.float32)
            file.attrs.update(
                {
                    f"List_Cw_{camera}": centres,
                    f"List_Cw_{camera}_Flags": np.array(FLAGS[camera], np.int32),
                    f"List_Fwhm_{camera}": np.where(centres, 11.5, 0).astype(np.float32),
                }
            )
            if level == "L1":
                file.attrs.update({f"ScaleFactor_{camera}": 100.0, f"Offset_{camera}": 0.5})
            else:
                file.attrs[f"L2Scale{camera}Min"] = np.float32(low)
                file.attrs[f"L2Scale{camera}Max"] = np.float32(high)
        suffix = "_VNIR" if level == "L1" else ""
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        file[f"{swath}/Geolocation Fields/Latitude{suffix}"] = 45 - rows * 3e-4
        file[f"{swath}/Geolocation Fields/Longitude{suffix}"] = 11 + columns * 4e-4
        file.attrs.update(
            {
                "Product_StartTime": np.bytes_(f"{start[:8]}T{start[8:]}.5"),
                "Epsg_Code": np.int32(32632),
                "Product_ULcorner_easting": 600015.0,
                "Product_ULcorner_northing": 5000985.0,
                "Product_LRcorner_easting": 600015.0 + 30 * (WIDTH - 1),
                "Product_LRcorner_northing": 5000985.0 - 30 * (HEIGHT - 1),
                **attributes,
            }
        )
    return path
