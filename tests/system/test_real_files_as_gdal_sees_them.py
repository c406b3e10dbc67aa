"""Real images: every pixel, and which of them are data, as rasterio reads them with its mask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from layouts import make_reader

from data_prep.reader import Files, with_sidecars
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP, Sensor, get_sensor


def read(name: str, root: Path, **options) -> Iterator[tuple[Sample, Sensor, Path]]:
    reader = make_reader(name, root, **options)
    for item in with_sidecars(reader.archive, reader.items()):
        sample = reader.read(item, Files(reader.archive, item))
        sensor = next(row for row in reader.sensors if row.id == sample.sensor)
        yield sample, sensor, root / item.files[0].name


def check(sample: Sample, sensor: Sensor, pixels: np.ndarray, valid: np.ndarray) -> None:
    """`valid` is GDAL's mask; where the row has a no-data value that the file does not state, the
    row decides.
    """
    np.testing.assert_array_equal(sample.pixels, pixels)
    excluded = ~valid
    if sensor.nodata is not None:
        excluded |= pixels == sensor.nodata
    np.testing.assert_array_equal(sensor.missing(sample.pixels), excluded)


def row(folder: Path, bands: int, dtype: str) -> str:
    path = folder / "row.json"
    about = {
        **{"id": "row", "title": "Row", "gsd_m": None, "dtype": dtype, "scale": 1.0},
        **{"units": "digital number", "nodata": None, "source": "test"},
        "bands": {"name": [f"band {n}" for n in range(1, bands + 1)]},
    }
    about["bands"]["number"] = list(range(1, bands + 1))
    path.write_text(json.dumps(about))
    return str(path)


@pytest.mark.parametrize(
    ("folder", "sensor"),
    [
        ("sentinel/terramesh/S2L1C", "sentinel2_l1c_offset"),
        ("sentinel/terramesh/S2L2A", "sentinel2_l2a_offset"),
        ("landsat/L7_ETM_olinda", "uint8"),
        ("landsat/L8_OLI_TIRS_elkton", "uint16"),
    ],
)
def test_geotiffs(sample_data: Path, tmp_path: Path, folder: str, sensor: str):
    options = {"pattern": "*B1-*"} if "elkton" in folder else {}
    if sensor.startswith("uint"):
        sensor = row(tmp_path, 6 if sensor == "uint8" else 1, sensor)
    count = 0
    for sample, found, path in read("geotiff", sample_data / folder, sensor=sensor, **options):
        with rasterio.open(path) as file:
            check(sample, found, file.read(), file.read_masks() != 0)
        count += 1
    assert count


def test_ssl4eo_s12(sample_data: Path):
    count = 0
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    for sample, found, path in read("ssl4eo-s12", root, resample="native"):
        planes = []
        for band in found.bands:
            with rasterio.open(path.with_name(f"{band.name}.tif")) as file:
                planes.append((file.read(1), file.read_masks(1) != 0))
        check(sample, found, *map(np.stack, zip(*planes, strict=True)))
        count += 1
    assert count == 2 + 2 * 3 + 2 * 3  # dates of S1, and of both levels of S2 on three grids


def test_enmap(sample_data: Path):
    root = sample_data / "enmap" / "potsdam_l2a_tiles" / "images"
    for sample, found, path in read("enmap-tiles", root):
        with rasterio.open(path) as file:
            numbers = list(ENMAP.band_numbers)
            check(sample, found, file.read(numbers), file.read_masks(numbers) != 0)


@pytest.mark.parametrize(
    ("image", "sensor"),
    [
        ("HyMap02_Berlin_Urban_Gradient_2009", "hymap_berlin"),
        ("EnMAP_BerlinUrbanGradient", "enmap_simulated_berlin"),
    ],
)
def test_envi(sample_data: Path, image: str, sensor: str):
    root = sample_data / "hyperspectral" / "berlin_urban_gradient"
    ((sample, found, path),) = read("hsi-scene", root, image=f"{image}.hdr", sensor=sensor)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path) as file:
        check(sample, found, file.read(), file.read_masks() != 0)
    assert found == get_sensor(sensor)
