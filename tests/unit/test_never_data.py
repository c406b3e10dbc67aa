"""NaN, infinity and foreign no-data values never become data; float64 is rounded on request."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import make_reader, read_all, reject
from layouts.hsi_scene import CUBE, own, save, table, write_envi

HOLES = CUBE.astype(np.float64)
HOLES[:, 0], HOLES[:, 1], HOLES[:, 2] = np.nan, np.inf, -np.inf


def missing_rows(name: str, root: Path, **options) -> list[int]:
    """The rows of the only sample that are no-data."""
    (sample,) = read_all(name, root, **options)
    (sensor,) = make_reader(name, root, **options).sensors
    return np.flatnonzero(sensor.missing(sample.pixels).all((0, 2))).tolist()


@pytest.mark.parametrize("nodata", [None, -9999])
@pytest.mark.parametrize("kind", ["mat", "envi", "tif"])
def test_nan_and_infinity_are_never_data(tmp_path: Path, kind: str, nodata: int | None) -> None:
    options = own(tmp_path, dtype="float64", nodata=nodata)
    root, image = tmp_path / "a", {"mat": "scene.mat", "envi": "scene.hdr", "tif": "a.tif"}[kind]
    save(root / "scene.mat", cube=HOLES.transpose(1, 2, 0))
    write_envi(root, HOLES.astype("f4"))
    tiny_archives.write(root / "a.tif", HOLES)
    if kind == "envi":
        options = own(tmp_path, dtype="float32", nodata=nodata)
    assert missing_rows("hsi-scene", root, **options | {"image": image}) == [0, 1, 2]


@pytest.mark.parametrize("image", ["scene.mat", "a.tif"])
def test_float64_is_rounded_on_request_only(tmp_path: Path, image: str) -> None:
    root, options = tmp_path / "a", own(tmp_path, dtype="float32") | {"image": image}
    precise = HOLES / 3
    save(root / "scene.mat", cube=precise.transpose(1, 2, 0))
    tiny_archives.write(root / "a.tif", precise)
    reject("hsi-scene", root, image, "--cast", **options)
    (sample,) = read_all("hsi-scene", root, **options, cast=True)
    np.testing.assert_array_equal(sample.pixels, precise.astype(np.float32))
    assert sample.pixels.dtype == np.float32


def test_data_that_would_round_to_the_no_data_value_are_refused(tmp_path: Path) -> None:
    close = np.full((5, 4, 4), -9999 + 1e-9)
    tiny_archives.write(tmp_path / "a" / "a.tif", close)
    options = {"sensor": table(tmp_path, dtype="float32", nodata=-9999), "cast": True}
    reject("geotiff", tmp_path / "a", "a.tif", "dtype float64, without --cast", **options)


def test_real_backscatter_in_float64_is_read_as_sentinel_1(
    sample_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "S1RTC"
    shutil.copytree(sample_data / "sentinel" / "terramesh" / "S1RTC", root)
    samples = read_all("geotiff", root, sensor="sentinel1_grd", cast=True)
    assert len(samples) == 3
    for sample in samples:
        with rasterio.open(root / f"{sample.id}.tif") as file:
            np.testing.assert_array_equal(sample.pixels, file.read().astype(np.float32))


def test_labels_beside_the_images(tmp_path: Path) -> None:
    labels = np.ones((4, 4), np.uint8)
    for stem in ("x", "y"):
        tiny_archives.write(tmp_path / "MS" / f"{stem}.tif", CUBE[:, :4, :4])
        tiny_archives.write(tmp_path / "LULC" / f"{stem}.tif", labels[None])
    options = {"sensor": table(tmp_path), "pattern": "MS/*", "labels": ("LULC",)}
    samples = read_all("geotiff", tmp_path, **options)
    assert [sample.id for sample in samples] == ["MS/x", "MS/y"]
    np.testing.assert_array_equal(samples[1].labels["LULC"], labels)
    (tmp_path / "LULC" / "y.tif").unlink()
    reject("geotiff", tmp_path, "LULC/MS/y.tif", "or as LULC/y.tif", **options)
