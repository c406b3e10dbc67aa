"""Hyperspectral scenes in .mat, ENVI and GeoTIFF files: axes, dtypes, wavelengths, tiles, split
maps, and false claims.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import hsi_scene as layout
from layouts import make_reader, read_all, reject, write
from layouts.hsi_scene import BANDS_OF_OWN as BANDS
from layouts.hsi_scene import CUBE, own, save, save_7_3, table, write_envi
from scipy.io import loadmat

from data_prep.formats import geotiff
from eo_jax.sensors import get_sensor

HSI = "hsi-scene"
# ------------------------------------------------------------------ real scenes


def test_salinas_a(sample_data: Path) -> None:
    root = sample_data / "hyperspectral" / "salinas_a"
    options = {
        "image": "SalinasA_corrected.mat",
        "ground_truth": "SalinasA_gt.mat",
        "sensor": "aviris_salinas",
    }
    (sample,) = read_all(HSI, root, **options)
    cube, truth = (
        loadmat(root / options["image"])["salinasA_corrected"],
        loadmat(root / options["ground_truth"])["salinasA_gt"],
    )
    assert (sample.sensor, sample.pixels.shape, sample.pixels.dtype) == (
        "aviris_salinas",
        (204, 83, 86),
        np.int16,
    )
    np.testing.assert_array_equal(sample.pixels.transpose(1, 2, 0), cube)
    np.testing.assert_array_equal(sample.labels["landcover"], truth)
    values, counts = np.unique(truth, return_counts=True)
    assert dict(zip(values.tolist()[1:], counts.tolist()[1:], strict=True)) == {
        1: 391,
        10: 1343,
        11: 616,
        12: 1525,
        13: 674,
        14: 799,
    }
    assert (sample.id, sample.crs, sample.affine, sample.gsd_m, sample.wavelengths_nm) == (
        "SalinasA_corrected/r00000_c00000",
        None,
        None,
        None,
        None,
    )


def test_salinas_a_in_tiles(sample_data: Path) -> None:
    root = sample_data / "hyperspectral" / "salinas_a"
    options = {
        "image": "SalinasA_corrected.mat",
        "ground_truth": "SalinasA_gt.mat",
        "sensor": "aviris_salinas",
        "patch_size": 32,
    }
    cube = np.zeros((204, 83, 86), np.int16)
    truth = np.zeros((83, 86), np.uint8)
    times = np.zeros((83, 86), int)
    reader = make_reader(HSI, root, **options)
    for item, sample in zip(reader.items(), read_all(HSI, root, **options), strict=True):
        row, column = item.part
        _, height, width = sample.pixels.shape
        assert sample.id == f"SalinasA_corrected/r{row:05}_c{column:05}"
        here = np.s_[row : row + height, column : column + width]
        cube[:, *here], truth[here] = sample.pixels, sample.labels["landcover"]
        times[here] += 1
    assert (times == 1).all()  # every pixel exactly once
    np.testing.assert_array_equal(
        cube.transpose(1, 2, 0), loadmat(root / options["image"])["salinasA_corrected"]
    )
    np.testing.assert_array_equal(truth, loadmat(root / options["ground_truth"])["salinasA_gt"])


def test_pavia_university_fixed_split_maps(sample_data: Path, tmp_path: Path) -> None:
    """The benchmark's image is not in the sample data: one of the same size stands in, with the
    real maps of Hong et al.
    """
    maps = sample_data / "hyperspectral" / "pavia_university"
    for name in ("PaviaU_gt.mat", "TRpaviaU.mat", "TSpaviaU.mat"):
        (tmp_path / name).write_bytes((maps / name).read_bytes())
    save(tmp_path / "PaviaU.mat", paviaU=np.ones((610, 340, 103), np.uint16))
    options = {**layout.OPTIONS, "patch_size": 128}
    split = np.concatenate(
        [sample.labels["landcover.split"].ravel() for sample in read_all(HSI, tmp_path, **options)]
    )
    assert [(split == number).sum() for number in (1, 2, 3)] == [2774, 0, 40002]
    assert {item.split for item in make_reader(HSI, tmp_path, **options).items()} == {"pixel"}


def test_pavia_without_a_complete_ground_truth(sample_data: Path, tmp_path: Path) -> None:
    maps = sample_data / "hyperspectral" / "pavia_university"
    for name in ("TRpaviaU.mat", "TSpaviaU.mat"):
        (tmp_path / name).write_bytes((maps / name).read_bytes())
    save(tmp_path / "PaviaU.mat", paviaU=np.ones((610, 340, 103), np.uint16))
    (sample,) = read_all(HSI, tmp_path, **{**layout.OPTIONS, "patch_size": 0, "ground_truth": ""})
    np.testing.assert_array_equal(
        sample.labels["landcover"], loadmat(maps / "PaviaU_gt.mat")["paviaU_gt"]
    )


def test_indian_pines_split_maps_as_tif(sample_data: Path, tmp_path: Path) -> None:
    maps = sample_data / "hyperspectral" / "indian_pines"
    names = {
        "train_map": "IndianTR123_temp123.tif",
        "test_map": "IndianTE123_temp123.tif",
        "ground_truth": "Indian_pines_gt.mat",
    }
    for name in names.values():
        (tmp_path / name).write_bytes((maps / name).read_bytes())
    save(
        tmp_path / "Indian_pines_corrected.mat",
        indian_pines_corrected=np.ones((145, 145, 200), np.uint16),
    )
    options = {
        "image": "Indian_pines_corrected.mat",
        "sensor": "aviris_indian_pines",
        "train_map": names["train_map"],
        "test_map": names["test_map"],
    }
    (sample,) = read_all(HSI, tmp_path, **options)
    split = sample.labels["landcover.split"]
    assert [(split == number).sum() for number in (1, 3)] == [695, 9671]
    np.testing.assert_array_equal(
        sample.labels["landcover"][split == 1],
        tiny_archives.read(maps / names["train_map"])[0][split == 1],
    )


def test_houston_ground_truth(sample_data: Path, tmp_path: Path) -> None:
    gt = sample_data / "hyperspectral" / "houston2013" / "Houston_gt.mat"
    (tmp_path / gt.name).write_bytes(gt.read_bytes())
    save(tmp_path / "Houston.mat", HSI=np.ones((349, 1905, 144), np.uint16))
    options = {
        "image": "Houston.mat",
        "ground_truth": gt.name,
        "sensor": "casi_houston2013",
        "patch_size": 349,
    }
    samples = read_all(HSI, tmp_path, **options)
    assert [sample.pixels.shape for sample in samples] == [(144, 349, 349)] * 5 + [(144, 349, 160)]
    truth = np.concatenate([sample.labels["landcover"] for sample in samples], 1)
    np.testing.assert_array_equal(truth, loadmat(gt)["Houston_gt"])
    assert (truth != 0).sum() == 15029


def test_semi_real_pavia_was_scaled_and_says_so_only_in_its_own_table(
    sample_data: Path, tmp_path: Path
) -> None:
    root = sample_data / "hyperspectral" / "pavia_university"
    options = {"image": "reg_pavia_dataset.mat", "variable": "I1"}
    reject(
        HSI,
        root,
        "reg_pavia_dataset.mat",
        "float64",
        "uint16 (digital number)",
        "JSON",
        **options,
        sensor="rosis_pavia_university",
    )
    (sample,) = read_all(
        HSI, root, **options, sensor=table(tmp_path, 103, "float64", units="scaled reflectance")
    )
    cube = loadmat(root / "reg_pavia_dataset.mat")["I1"]
    assert (sample.sensor, sample.pixels.dtype) == ("own", np.float64)
    np.testing.assert_array_equal(sample.pixels, cube.transpose(2, 0, 1))
    reject(
        HSI,
        root,
        "I1 80 x 50 x 103",
        "rgb1 500 x 340 x 3",
        "--variable",
        image="reg_pavia_dataset.mat",
        sensor="rosis_pavia_university",
    )


def test_pavia_centre_of_matlab_7_3_has_reversed_axes(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "hyperspectral" / "pavia_centre_crop"
    (sample,) = read_all(
        HSI,
        root,
        image="pavia.mat",
        ground_truth="pavia.mat",
        sensor=table(tmp_path, 102, "float64", units="scaled"),
    )
    with h5py.File(root / "pavia.mat") as file:
        data, truth = file["data"][()], file["groundtruth"][()]
    assert data.shape == (102, 100, 100)
    np.testing.assert_array_equal(sample.pixels[:, 30, 70], data[:, 70, 30])
    np.testing.assert_array_equal(sample.pixels, data.transpose(0, 2, 1))
    np.testing.assert_array_equal(sample.labels["landcover"], truth.T)
    assert (sample.labels["landcover"].dtype, (sample.labels["landcover"] != 0).sum()) == (
        np.int64,
        71,
    )


def test_jasper_ridge_counts_pixels_down_the_columns(sample_data: Path) -> None:
    root = sample_data / "hyperspectral" / "jasper_ridge"
    (sample,) = read_all(HSI, root, image="jasperRidge2_R198.mat", sensor="aviris_jasper_ridge")
    spectra = loadmat(root / "jasperRidge2_R198.mat")["Y"]
    assert sample.pixels.shape == (198, 100, 100)
    np.testing.assert_array_equal(sample.pixels[:, 7, 3], spectra[:, 3 * 100 + 7])
    np.testing.assert_array_equal(
        sample.pixels, np.stack([band.reshape((100, 100), order="F") for band in spectra])
    )


def test_hymap_over_berlin(sample_data: Path) -> None:
    root = sample_data / "hyperspectral" / "berlin_urban_gradient"
    before = tiny_archives.files(root)
    (sample,) = read_all(
        HSI, root, image="HyMap02_Berlin_Urban_Gradient_2009.hdr", sensor="hymap_berlin"
    )
    raw = np.fromfile(root / "HyMap02_Berlin_Urban_Gradient_2009.bsq", "<f4").reshape(111, 100, 67)
    np.testing.assert_array_equal(sample.pixels, raw)
    assert sample.pixels.dtype == np.float32
    assert sample.wavelengths_nm[[0, 110]] == pytest.approx([455.4, 2446.5])  # of the band names
    assert (sample.affine, sample.gsd_m) == (
        (9.0, 0.0, 383851.349, 0.0, -9.0, 5819308.225),
        pytest.approx(9),
    )
    assert sample.lonlat == pytest.approx((13.29, 52.51), abs=0.01)
    assert tiny_archives.files(root) == before


def test_enmap_over_berlin_is_compressed_and_nothing_is_written_next_to_it(
    sample_data: Path, tmp_path: Path
) -> None:
    root = sample_data / "hyperspectral" / "berlin_urban_gradient"
    for path in root.glob("EnMAP_*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = tiny_archives.files(tmp_path)
    options = {"image": "EnMAP_BerlinUrbanGradient.hdr", "sensor": "enmap_simulated_berlin"}
    (sample,) = read_all(HSI, tmp_path, **options)
    raw = np.frombuffer(
        gzip.decompress((root / "EnMAP_BerlinUrbanGradient.bsq").read_bytes()), "<i2"
    ).reshape(177, 80, 60)
    np.testing.assert_array_equal(sample.pixels, raw)
    np.testing.assert_allclose(
        sample.wavelengths_nm, get_sensor("enmap_simulated_berlin").centres_nm
    )
    assert sample.wavelengths_nm[0] == pytest.approx(460)  # the header has micrometres
    assert sample.affine == (30.0, 0.0, 383472.37, 0.0, -30.0, 5818302.35)
    tiles = read_all(HSI, tmp_path, **options, patch_size=50)
    assert [tile.pixels.shape[1:] for tile in tiles] == [(50, 50), (50, 10), (30, 50), (30, 10)]
    assert tiles[3].affine == (30.0, 0.0, 383472.37 + 1500, 0.0, -30.0, 5818302.35 - 1500)
    assert tiny_archives.files(tmp_path) == before


def test_gamsberg_needs_a_table_to_prove_its_unit(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "hyperspectral" / "gamsberg_envi"
    options = {"image": "cubus_gamsberg_subset.hdr"}
    reject(
        HSI,
        root,
        "cubus_gamsberg_subset.hdr",
        "no unit",
        **options,
        sensor=table(tmp_path, 189, "float32"),
    )
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(root / "cubus_gamsberg_subset") as file:
        nm = [float(file.tags(number)["wavelength"]) for number in file.indexes]
        expected = file.read()
    (sample,) = read_all(HSI, root, **options, sensor=table(tmp_path, 189, "float32", centre_nm=nm))
    np.testing.assert_array_equal(sample.pixels, expected)
    np.testing.assert_allclose(sample.wavelengths_nm, nm)
    assert (sample.crs, sample.affine) == (None, None)
    reject(
        HSI,
        root,
        "cubus_gamsberg_subset.hdr",
        "wavelengths",
        **options,
        sensor=table(tmp_path, 189, "float32", centre_nm=nm[::-1]),
    )


# ------------------------------------------------------------------ axes and dtypes


def test_tiles_of_the_tiny_archive(tmp_path: Path) -> None:
    options = write(HSI, tmp_path)
    truth, train, test = layout.maps()
    cube = layout.cube()
    for item, sample in zip(
        make_reader(HSI, tmp_path, **options).items(),
        read_all(HSI, tmp_path, **options),
        strict=True,
    ):
        rows, columns = (slice(start, start + 8) for start in item.part)
        np.testing.assert_array_equal(sample.pixels, cube[:, rows, columns])
        np.testing.assert_array_equal(sample.labels["landcover"], truth[rows, columns])
        split = sample.labels["landcover.split"]
        assert split.dtype == np.uint8
        np.testing.assert_array_equal(split == 1, train[rows, columns] != 0)
        np.testing.assert_array_equal(split == 3, test[rows, columns] != 0)
        assert (item.split, sample.group) == ("pixel", sample.id)


def test_val_map(tmp_path: Path) -> None:
    options = write(HSI, tmp_path)
    truth, train, test = layout.maps()
    val = np.where((train == 0) & (test == 0), truth, 0)
    save(tmp_path / "val.mat", val=val)
    (sample,) = read_all(HSI, tmp_path, **{**options, "patch_size": 0, "val_map": "val.mat"})
    np.testing.assert_array_equal(sample.labels["landcover.split"] == 2, val != 0)


def test_without_split_maps_the_converter_splits(tmp_path: Path) -> None:
    options = {**write(HSI, tmp_path), "train_map": "", "test_map": ""}
    assert {item.split for item in make_reader(HSI, tmp_path, **options).items()} == {None}
    assert {tuple(sample.labels) for sample in read_all(HSI, tmp_path, **options)} == {
        ("landcover",)
    }


def test_integers_get_the_dtype_of_the_table(tmp_path: Path) -> None:
    """MATLAB stores doubles that are small integers as uint8, int16 or uint16."""
    options = own(tmp_path)
    for cube in (CUBE % 200, CUBE.astype(np.int32), CUBE.astype(np.float64)):
        save(tmp_path / "a" / "scene.mat", scene=cube.transpose(1, 2, 0))
        (sample,) = read_all(HSI, tmp_path / "a", **options)
        assert sample.pixels.dtype == np.uint16
        np.testing.assert_array_equal(sample.pixels, cube)


@pytest.mark.parametrize(
    ("cube", "dtype", "words"),
    [
        (CUBE.astype(np.int16) - 1, "uint16", ("int16", "uint16", "from -1")),
        (CUBE + np.float32(0.5), "uint16", ("float32", "cannot hold")),
        (CUBE.astype(np.float64) + 1e-9, "float32", ("float64", "cannot hold")),
        (CUBE, "float32", ("uint16", "in the same unit")),
        (np.where(CUBE == 3, np.nan, CUBE), "uint16", ("1 values are NaN", '"nodata"')),
        (CUBE.astype(np.complex128) + 1j, "uint16", ("complex numbers",)),
    ],
)
def test_values_that_the_table_cannot_hold(
    tmp_path: Path, cube: np.ndarray, dtype: str, words: tuple[str, ...]
) -> None:
    save(tmp_path / "a" / "scene.mat", scene=cube.transpose(1, 2, 0))
    reject(HSI, tmp_path / "a", "scene.mat", *words, **own(tmp_path, dtype=dtype))


def test_matlab_7_3(tmp_path: Path) -> None:
    path = save_7_3(
        tmp_path / "a" / "scene.mat",
        CUBE.transpose(0, 2, 1),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
        chunks=(2, 7, 5),
    )
    (sample,) = read_all(HSI, path.parent, **own(tmp_path))
    np.testing.assert_array_equal(sample.pixels, CUBE)


def test_big_endian_mat(tmp_path: Path) -> None:
    values = CUBE.transpose(2, 1, 0).astype(">u2")  # column order
    flags = struct.pack(">IIII", 6, 8, 11, 0)
    shape = struct.pack(">IIiii4x", 5, 12, layout.HEIGHT, layout.WIDTH, BANDS)
    data = values.transpose(2, 0, 1).tobytes()
    pad = -len(data) % 8
    matrix = (
        flags
        + shape
        + struct.pack(">II8s", 1, 5, b"scene")
        + struct.pack(">II", 4, len(data))
        + data
        + bytes(pad)
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scene.mat").write_bytes(
        b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(matrix)) + matrix
    )
    expected = loadmat(tmp_path / "a" / "scene.mat")["scene"].transpose(2, 0, 1)
    (sample,) = read_all(HSI, tmp_path / "a", **own(tmp_path))
    np.testing.assert_array_equal(sample.pixels, expected)
    assert sample.pixels.dtype.isnative


def test_tif_scene(tmp_path: Path) -> None:
    tiny_archives.write(tmp_path / "a" / "scene.tif", CUBE)
    truth, *_ = layout.maps()
    tiny_archives.write(tmp_path / "a" / "gt.tif", truth[None])
    samples = read_all(
        HSI,
        tmp_path / "a",
        **own(tmp_path) | {"image": "scene.tif", "ground_truth": "gt.tif", "patch_size": 10},
    )
    assert [sample.pixels.shape[1:] for sample in samples] == [(10, 10), (10, 8), (3, 10), (3, 8)]
    np.testing.assert_array_equal(samples[3].pixels, CUBE[:, 10:, 10:])
    np.testing.assert_array_equal(samples[3].labels["landcover"], truth[10:, 10:])
    assert samples[3].affine == (30.0, 0.0, 366315.0, 0.0, -30.0, 5809665.0)


def test_scene_that_is_too_large_for_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geotiff, "MAX_BYTES", 2 * BANDS * 10 * 10)
    folders = {
        "scene.mat": save(tmp_path / "a" / "scene.mat", scene=CUBE.transpose(1, 2, 0)),
        "scene.hdr": write_envi(tmp_path / "b"),
    }
    for image, path in folders.items():
        reject(
            HSI,
            path.parent,
            "scene",
            "5 x 13 x 18 uint16",
            "--patch-size",
            **own(tmp_path) | {"image": image},
        )
        assert (
            len(read_all(HSI, path.parent, **own(tmp_path) | {"image": image}, patch_size=10)) == 4
        )


def test_tiles_without_data_are_left_out(tmp_path: Path) -> None:
    cube = CUBE + np.uint16(1)
    cube[:, :, 8:16] = 0
    save(tmp_path / "a" / "scene.mat", scene=cube.transpose(1, 2, 0))
    ids = [
        sample.id
        for sample in read_all(HSI, tmp_path / "a", **own(tmp_path, nodata=0), patch_size=8)
    ]
    assert ids == [f"scene/r{row:05}_c{column:05}" for row in (0, 8) for column in (0, 16)]


# ------------------------------------------------------------------ options and maps that cannot be


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": ""}, ("--image",)),
        ({"sensor": ""}, ("--sensor",)),
        ({"image": "missing.mat"}, ("missing.mat", "no such file")),
        ({"image": "PaviaU.npy"}, ("PaviaU.npy", "'.npy'", ".mat")),
        (
            {"sensor": "rosis_pavia_centre"},
            ("PaviaU.mat", "103 bands, expected the 102", "last axis"),
        ),
        ({"test_map": ""}, ("--train-map", "--test-map")),
        ({"train_map": "", "test_map": "", "val_map": "TRpaviaU.mat"}, ("--train-map",)),
        ({"patch_size": -1}, ("--patch-size", "-1")),
        ({"variable": "pavia"}, ("PaviaU.mat", "paviaU 13 x 18 x 103", "'pavia'", "--variable")),
        ({"ground_truth": "PaviaU.mat"}, ("PaviaU.mat", "one array of 2 axes", "--label-variable")),
        ({"label_variable": "gt"}, ("PaviaU_gt.mat", "'gt'")),
        ({"test_map": "PaviaU_gt.mat"}, ("PaviaU_gt.mat", "train, TRpaviaU.mat", "one split only")),
    ],
)
def test_invalid_options(tmp_path: Path, changes: dict, words: tuple[str, ...]) -> None:
    options = write(HSI, tmp_path)
    (tmp_path / "PaviaU.npy").touch()
    reject(HSI, tmp_path, *words, **{**options, **changes})


def test_unknown_sensor(tmp_path: Path) -> None:
    options = write(HSI, tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'rosis_pavia_university'"):
        make_reader(HSI, tmp_path, **{**options, "sensor": "rosis_pavia_universty"}).items()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: truth.T, ("1 x 18 x 13", "1 x 13 x 18", "seems transposed")),
        (lambda truth: truth[:10], ("1 x 10 x 18", "PaviaU.mat")),
        (lambda truth: truth + 0.5, ("not class numbers",)),
        (lambda truth: np.where(truth == 2, np.nan, truth), ("not class numbers",)),
        (
            lambda truth: truth.astype(np.int16) - 1,
            ("the value -1", "below the first class 1", "--label-nodata -1"),
        ),
    ],
)
def test_ground_truth_that_does_not_fit(tmp_path: Path, change, words: tuple[str, ...]) -> None:
    options = write(HSI, tmp_path)
    save(tmp_path / "PaviaU_gt.mat", gt=change(layout.maps()[0]))
    reject(HSI, tmp_path, "PaviaU_gt.mat", *words, **options)


def test_split_map_that_contradicts_the_ground_truth(tmp_path: Path) -> None:
    options = write(HSI, tmp_path)
    _, train, _ = layout.maps()
    row, column = np.argwhere(train)[0]
    train[row, column] += 1
    save(tmp_path / "TRpaviaU.mat", train=train)
    reject(
        HSI,
        tmp_path,
        "TRpaviaU.mat",
        "1 pixels have another class",
        f"row {row}, column {column}",
        **options,
    )
