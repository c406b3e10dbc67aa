"""Landsat Collection 2 as USGS delivers it: bands, QA_PIXEL and MTL.txt of every sensor, as GDAL
reads the files.
"""

from __future__ import annotations

import datetime
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import landsat_c2 as layout
from layouts import make_reader, read_all, read_item, reject

from data_prep.formats import remarks
from data_prep.reader import SkipSample
from eo_jax.sensors import get_sensor


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layout.write(tmp_path / "scenes")
    return tmp_path / "scenes"


def expected(folder: Path, product: str) -> np.ndarray:
    """The bands as GDAL reads them, without the fill of QA_PIXEL."""
    paths = [folder / product / f"{product}_{band}.TIF" for band in layout.bands(product)]
    cube = np.concatenate([tiny_archives.read(path) for path in paths])
    cube[:, layout.quality()[0] == layout.FILL] = 0
    return cube


# ------------------------------------------------------------------ what is read


def test_every_product_as_gdal_reads_it(root: Path) -> None:
    samples = {sample.id: sample for sample in read_all("landsat-c2", root)}
    assert samples.keys() == layout.ROWS.keys()
    for product, row in layout.ROWS.items():
        sample = samples[product]
        np.testing.assert_array_equal(sample.pixels, expected(root, product))
        assert sample.pixels.dtype == get_sensor(row).dtype
        np.testing.assert_array_equal(sample.masks["qa_pixel"], layout.quality()[0])
        assert (sample.sensor, sample.product, sample.group) == (row, product, product)
        assert (sample.crs, sample.gsd_m) == ("EPSG:32633", 30.0)


def test_the_time_is_the_centre_of_the_scene(root: Path) -> None:
    sample = read_all("landsat-c2", root)[0]
    moment = datetime.datetime(2020, 8, 14, 13, 22, 46, tzinfo=datetime.UTC)
    assert (sample.id, sample.time) == (layout.OLI_L1, int(moment.timestamp()))


def test_level_1_has_what_turns_it_into_reflectance(root: Path) -> None:
    labels = {sample.id: sample.labels for sample in read_all("landsat-c2", root)}
    assert labels[layout.OLI] == {}
    assert labels[layout.OLI_L1].keys() == {"sun_elevation"}
    for product in (layout.TM, layout.ETM):
        assert labels[product]["sun_elevation"] == layout.SUN
        assert labels[product]["reflectance_mult"].tolist() == [0.0015] * 6
        assert labels[product]["reflectance_add"].tolist() == [-0.004] * 6


def test_scale_and_offset_are_those_of_the_level() -> None:
    level_2, level_1 = (get_sensor(layout.ROWS[name]) for name in (layout.OLI, layout.OLI_L1))
    assert 20_000 * level_2.scale + level_2.offset == pytest.approx(0.35)
    reflective = [band.kind == "reflective" for band in level_1.bands]
    assert (20_000 * level_1.scales + level_1.offsets)[reflective] == pytest.approx(0.3)


def test_patches_and_their_limits(root: Path) -> None:
    patches = {one.id: one for one in read_all("landsat-c2", root, patch_size=8)}
    assert len(patches) == 4 * 2 * 3
    one = patches[f"{layout.OLI}/00008_00008"]
    np.testing.assert_array_equal(one.pixels, expected(root, layout.OLI)[:, 8:16, 8:16])
    np.testing.assert_array_equal(one.masks["qa_pixel"], layout.quality()[0, 8:16, 8:16])
    assert one.affine[2] == 366015 + 8 * 30
    clear = read_all("landsat-c2", root, patch_size=8, max_cloud=0.4)
    assert {patch.id.split("/")[1] for patch in clear} == {
        name.split("/")[1] for name in patches
    } - {"00000_00016"}
    full = read_all("landsat-c2", root, patch_size=8, max_nodata=0.0)
    assert {patch.id.split("/")[1] for patch in full} == {
        "00000_00008",
        "00000_00016",
        "00008_00016",
    }


def test_shadow_is_not_cloud_but_dilated_cloud_and_cirrus_are(root: Path) -> None:
    reader = make_reader("landsat-c2", root, patch_size=8, max_cloud=32 / 64)
    items = {item.id.split("/")[1]: item for item in reader.items()}
    read_item(reader, items["00000_00016"])  # exactly half, with one pixel of each kind
    read_item(reader, items["00008_00016"])
    reader = make_reader("landsat-c2", root, patch_size=8, max_cloud=31 / 64)
    with pytest.raises(SkipSample, match="cloud"):
        read_item(reader, items["00000_00016"])


def test_the_tar_as_downloaded_gives_the_same(root: Path, tmp_path: Path) -> None:
    for product in layout.ROWS:
        with tarfile.open(tmp_path / f"{product}.tar", "w") as tar:
            for path in sorted((root / product).iterdir()):
                tar.add(path, path.name)
    (tmp_path / "scenes").rename(tmp_path.parent / f"{tmp_path.name}_away")
    away = tmp_path.parent / f"{tmp_path.name}_away"
    for one, two in zip(
        read_all("landsat-c2", tmp_path), read_all("landsat-c2", away), strict=True
    ):
        assert one.id == two.id
        np.testing.assert_array_equal(one.pixels, two.pixels)


