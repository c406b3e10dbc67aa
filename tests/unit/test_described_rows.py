"""Sensor rows that files describe themselves, and some of the bands of a row."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import emit, make_reader, prisma, read_all, reject
from layouts.hsi_scene import CUBE, own, save, write_envi

from data_prep.__main__ import main
from eo_jax.sensors import get_sensor

HSI, NM = "hsi-scene", [450.0, 560.0, 650.0, 860.0, 1650.0]
ENVI = {
    "wavelength": "{0.45, 0.56, 0.65, 0.86, 1.65}",
    "wavelength_units": "Micrometers",
    "fwhm": "{0.01, 0.02, 0.03, 0.04, 0.05}",
    "bbl": "{1, 1, 1, 1, 0}",
    "data_ignore_value": "0",
    "reflectance_scale_factor": "10000",
}


def described(path: Path, *options: str) -> dict:
    output = path.parent / "row.json"
    assert main(["sensor", "--from", str(path), "--output", str(output), *options]) == 0
    get_sensor(str(output))  # it is a valid row
    return json.loads(output.read_text())


def test_an_envi_header_describes_its_row(tmp_path: Path) -> None:
    row = described(write_envi(tmp_path, **ENVI))
    assert row["bands"]["centre_nm"] == pytest.approx(NM)
    assert row["bands"]["fwhm_nm"] == pytest.approx([10, 20, 30, 40, 50])
    assert row["bands"]["bad"] == [False, False, False, False, True]
    found = [row[key] for key in ("dtype", "nodata", "scale", "units", "true_colour")]
    assert found == ["uint16", 0.0, 1e-4, "reflectance", [2, 1, 0]]


def test_a_geotiff_describes_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiny_archives.write(path, CUBE[:2].astype(np.int16), nodata=-1)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B1", "B2")
        for number, nm in enumerate(("0.45", "0.56"), 1):
            file.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=nm)
    row = described(path)
    assert row["bands"]["name"] == ["B1", "B2"]
    assert row["bands"]["centre_nm"] == pytest.approx([450, 560])
    assert (row["dtype"], row["nodata"]) == ("int16", -1.0)


@pytest.mark.parametrize(("wl", "unit"), [(NM, "nm"), ([nm / 1000 for nm in NM], "micrometres")])
def test_a_mat_file_describes_its_row(tmp_path: Path, capsys, wl: list[float], unit: str) -> None:
    path = save(tmp_path / "scene.mat", cube=CUBE.transpose(1, 2, 0), wl=np.array(wl))
    assert described(path)["bands"]["centre_nm"] == pytest.approx(NM)
    assert f"wavelengths have no unit: {unit}" in capsys.readouterr().err


def test_a_netcdf_file_describes_its_row(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scene.nc", "w") as file:
        cube = file.create_dataset("reflectance", data=CUBE.transpose(1, 2, 0).astype("f4"))
        cube.attrs["_FillValue"] = np.float32(-9999)
        file["sensor_band_parameters/wavelengths"] = np.array(NM)
        file["sensor_band_parameters/wavelengths"].attrs["units"] = "nm"
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 1, 0, 1])
    row = described(tmp_path / "scene.nc")
    assert row["bands"]["centre_nm"] == NM
    assert row["bands"]["bad"] == [False, False, False, True, False]
    assert (row["dtype"], row["nodata"], row["units"]) == ("float32", -9999.0, "reflectance")


def test_products_of_prisma_and_emit_describe_their_rows(tmp_path: Path) -> None:
    row = described(prisma.write_product(tmp_path))
    assert row["bands"]["name"][:2] == ["V6", "V5"] and len(row["bands"]["scale"]) == 8
    row = described(emit.write_granule(tmp_path))
    assert row["bands"]["bad"] == [False] * 4 + [True, False]
    assert row["bands"]["fwhm_nm"] == [8.5] * 6


def test_a_file_without_wavelengths_has_a_row_with_numbers_only(tmp_path: Path, capsys) -> None:
    save(tmp_path / "scene.mat", cube=CUBE.transpose(1, 2, 0))
    assert main(["sensor", "--from", str(tmp_path / "scene.mat")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["bands"]["name"][:2] == ["band 1", "band 2"]
    assert "centre_nm" not in row["bands"]


def test_a_damaged_file_names_itself(tmp_path: Path, capsys) -> None:
    (tmp_path / "scene.h5").write_bytes(b"no")
    assert main(["sensor", "--from", str(tmp_path / "scene.h5")]) == 1
    assert "scene.h5: cannot be read as HDF5" in capsys.readouterr().err


# ------------------------------------------------------------------ hsi-scene without a table


def test_a_scene_with_wavelengths_needs_no_table(tmp_path: Path) -> None:
    write_envi(tmp_path, **ENVI)
    reader = make_reader(HSI, tmp_path, image="scene.hdr")
    (sample,) = read_all(HSI, tmp_path, image="scene.hdr")
    (sensor,) = reader.sensors
    np.testing.assert_allclose(sample.wavelengths_nm, NM)
    np.testing.assert_array_equal(sample.pixels[:4], CUBE[:4])
    assert sensor.missing(sample.pixels)[4].all()  # the bad band


def test_a_scene_without_wavelengths_and_table_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "scene.mat", cube=CUBE.transpose(1, 2, 0))
    reject(HSI, tmp_path, "--sensor", "does not say the wavelengths", image="scene.mat")


def test_wavelengths_of_a_mat_file_are_compared_with_the_table(tmp_path: Path) -> None:
    options = own(tmp_path, centre_nm=[nm + 90 for nm in NM])
    save(tmp_path / "a" / "scene.mat", cube=CUBE.transpose(1, 2, 0), wl=np.array(NM))
    reject(HSI, tmp_path / "a", "scene.mat", "wavelengths are not those", **options)


def test_real_enmap_tiles_need_no_table(sample_data: Path) -> None:
    root = sample_data / "enmap" / "potsdam_l2a_tiles" / "images"
    samples = read_all("geotiff", root)
    (row,) = make_reader("geotiff", root).sensors
    assert len(samples) == 10 and (row.nodata, row.gsd_m, len(row.bands)) == (-32768, 30, 224)
    published = get_sensor("enmap_l2a_224")
    np.testing.assert_allclose(row.centres_nm, published.centres_nm, atol=0.5)
    with rasterio.open(root / f"{samples[0].id}.tif") as file:
        np.testing.assert_array_equal(samples[0].pixels, file.read())


def test_a_real_flight_needs_no_table(sample_data: Path) -> None:
    root = sample_data / "hyperspectral" / "berlin_urban_gradient"
    name = "HyMap02_Berlin_Urban_Gradient_2009"
    (sample,) = read_all(HSI, root, image=f"{name}.hdr")
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(root / f"{name}.bsq") as file:
        np.testing.assert_array_equal(sample.pixels, file.read())
    np.testing.assert_allclose(
        sample.wavelengths_nm, get_sensor("hymap_berlin").centres_nm, atol=1e-3
    )


# ------------------------------------------------------------------ --bands


@pytest.mark.parametrize("name", ["scene.mat", "scene.hdr"])
def test_some_bands_of_a_scene(tmp_path: Path, name: str) -> None:
    write_envi(tmp_path / "a", **ENVI)
    save(tmp_path / "a" / "scene.mat", cube=CUBE.transpose(1, 2, 0), wl=np.array(NM))
    options = {"image": name, "bands": ("band 3", "band 1")}
    (sample,) = read_all(HSI, tmp_path / "a", **options)
    np.testing.assert_array_equal(sample.pixels, CUBE[[0, 2]])  # the order is that of the row
    np.testing.assert_allclose(sample.wavelengths_nm, [450, 650])
    assert sample.sensor == make_reader(HSI, tmp_path / "a", **options).sensors[0].id


@pytest.mark.parametrize("stated", [True, False])
def test_files_with_some_bands_in_the_order_of_the_option(tmp_path: Path, stated: bool) -> None:
    names = ("B8", "B4", "B3")
    tiny_archives.write(tmp_path / "a.tif", CUBE[:3])
    if stated:
        with rasterio.open(tmp_path / "a.tif", "r+") as file:
            file.descriptions = names
    options = {"sensor": "sentinel2_l2a", "bands": names}
    (sample,) = read_all("geotiff", tmp_path, **options)
    np.testing.assert_array_equal(sample.pixels, CUBE[[2, 1, 0]])
    (sensor,) = make_reader("geotiff", tmp_path, **options).sensors
    assert [band.name for band in sensor.bands] == ["B3", "B4", "B8"]
    if stated:  # a file that contradicts the order of the option
        wrong = {**options, "bands": ("B4", "B3", "B8")}
        reject("geotiff", tmp_path, "a.tif", "another order", **wrong)


def test_bands_that_are_not_in_the_files(tmp_path: Path) -> None:
    tiny_archives.write(tmp_path / "a.tif", CUBE[:3])
    options = {"sensor": "sentinel2_l2a", "bands": ("B2", "B3")}
    reject("geotiff", tmp_path, "a.tif", "3 bands, expected the 2 of --bands, or all 12", **options)
    with pytest.raises(ValueError, match=r"--bands: no band 'B99'"):
        make_reader("geotiff", tmp_path, **{**options, "bands": ("B99",)}).items()


# ------------------------------------------------------------------ lists and other resolutions


def test_a_list_of_spectra_with_a_class_for_each(tmp_path: Path) -> None:
    spectra = CUBE.reshape(5, -1).T  # [n, c]
    classes = np.arange(len(spectra)) % 4
    save(tmp_path / "a" / "train.mat", data=spectra)
    save(tmp_path / "a" / "labels.mat", labels=classes[None].astype(np.uint8))
    options = own(tmp_path) | {"image": "train.mat", "ground_truth": "labels.mat"}
    (sample,) = read_all(HSI, tmp_path / "a", **options)
    np.testing.assert_array_equal(sample.pixels[:, :, 0].T, spectra)
    np.testing.assert_array_equal(sample.labels["landcover"][:, 0], classes)


def test_indian_pines_training_spectra(sample_data: Path, tmp_path: Path) -> None:
    from layouts.hsi_scene import table
    from scipy.io import loadmat

    root = sample_data / "hyperspectral" / "indian_pines"
    row = table(tmp_path, 200, "float64", units="scaled")
    options = {"image": "Train_X.mat", "ground_truth": "TrLabel.mat", "sensor": row}
    (sample,) = read_all(HSI, root, **options)
    np.testing.assert_array_equal(
        sample.pixels[:, :, 0].T, loadmat(root / "Train_X.mat")["Train_X"]
    )
    counts = np.bincount(sample.labels["landcover"].ravel())[1:]
    assert sorted(counts.tolist()) == [15] * 3 + [50] * 13


def test_labels_of_another_resolution_need_a_rule(tmp_path: Path) -> None:
    height, width = CUBE.shape[1:]
    fine = np.ones((2 * height, 2 * width), np.uint8)
    fine[:2, :2] = [[3, 2], [2, 4]]
    save(tmp_path / "a" / "scene.mat", cube=CUBE.transpose(1, 2, 0))
    save(tmp_path / "a" / "fine.mat", labels=fine)
    options = own(tmp_path) | {"ground_truth": "fine.mat"}
    reject(HSI, tmp_path / "a", "fine.mat", "--label-resample", **options)
    for rule, expected in (("nearest", 4), ("mode", 2)):
        (sample,) = read_all(HSI, tmp_path / "a", **options, label_resample=rule)
        assert sample.labels["landcover"].shape == (height, width)
        assert sample.labels["landcover"][0, 0] == expected
        assert (sample.labels["landcover"].ravel()[1:] == 1).all()
    save(tmp_path / "a" / "fine.mat", labels=fine[:-1])
    reject(HSI, tmp_path / "a", "whole multiple", **options, label_resample="mode")


def test_labels_of_other_ground_are_refused(tmp_path: Path) -> None:
    height, width = CUBE.shape[1:]
    tiny_archives.write(tmp_path / "a" / "scene.tif", CUBE)
    labels = np.ones((1, 2 * height, 2 * width), np.uint8)
    grid = tiny_archives.GRID["transform"]
    options = own(tmp_path) | {"image": "scene.tif", "ground_truth": "labels.tif"}
    options["label_resample"] = "mode"
    fine = grid * rasterio.Affine.scale(0.5)
    tiny_archives.write(tmp_path / "a" / "labels.tif", labels, transform=fine)
    (sample,) = read_all(HSI, tmp_path / "a", **options)
    assert sample.labels["landcover"].shape == (height, width)
    moved = fine * rasterio.Affine.translation(4, 0)
    tiny_archives.write(tmp_path / "a" / "labels.tif", labels, transform=moved)
    reject(HSI, tmp_path / "a", "labels.tif", "its corners are at (366075,", **options)


def test_nan_and_infinity_of_a_row_mean_that_it_has_no_value(tmp_path: Path) -> None:
    row = get_sensor("sentinel1_grd").row() | {"id": "own"}
    for value in (float("nan"), float("-inf"), "nan"):
        (tmp_path / "row.json").write_text(json.dumps({**row, "nodata": value}))
        assert get_sensor(str(tmp_path / "row.json")).nodata is None
    row = get_sensor("sentinel2_l2a").row() | {"id": "own", "nodata": float("nan")}
    (tmp_path / "row.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"nodata.*finite number"):
        get_sensor(str(tmp_path / "row.json"))
