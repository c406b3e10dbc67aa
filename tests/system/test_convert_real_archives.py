"""Every archive with real files or foreign fixtures: convert, verify, and compare every pixel with
rasterio, scipy or h5py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from data_prep import __main__
from data_prep.verify import verify
from eo_jax.data import Store, open_store
from eo_jax.sensors import ENMAP, Band, Sensor, get_sensor

FOREIGN = "torchgeo_fixtures_SYNTHETIC"
# Reader, folder or file, options, samples.
ARCHIVES = [
    ("enmap-tiles", "enmap/potsdam_l2a_tiles", (), 10),
    ("hyspecnet11k", "enmap/hyspecnet11k", (), 1),
    ("ssl4eo-s12", "sentinel/SSL4EO-S12_real", (), 6),
    ("ssl4eo-s12", "sentinel/SSL4EO-S12_real", ("--resample", "native"), 14),
    ("ssl4eo-s12", "sentinel/SSL4EO-S12_real", ("--dtype", "uint8"), 6),
    ("bigearthnet", "sentinel/BigEarthNet_v2", ("--splits", "none"), 2),
    ("eurosat", "sentinel/EuroSAT_MS", (), 2),
    ("hyspecnet11k", f"{FOREIGN}/hyspecnet/hyspecnet-11k", ("--splits", "none"), 2),
    ("ssl4eo-s12", f"{FOREIGN}/ssl4eo/s12", (), 24),
    ("ssl4eo-l", f"{FOREIGN}/ssl4eo/l", ("--size", "36"), 40),
    ("ssl4eo-l-benchmark", f"{FOREIGN}/ssl4eo_benchmark_landsat", ("--subset",), 10),
    ("l7irish", f"{FOREIGN}/l7irish/l7irish", ("--patch-size", "36"), 5),
    ("l7irish", f"{FOREIGN}/l7irish/austral.tar.gz", ("--patch-size", "18"), 12),
    ("l8biome", f"{FOREIGN}/l8biome/l8biome", ("--patch-size", "36"), 5),
    ("eurosat", f"{FOREIGN}/eurosat/ds", (), 2),
    ("eurosat", f"{FOREIGN}/eurosat/EuroSATallBands.zip", (), 2),
]


def convert(name: str, source: Path, store: Path, *options: str) -> Store:
    """Runs the command and `verify`, and opens the store."""
    assert (
        __main__.main(
            [
                "convert",
                name,
                "--input",
                str(source),
                "--output",
                str(store),
                "--workers",
                "1",
                *options,
            ]
        )
        == 0
    )
    assert verify(store) == []
    return open_store(store)


@pytest.mark.parametrize(
    ("name", "source", "options", "samples"),
    ARCHIVES,
    ids=[" ".join((row[0], row[1].rpartition("/")[2], *row[2])) for row in ARCHIVES],
)
def test_convert_then_verify(
    sample_data: Path,
    tmp_path: Path,
    name: str,
    source: str,
    options: tuple[str, ...],
    samples: int,
) -> None:
    assert len(convert(name, sample_data / source, tmp_path / "store", *options)) == samples


def tiff(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


# ------------------------------------------------------------------ every pixel of real files


def test_ten_potsdam_tiles(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "enmap" / "potsdam_l2a_tiles"
    kept = [number - 1 for number in ENMAP.band_numbers]
    store = convert("enmap-tiles", root, tmp_path / "store")
    assert len(store) == 10
    for sample in store:
        np.testing.assert_array_equal(
            sample.pixels, tiff(root / "images" / f"{sample.id}.tif")[kept]
        )


def test_ssl4eo_s12_native_grids(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    store = convert("ssl4eo-s12", root, tmp_path / "store", "--resample", "native")
    compared = 0
    for sample in store:
        (folder,) = (
            root.glob(f"*/0000200/{sample.product}")
            if "sentinel1" in sample.sensor
            else root.glob(f"{_product(sample.sensor)}/0000200/{sample.product}")
        )
        for band, pixels in zip(store.sensor(sample.sensor).bands, sample.pixels, strict=True):
            np.testing.assert_array_equal(pixels, tiff(folder / f"{band.name}.tif")[0])
            compared += 1
    assert compared == 2 * (2 + 13 + 12)  # every file of the archive


def test_ssl4eo_s12_as_one_file_per_band(sample_data: Path, tmp_path: Path) -> None:
    """All Sentinel-2 images as L1C: those of L2A lack B10, and are left out and counted."""
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    store = convert(
        *("geotiff", root, tmp_path / "store", "--sensor", "sentinel2_l1c"),
        *("--pattern", "s2*", "--resample", "nearest"),
        *("--band-regex", r"^(?P<item>s2./\d+/[^/]+)/(?P<band>B\w+)\.tif$"),
        *("--time-regex", r"/(?P<time>\d{8}T\d{6})_"),
    )
    assert store.manifest["left_out"] == {"no file of B10 (--bands keeps others)": 2}
    assert len(store) == 2
    for sample in store:
        for band, pixels in zip(store.sensor(sample.sensor).bands, sample.pixels, strict=True):
            plane = tiff(root / sample.id / f"{band.name}.tif")[0]
            factor = len(pixels) // len(plane)
            np.testing.assert_array_equal(pixels, np.kron(plane, np.ones((factor, factor), int)))


def _product(sensor: str) -> str:
    return "s2c" if "l1c" in sensor else "s2a"


def test_eurosat_chips(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "sentinel" / "EuroSAT_MS"
    order = [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11]  # the file has B8A last
    for sample in convert("eurosat", root, tmp_path / "store"):
        (path,) = root.rglob(f"{Path(sample.id).name}.tif")
        np.testing.assert_array_equal(sample.pixels, tiff(path)[order])


def test_salinas_a(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "hyperspectral" / "salinas_a"
    options = (
        "--image",
        "SalinasA_corrected.mat",
        "--ground-truth",
        "SalinasA_gt.mat",
        "--sensor",
        "aviris_salinas",
    )
    (sample,) = convert("hsi-scene", root, tmp_path / "store", *options)
    cube = scipy.io.loadmat(root / "SalinasA_corrected.mat")["salinasA_corrected"]
    truth = scipy.io.loadmat(root / "SalinasA_gt.mat")["salinasA_gt"]
    np.testing.assert_array_equal(sample.pixels, np.moveaxis(cube, 2, 0))
    np.testing.assert_array_equal(sample.labels["landcover"], truth)
    assert [
        int((sample.labels["landcover"] == code).sum()) for code in (1, 10, 11, 12, 13, 14)
    ] == [391, 1343, 616, 1525, 674, 799]  # as published


def test_jasper_ridge(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "hyperspectral" / "jasper_ridge"
    (sample,) = convert(
        "hsi-scene",
        root,
        tmp_path / "store",
        "--image",
        "jasperRidge2_R198.mat",
        "--sensor",
        "aviris_jasper_ridge",
    )
    columns = scipy.io.loadmat(root / "jasperRidge2_R198.mat")[
        "Y"
    ]  # pixels in MATLAB's order, column by column
    np.testing.assert_array_equal(sample.pixels, columns.reshape(198, 100, 100).transpose(0, 2, 1))


def test_pavia_centre_in_matlab_7_3(sample_data: Path, tmp_path: Path) -> None:
    """A scene that was scaled to fractions needs the user's own row, and its axes are reversed in
    HDF5.
    """
    root = sample_data / "hyperspectral" / "pavia_centre_crop"
    row = dataclasses.replace(
        get_sensor("rosis_pavia_centre"),
        id="pavia_scaled",
        dtype="float64",
        units="fraction of the largest value",
    )
    (tmp_path / "row.json").write_text(json.dumps(row.row()))
    options = ("--image", "pavia.mat", "--sensor", str(tmp_path / "row.json"))
    with h5py.File(root / "pavia.mat") as file:
        name = next(
            key
            for key, value in file.items()
            if isinstance(value, h5py.Dataset) and value.ndim == 3
        )
        cube = file[name][()]
    (sample,) = convert("hsi-scene", root, tmp_path / "store", *options, "--variable", name)
    np.testing.assert_array_equal(sample.pixels, cube.transpose(0, 2, 1))


def test_houston_ground_truth_is_whole(sample_data: Path, tmp_path: Path) -> None:
    """The scene itself is not among the files; its ground truth is, and matches any image of that
    size.
    """
    truth = scipy.io.loadmat(sample_data / "hyperspectral" / "houston2013" / "Houston_gt.mat")
    name = next(key for key in truth if not key.startswith("__"))
    image = np.arange(349 * 1905, dtype=np.uint16).reshape(349, 1905, 1).repeat(2, 2)
    scipy.io.savemat(tmp_path / "image.mat", {"image": image}, do_compression=True)
    scipy.io.savemat(tmp_path / "gt.mat", {"gt": truth[name]}, do_compression=True)
    row = Sensor(
        "two",
        "two bands",
        (Band("1", 1, None, None), Band("2", 2, None, None)),
        None,
        "uint16",
        1.0,
        "digital number",
        None,
    )
    (tmp_path / "row.json").write_text(json.dumps(row.row()))
    options = (
        "--image",
        "image.mat",
        "--ground-truth",
        "gt.mat",
        "--sensor",
        str(tmp_path / "row.json"),
        "--patch-size",
        "64",
    )
    store = convert("hsi-scene", tmp_path, tmp_path / "store", *options)
    assert (
        sum(store.manifest["labels"]["landcover"]["values"][str(code)] for code in range(1, 16))
        == 15029
    )


@pytest.mark.parametrize(
    ("image", "sensor"),
    [
        ("HyMap02_Berlin_Urban_Gradient_2009", "hymap_berlin"),
        ("EnMAP_BerlinUrbanGradient", "enmap_simulated_berlin"),
    ],
)
def test_berlin(sample_data: Path, tmp_path: Path, image: str, sensor: str) -> None:
    """ENVI pairs, one of them gzip-compressed; GDAL would write a file next to it, so a copy is
    compared.
    """
    root = sample_data / "hyperspectral" / "berlin_urban_gradient"
    before = sorted(root.iterdir())
    (sample,) = convert(
        "hsi-scene", root, tmp_path / "store", "--image", f"{image}.hdr", "--sensor", sensor
    )
    assert sorted(root.iterdir()) == before
    for suffix in ("hdr", "bsq"):
        (tmp_path / f"{image}.{suffix}").write_bytes((root / f"{image}.{suffix}").read_bytes())
    np.testing.assert_array_equal(sample.pixels, tiff(tmp_path / f"{image}.bsq"))


def test_landsat_with_a_band_table_of_the_user(sample_data: Path, tmp_path: Path) -> None:
    source = sample_data / "landsat" / "L7_ETM_olinda"
    names = ("B1", "B2", "B3", "B4", "B5", "B7")
    bands = tuple(
        dataclasses.replace(band, number=i + 1)
        for i, band in enumerate(get_sensor("landsat7_etm_sr").bands)
    )
    row = Sensor(
        "olinda", "Landsat 7 ETM+ level 1", bands, 28.5, "uint8", 1.0, "digital number", None
    )
    assert len(bands) == len(names)
    (tmp_path / "row.json").write_text(json.dumps(row.row()))
    (sample,) = convert(
        "geotiff", source, tmp_path / "store", "--sensor", str(tmp_path / "row.json")
    )
    np.testing.assert_array_equal(sample.pixels, tiff(source / "L7_ETMs.tif"))
