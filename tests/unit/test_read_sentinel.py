"""SSL4EO-S12 v1.0: every band as in its file, in the order of the sensor table, and coarser bands
on the 10 m grid by the chosen method.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from layouts import make_reader, read_all, read_item, reject, ssl4eo_s12, write
from rasterio.transform import Affine
from scipy import ndimage

from data_prep.formats import resample
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor
from tests import tiny_archives

S12 = "ssl4eo-s12"
FACTORS = {10.0: 1, 20.0: 2, 60.0: 6}
SCENE = ssl4eo_s12.SCENES["s2c"][0]
FOLDER = f"s2c/0000200/{SCENE}"


def assert_bands(sample: Sample, folder: Path) -> None:
    """Every band as read by rasterio; coarser ones repeated, as with --resample nearest."""
    for band, plane in zip(get_sensor(sample.sensor).bands, sample.pixels, strict=True):
        original, factor = tiny_archives.read(folder / f"{band.name}.tif")[0], FACTORS[band.gsd_m]
        assert plane.dtype == original.dtype
        np.testing.assert_array_equal(
            plane, np.kron(original, np.ones((factor, factor), original.dtype))
        )


# ------------------------------------------------------------------ resampling


def half_pixel_centres(band: np.ndarray, factor: int) -> np.ndarray:
    """The textbook formula of bilinear interpolation, pixel by pixel: centres at (i + 0.5) / factor
    - 0.5, edges extended.
    """
    height, width = band.shape
    fine = np.empty((height * factor, width * factor))
    for row, column in itertools.product(range(height * factor), range(width * factor)):
        y, x = (row + 0.5) / factor - 0.5, (column + 0.5) / factor - 0.5
        top, left = int(np.floor(y)), int(np.floor(x))
        corners = itertools.product(
            ((top, 1 - y + top), (top + 1, y - top)), ((left, 1 - x + left), (left + 1, x - left))
        )
        fine[row, column] = sum(
            band[min(max(r, 0), height - 1), min(max(c, 0), width - 1)] * p * q
            for (r, p), (c, q) in corners
        )
    return fine


@pytest.mark.parametrize("factor", [2, 6])
def test_bilinear_is_the_textbook_formula_and_what_scipy_gives(factor: int) -> None:
    band = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    fine = resample.bilinear(band, factor, None)
    assert (fine.dtype, fine.shape) == (np.uint16, (5 * factor, 7 * factor))
    for exact in (
        half_pixel_centres(band, factor),
        ndimage.zoom(band.astype(float), factor, order=1, mode="nearest", grid_mode=True),
    ):
        assert np.abs(fine - exact).max() <= 0.5 + 1e-6  # rounding only


def test_bilinear_has_the_geometry_of_gdal() -> None:
    band = np.random.default_rng(1).integers(0, 10000, (8, 8)).astype(np.float32)
    warped, crs = np.empty((16, 16), np.float32), "EPSG:32633"
    grids = {
        "src_transform": Affine(20, 0, 0, 0, -20, 0),
        "dst_transform": Affine(10, 0, 0, 0, -10, 0),
        "src_crs": crs,
        "dst_crs": crs,
    }
    rasterio.warp.reproject(band, warped, resampling=rasterio.warp.Resampling.bilinear, **grids)
    np.testing.assert_allclose(
        resample.bilinear(band.astype(np.uint16), 2, None)[1:-1, 1:-1],
        warped[1:-1, 1:-1],
        atol=0.51,
    )


def test_bilinear_keeps_a_plane_and_rounds_halves_to_even() -> None:
    ramp = np.tile(np.arange(0, 120, 12, dtype=np.uint16), (3, 1))
    np.testing.assert_array_equal(resample.bilinear(ramp, 6, None)[0, 3:-3], np.arange(1, 108, 2))
    np.testing.assert_array_equal(
        resample.bilinear(np.array([[0, 2]], np.uint16), 2, None)[0], [0, 0, 2, 2]
    )  # 0, 0.5, 1.5, 2


def test_no_data_is_not_mixed_with_data() -> None:
    band = np.full((4, 4), 1000, np.uint16)
    band[0, 0] = 0
    fine = resample.bilinear(band, 6, 0)
    assert set(np.unique(fine).tolist()) == {0, 1000}
    assert (fine[:9, :9] == 0).all()  # up to the centre of the next pixel
    assert (fine[9:] == 1000).all()


# ------------------------------------------------------------------ SSL4EO-S12 v1.0


def test_real_location_as_rasterio_reads_it(sample_data: Path) -> None:
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    samples = read_all(S12, root, resample="nearest")
    found = {sample.sensor: sample.pixels.shape for sample in samples}
    assert found == {
        "sentinel1_grd": (2, 264, 264),
        "sentinel2_l1c": (13, 264, 264),
        "sentinel2_l2a": (12, 264, 264),
    }
    assert len(samples) == 6
    for sample in samples:
        assert_bands(sample, root / sample.id.split("/")[1] / sample.group / sample.product)


def test_real_location_bilinear_and_its_georeference(sample_data: Path) -> None:
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    sample = next(
        sample for sample in read_all(S12, root) if sample.id == "0000200/s2c/20200604T054639"
    )
    folder = root / "s2c" / "0000200" / sample.product
    for index, band, factor in ((0, "B1", 6), (11, "B11", 2)):
        original = tiny_archives.read(folder / f"{band}.tif")[0].astype(float)
        zoomed = ndimage.zoom(original, factor, order=1, mode="nearest", grid_mode=True)
        assert np.abs(sample.pixels[index] - zoomed).max() <= 0.5 + 1e-6
    assert (sample.crs, sample.time, sample.gsd_m) == (
        "EPSG:4326",
        1591249599,
        None,
    )  # 2020-06-04T05:46:39Z; degrees are not metres
    assert sample.lonlat == pytest.approx((73.3059, 30.4640), abs=1e-4)
    with rasterio.open(folder / "B2.tif") as file:
        assert sample.affine == tuple(file.transform)[:6]


def test_torchgeo_fixture(sample_data: Path) -> None:
    root = sample_data / "torchgeo_fixtures_SYNTHETIC" / "ssl4eo" / "s12"
    samples = read_all(S12, root, resample="nearest")
    assert len(samples) == 24
    for sample in samples:
        assert_bands(sample, root / sample.id.split("/")[1] / sample.group / sample.product)


def test_bands_are_those_of_the_table_in_its_order(tmp_path: Path) -> None:
    write(S12, tmp_path)
    for sample in read_all(S12, tmp_path, resample="nearest"):
        assert_bands(sample, tmp_path / sample.id.split("/")[1] / sample.group / sample.product)
    l1c, l2a = (
        next(each for each in read_all(S12, tmp_path, products=(product,)))
        for product in ("s2c", "s2a")
    )
    assert (l1c.pixels.min((1, 2)) // 1000).tolist() == list(range(13))
    assert (l2a.pixels.min((1, 2)) // 1000).tolist() == list(range(12))  # no B10


def test_sentinel_1_is_vv_then_vh(tmp_path: Path) -> None:
    write(S12, tmp_path)
    sample = read_all(S12, tmp_path, products=("s1",))[0]
    assert sample.pixels[0].min() > -10 > sample.pixels[1].max()
    assert sample.pixels.dtype == np.float32


def test_seasons_are_in_the_order_of_time_whatever_the_listing(tmp_path: Path) -> None:
    for scene in (
        "20201230T001523_20201230T001548_T43RCP",
        "20200329T001515_20200329T001540_T43RCP",
        "20200627T001449_20200627T001514_T43RCP",
    ):
        ssl4eo_s12.write_scene(tmp_path / "s2a" / "0000001" / scene, "s2a", 0)
    times = [sample.time for sample in read_all(S12, tmp_path)]
    assert times == sorted(times)


def test_items_ids_groups_and_void_locations(tmp_path: Path) -> None:
    write(S12, tmp_path)
    items = make_reader(S12, tmp_path, void_ids="void_ids.csv").items()
    assert {item.group for item in items} == {"0000200", "0000201"}
    assert items[0].id == "0000200/s1/20200607T010800"
    assert {item.group for item in make_reader(S12, tmp_path).items()} == {
        "0000200",
        "0000201",
        "0000202",
    }
    assert {
        item.id.split("/")[1] for item in make_reader(S12, tmp_path, products=("s2a", "s1")).items()
    } == {"s1", "s2a"}


def test_native_grids_are_samples_of_one_group(tmp_path: Path) -> None:
    write(S12, tmp_path)
    reader = make_reader(S12, tmp_path, resample="native", products=("s2c",))
    samples = [read_item(reader, item) for item in reader.items()]
    rows = {row.id: row for row in reader.sensors}
    assert [sample.pixels.shape for sample in samples[:3]] == [(4, 12, 12), (6, 6, 6), (3, 2, 2)]
    assert [sample.sensor for sample in samples[:3]] == [
        f"sentinel2_l1c_{size}m" for size in (10, 20, 60)
    ]
    assert [band.name for band in rows["sentinel2_l1c_60m"].bands] == ["B1", "B9", "B10"]
    whole = get_sensor("sentinel2_l1c")
    for sample in samples[:3]:
        row = rows[sample.sensor]
        assert sample.group == "0000200"
        for band, mean, plane in zip(row.bands, row.mean, sample.pixels, strict=True):
            np.testing.assert_array_equal(
                plane, tiny_archives.read(tmp_path / FOLDER / f"{band.name}.tif")[0]
            )
            assert mean == whole.mean[whole.bands.index(band)]
    assert rows["sentinel2_l1c_10m"].true_colour == (2, 1, 0)
    assert rows["sentinel2_l1c_20m"].true_colour is None
    assert "sentinel1_grd" in rows


def broken_band(tmp_path: Path, band: str, values: np.ndarray, **grid) -> None:
    write(S12, tmp_path)
    profile = {
        "crs": "EPSG:4326",
        "transform": ssl4eo_s12.transform(ssl4eo_s12.PIXELS.get(band, 2)),
        **grid,
    }
    tiny_archives.write(tmp_path / FOLDER / f"{band}.tif", values, **profile)


@pytest.mark.parametrize(
    ("band", "shape", "dtype", "grid", "words"),
    [
        ("B5", (1, 5, 6), "uint16", {}, ("B5.tif", "5 x 6", "6 x 6")),
        ("B2", (1, 11, 12), "uint16", {}, ("B3.tif", "12 x 12", "11 x 12")),
        ("B5", (1, 6, 6), "int16", {}, ("B5.tif", "int16", "uint16")),
        ("B5", (2, 6, 6), "uint16", {}, ("B5.tif", "2 bands")),
        ("B5", (1, 6, 6), "uint16", {"crs": "EPSG:32643"}, ("B5.tif", "EPSG:32643", "EPSG:4326")),
        (
            "B5",
            (1, 6, 6),
            "uint16",
            {"transform": Affine(2e-4, 0, 73.3, 0, -2e-4, 30.5)},
            ("B5.tif", "transform", "30.5"),
        ),
        ("B5", (1, 6, 6), "uint16", {"transform": Affine.identity()}, ("B5.tif", "transform")),
        ("B5", (1, 6, 6), "uint16", {"nodata": 7}, ("B5.tif", "no-data value is 7")),
    ],
    ids=[
        "size",
        "two sizes of 10 m",
        "dtype",
        "two bands",
        "crs",
        "moved",
        "no transform",
        "nodata",
    ],
)
def test_band_file_that_does_not_fit(
    tmp_path: Path, band: str, shape: tuple, dtype: str, grid: dict, words: tuple[str, ...]
) -> None:
    broken_band(tmp_path, band, np.ones(shape, dtype), **grid)
    reject(S12, tmp_path, *words)


def test_20_m_bands_are_half_of_the_10_m_bands(tmp_path: Path) -> None:
    write(S12, tmp_path)
    for band in ("B2", "B3", "B4", "B8"):
        tiny_archives.write(
            tmp_path / FOLDER / f"{band}.tif",
            np.ones((1, 9, 12), np.uint16),
            crs="EPSG:4326",
            transform=ssl4eo_s12.transform(1),
        )
    reject(S12, tmp_path, "B2.tif", "9 x 12", "a multiple of 2", "B5.tif")


def test_band_missing_or_unknown(tmp_path: Path) -> None:
    write(S12, tmp_path)
    (tmp_path / FOLDER / "B10.tif").rename(tmp_path / FOLDER / "B13.tif")
    reject(S12, tmp_path, FOLDER, "B10", "no file of")
    (tmp_path / FOLDER / "B13.tif").rename(tmp_path / FOLDER / "B10.tif")
    ssl4eo_s12.write_scene(
        tmp_path / "s2a" / "0000200" / ssl4eo_s12.SCENES["s2a"][0], "s2c", 0
    )  # has B10, as no L2A has
    reject(S12, tmp_path, "s2a/0000200", "B10", "not bands of")


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (
            "20200604T054639_20200604T054831_T43RCQ",
            ("s2c/0000200", "20200604T054639", "two folders"),
        ),
        ("20209904T054639_20200604T054831_T43RCQ", ("20209904T054639", "does not exist")),
        ("2020-06-04", ("s2c/0000200/2020-06-04", "not the name of a s2c scene")),
    ],
    ids=["one time twice", "no date", "no name"],
)
def test_scene_names(tmp_path: Path, scene: str, words: tuple[str, ...]) -> None:
    write(S12, tmp_path)
    ssl4eo_s12.write_scene(tmp_path / "s2c" / "0000200" / scene, "s2c", 0)
    reject(S12, tmp_path, *words)


def test_five_dates_are_one_too_many(tmp_path: Path) -> None:
    for month in range(1, 6):
        ssl4eo_s12.write_scene(
            tmp_path / "s2a" / "0000001" / f"20200{month}29T001515_20200329T001540_T43RCP", "s2a", 0
        )
    reject(S12, tmp_path, "s2a/0000001", "5 dates", "at most the 4")


def test_files_in_other_folders_and_empty_folders(tmp_path: Path) -> None:
    reject(S12, tmp_path, "s2c", "no such folder")
    write(S12, tmp_path)
    (tmp_path / "void_ids.csv").write_text("place\n")
    reject(S12, tmp_path, "void_ids.csv", "'place'", void_ids="void_ids.csv")
    (tmp_path / FOLDER / "B2.tif").rename(tmp_path / "s2c" / "B2.tif")
    reject(S12, tmp_path, "s2c/B2.tif", "is not at s2c/")
