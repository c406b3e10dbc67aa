"""Files of a simulated archive: written beside their name, then moved there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from data_prep.simulation.acquisition import Location, Scene
from eo_jax.sensors import ENMAP

_FWHM = [band.fwhm_nm for band in ENMAP.bands]


def replace_with(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file next to `path`, then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text with \\n at the ends of lines."""
    replace_with(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))


def write_lists(folder: Path, lists: Mapping[str, list[str]]) -> None:
    """Writes <folder>/<split>.txt, {split: lines}."""
    for split, lines in lists.items():
        write_text(folder / f"{split}.txt", "".join(f"{line}\n" for line in lines))


def write_map(path: Path, pixels: np.ndarray, location: Location, nodata: int | None) -> None:
    """Writes an array [h, w] as a GeoTIFF."""

    def write(partial: Path) -> None:
        profile = _profile(location, 1, len(pixels)) | {"dtype": pixels.dtype, "nodata": nodata}
        with rasterio.open(partial, "w", **profile) as file:
            file.write(pixels, 1)

    replace_with(path, write)


def write_enmap(path: Path, pixels: np.ndarray, location: Location, scene: Scene) -> None:
    """Writes a patch int16 [202, h, w] with the tags of EnMAP's bands."""
    replace_with(
        path, functools.partial(_write_enmap, pixels=pixels, location=location, scene=scene)
    )


def _write_enmap(path: Path, pixels: np.ndarray, location: Location, scene: Scene) -> None:
    profile = _profile(location, len(pixels), pixels.shape[-1]) | {
        "dtype": "int16",
        "predictor": 2,
        "nodata": ENMAP.nodata,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.scales = (ENMAP.scale,) * len(pixels)
        file.update_tags(start_time=scene.time.isoformat())
        for band, (nm, fwhm) in enumerate(zip(scene.wavelengths_nm, _FWHM, strict=True), start=1):
            file.update_tags(
                band, wavelength=f"{nm:.3f}", fwhm=f"{fwhm:.2f}", wavelength_units="Nanometers"
            )


def _profile(location: Location, count: int, size: int) -> dict:
    west, north = location.corner
    return {
        "driver": "GTiff",
        "count": count,
        "height": size,
        "width": size,
        "crs": CRS.from_epsg(location.region.epsg),
        "transform": Affine(30, 0, west, 0, -30, north),
        "compress": "deflate",
        "zlevel": 1,  # higher levels take three times as long for 3 % less
        "blockysize": size,
        "interleave": "band",
    }


def highest_number(paths: Iterable[Path]) -> int:
    """The highest number that is the name of a file or folder, without its suffix; -1 for none."""
    return max((int(path.stem) for path in paths if path.stem.isdecimal()), default=-1)
