"""Writes tiny archives for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

SIZE = 32
GRID = {"crs": "EPSG:32633", "transform": Affine(30, 0, 366015, 0, -30, 5809965)}
LOCATIONS = {
    "0000001": ("00001", "00002"),
    "0000002": ("00001",),
    "0000007": ("00003", "00004"),
    "0000010": ("00001",),
    "0000011": ("00009",),
}


def pixels(seed: int, bands: int = 202, size: int = SIZE) -> np.ndarray:
    """A smooth int16 cube [bands, size, size] with distinct bands and some no-data."""
    rng = np.random.default_rng(seed)
    cube = 1000 + 10 * np.arange(bands)[:, None, None] + rng.integers(0, 50, (bands, size, size))
    cube[:, : seed % 4] = ENMAP.nodata
    return cube.astype(np.int16)


def write(path: Path, cube: np.ndarray, **changes) -> Path:
    """Writes a GeoTIFF of cube [c, h, w]; `changes` apply to its profile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = cube.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": cube.dtype.name,
        **GRID,
        **changes,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(cube)
    return path


def tag(path: Path, wavelengths: np.ndarray, units: str = "Nanometers", **tags: str) -> Path:
    """Adds band tags for wavelengths [c], and file tags."""
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
        for band, value in enumerate(wavelengths, start=1):
            file.update_tags(band, wavelength=f"{value:g}", wavelength_units=units)
    return path


def tile(path: Path, seed: int = 0, **changes) -> Path:
    """A tile of 224 product bands with wavelength tags."""
    return tag(write(path, pixels(seed, 224), **changes), ENMAP_PRODUCT.centres_nm)


def spectral_earth(root: Path, labels: str | None = None) -> Path:
    """A SpectralEarth tree of five locations, apart from each other, and seven dates."""
    for number, (location, scenes) in enumerate(LOCATIONS.items()):
        place = GRID["transform"] * rasterio.Affine.translation(2 * SIZE * number, 0)
        for scene in scenes:
            seed = int(location) + int(scene)
            write(root / "enmap" / location / f"{scene}.tif", pixels(seed), transform=place)
            if labels:
                write(
                    root / labels / location / f"{scene}.tif",
                    (pixels(seed, 1) % 5).astype(np.uint8),
                    transform=place,
                )
    return root


def read(path: Path) -> np.ndarray:
    """The file as read by rasterio, [c, h, w]."""
    with rasterio.open(path) as file:
        return file.read()


def files(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip(path: Path, position: int, bit: int = 3) -> None:
    """Flips one bit; a negative position counts from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