def test_real_pixels_under_the_names_of_collection_2(sample_data: Path, tmp_path: Path) -> None:
    """A crop of a Landsat 8 scene, whose files have names of their own."""
    folder = tmp_path / layout.OLI_L1
    folder.mkdir()
    source, planes = sample_data / "landsat" / "L8_OLI_TIRS_elkton", []
    for band in layout.bands(layout.OLI_L1):
        data = (source / f"L8-{band}-Elkton-VA.tiff").read_bytes()
        (folder / f"{layout.OLI_L1}_{band}.TIF").write_bytes(data)
        planes.append(tiny_archives.read(source / f"L8-{band}-Elkton-VA.tiff")[0])
    with rasterio.open(source / "L8-B1-Elkton-VA.tiff") as file:
        grid = {"crs": file.crs, "transform": file.transform}
    codes = np.full((1, *planes[0].shape), layout.CLEAR, np.uint16)
    tiny_archives.write(folder / f"{layout.OLI_L1}_QA_PIXEL.TIF", codes, **grid)
    (folder / f"{layout.OLI_L1}_MTL.txt").write_text(layout.mtl(layout.OLI_L1))
    (sample,) = read_all("landsat-c2", tmp_path)
    np.testing.assert_array_equal(sample.pixels, planes)


# ------------------------------------------------------------------ statements of MTL.txt


@pytest.mark.parametrize(
    ("product", "changes", "words"),
    [
        (layout.OLI, {"REFLECTANCE_MULT_BAND_3": "1e-4"}, ("MULT_BAND_3 is 1e-4", "2.75e-05")),
        (layout.OLI, {"REFLECTANCE_ADD_BAND_7": "0"}, ("ADD_BAND_7 is 0", "-0.2")),
        (layout.OLI, {"REFLECTANCE_ADD_BAND_7": None}, ("ADD_BAND_7 is absent",)),
        (layout.OLI_L1, {"REFLECTANCE_MULT_BAND_9": "nan"}, ("MULT_BAND_9 is nan",)),
        (layout.OLI_L1, {"SUN_ELEVATION": None}, ("SUN_ELEVATION is absent",)),
        (layout.TM, {"REFLECTANCE_MULT_BAND_7": None}, ("MULT_BAND_7 is absent",)),
        (layout.TM, {"REFLECTANCE_ADD_BAND_1": "x"}, ("ADD_BAND_1 is 'x'",)),
        (layout.ETM, {"LANDSAT_PRODUCT_ID": f'"{layout.TM}"'}, ("LANDSAT_PRODUCT_ID", layout.ETM)),
        (layout.ETM, {"DATE_ACQUIRED": "2003-05-22"}, ("DATE_ACQUIRED", "20030521")),
        (layout.ETM, {"SCENE_CENTER_TIME": '"noon"'}, ("noon", "ISO")),
    ],
)
def test_a_contradiction_in_the_mtl(tmp_path: Path, product: str, changes: dict, words: tuple):
    layout.write_product(tmp_path, product)
    (tmp_path / f"{product}_MTL.txt").write_text(layout.mtl(product, **changes))
    reject("landsat-c2", tmp_path, "_MTL.txt", *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "END"),
        (layout.mtl(layout.OLI)[:-30], "truncated"),
        ("GROUP = A\nnonsense\nEND\n", "'nonsense'"),
        ("\xff\xfe", "END"),
    ],
)
def test_a_damaged_mtl(tmp_path: Path, text: str, words: str) -> None:
    layout.write_product(tmp_path, layout.OLI)
    (tmp_path / f"{layout.OLI}_MTL.txt").write_text(text)
    reject("landsat-c2", tmp_path, "_MTL.txt", words)


def test_an_mtl_that_says_nothing_leaves_the_date_of_the_name_and_is_noted(tmp_path: Path) -> None:
    layout.write_product(tmp_path, layout.OLI)
    (tmp_path / f"{layout.OLI}_MTL.txt").write_text("GROUP = LANDSAT_METADATA_FILE\nEND\n")
    with remarks.collect() as found:
        (sample,) = read_all("landsat-c2", tmp_path)
    moment = datetime.datetime(2022, 8, 14, tzinfo=datetime.UTC)
    assert sample.time == int(moment.timestamp())
    assert any("states no scale" in text for text in found.texts)
    assert any("LC09: row of LC08" in text for text in found.texts)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("part", ["SR_B3.TIF", "QA_PIXEL.TIF", "MTL.txt"])
def test_a_missing_file_is_named(tmp_path: Path, part: str) -> None:
    layout.write_product(tmp_path, layout.OLI)
    (tmp_path / f"{layout.OLI}_{part}").unlink()
    reject("landsat-c2", tmp_path, f"{layout.OLI}_{part.partition('.')[0]}", "no such file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodata": 0}, ("no-data value is 0", "1 of fill")),
        ({"crs": "EPSG:32632"}, ("CRS",)),
        ({"dtype": "uint8"}, ("uint8", "uint16")),
        ({"size": 9}, ("9 x 9",)),
    ],
)
def test_another_quality_band(tmp_path: Path, change: dict, words: tuple[str, ...]) -> None:
    layout.write_product(tmp_path, layout.OLI)
    codes = layout.quality() % 251 if "dtype" in change else layout.quality()
    codes = codes.astype(change.pop("dtype", "uint16"))
    size = change.pop("size", None)
    codes = codes[:, :size, :size] if size else codes
    tiny_archives.write(tmp_path / f"{layout.OLI}_QA_PIXEL.TIF", codes, **change)
    reject("landsat-c2", tmp_path, "_QA_PIXEL.TIF", *words)


@pytest.mark.parametrize("name", ["LM05_L1TP_016028_19880521_20200904_02_T2_B1.TIF", "other.tif"])
def test_another_product_is_refused(tmp_path: Path, name: str) -> None:
    layout.write_product(tmp_path, layout.OLI)
    tiny_archives.write(tmp_path / name, np.ones((1, 4, 4), np.uint8))
    reject("landsat-c2", tmp_path, name, "not a file of a Landsat Collection 2 product")


def test_nothing_to_read(tmp_path: Path) -> None:
    reject("landsat-c2", tmp_path, "no Landsat Collection 2 product")
