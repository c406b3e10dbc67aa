"""A hyperspectral scene in a .mat file, with ground truth and the split maps of a benchmark, in
tiles of unequal size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat

OPTIONS = {
    "image": "PaviaU.mat",
    "sensor": "rosis_pavia_university",
    "ground_truth": "PaviaU_gt.mat",
    "train_map": "TRpaviaU.mat",
    "test_map": "TSpaviaU.mat",
    "patch_size": 8,
}
HEIGHT, WIDTH, BANDS = 13, 18, 103


def write(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    truth, train, test = maps()
    savemat(root / "PaviaU.mat", {"paviaU": cube().transpose(1, 2, 0)}, do_compression=True)
    savemat(root / "PaviaU_gt.mat", {"paviaU_gt": truth}, do_compression=True)
    savemat(root / "TRpaviaU.mat", {"TRpaviaU": train.astype(float)})
    savemat(root / "TSpaviaU.mat", {"TSpaviaU": test.astype(float)})


def cube(bands: int = BANDS, seed: int = 0) -> np.ndarray:
    """uint16 [bands, 13, 18] with distinct values."""
    return (
        np.random.default_rng(seed)
        .permutation(bands * HEIGHT * WIDTH)
        .astype(np.uint16)
        .reshape(bands, HEIGHT, WIDTH)
    )


def maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ground truth, training pixels, test pixels), uint8 [13, 18]; some labelled pixels are in
    neither split.
    """
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 10, (HEIGHT, WIDTH), np.uint8)
    side = rng.integers(0, 3, truth.shape)
    return (
        truth,
        np.where(side == 1, truth, 0).astype(np.uint8),
        np.where(side == 2, truth, 0).astype(np.uint8),
    )


# ------------------------------------------------------------ scenes with a band table of one's own

BANDS_OF_OWN = 5
CUBE = cube(BANDS_OF_OWN)


def table(folder: Path, bands: int = BANDS_OF_OWN, dtype: str = "uint16", **fields: Any) -> str:
    """A user's own band table."""
    columns = {"name": [f"band {n}" for n in range(bands)], "number": list(range(1, bands + 1))}
    columns |= {"centre_nm": fields.pop("centre_nm", [None] * bands), "fwhm_nm": [None] * bands}
    row = {
        "id": "own",
        "title": "own",
        "gsd_m": None,
        "dtype": dtype,
        "scale": 1.0,
        "units": "digital number",
        "nodata": None,
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bands.json").write_text(json.dumps({**row, "bands": columns}))
    return str(folder / "bands.json")


def own(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    return {"image": "scene.mat", "sensor": table(tmp_path / "table", **fields)}


def save(path: Path, compress: bool = True, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays, do_compression=compress)
    return path


def write_envi(folder: Path, cube: np.ndarray = CUBE, order: str = "bsq", **fields: Any) -> Path:
    """An ENVI pair; `fields` change the header, None removes a field; `_` in their names stands for
    a space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    axes = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}[order]
    (folder / "scene.dat").write_bytes(cube.transpose(axes).tobytes())
    codes = {"u1": 1, "i2": 2, "f4": 4, "u2": 12}
    written = {
        "samples": cube.shape[2],
        "lines": cube.shape[1],
        "bands": cube.shape[0],
        "header offset": 0,
        "file type": "ENVI Standard",
    }
    written |= {
        "data type": codes[cube.dtype.str[1:]],
        "interleave": order,
        "byte order": int(cube.dtype.byteorder == ">"),
    }
    written |= {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{name} = {value}\n" for name, value in written.items() if value is not None]
    (folder / "scene.hdr").write_text("ENVI\n" + "".join(lines), encoding="latin-1")
    return folder / "scene.hdr"


def save_7_3(
    path: Path, stored: np.ndarray, name: str = "scene", kind: bytes = b"uint16", **how: Any
) -> Path:
    """A MATLAB 7.3 file; `stored` has the axes in HDF5's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        dataset = file.create_dataset(name, data=stored, **how)
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path
