"""Sentinel-2 products as Copernicus delivers them: JPEG 2000 as GDAL reads it, the row by the
offset in the metadata, no-data by the special values and the scene classification.
"""

from __future__ import annotations

import datetime
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from layouts import make_reader, read_all, read_item, reject
from layouts import sentinel2_safe as layout

from data_prep.formats import resample
from data_prep.reader import Files, SkipSample, with_sidecars
from data_prep.readers.sentinel2_safe import Reader

BOMB = '<!DOCTYPE b [<!ENTITY a "x">]><b>&a;</b>'


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("products")
    layout.write(root)
    return root


@pytest.fixture
def l2a(tmp_path: Path) -> Path:
    """The folder of one L2A product, to be changed."""
    return layout.write_product(tmp_path, layout.L2A)


def jp2(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def expected(root: Path, product: str, method: str) -> np.ndarray:
    """All bands [c, h, w] on the 10 m grid, by GDAL and the published rules."""
    planes = []
    for band, metres in layout.bands(product).items():
        plane = jp2(layout.path_of(root / f"{product}.SAFE", product, band, metres))
        plane = np.where(plane == layout.SATURATED, 0, plane).astype(np.uint16)
        factor = metres // 10
        fine = (
            resample.nearest(plane, factor)
            if method == "nearest"
            else resample.bilinear(plane, factor, 0)
        )
        planes.append(fine)
    cube = np.stack(planes)
    if "L2A" in product:
        cube[:, resample.nearest(np.isin(layout.classes(20), (0, 1)), 2)] = 0
    return cube


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_every_product_on_the_10_m_grid(products: Path, method: str) -> None:
    samples = {
        sample.id: sample for sample in read_all("sentinel2-safe", products, resample=method)
    }
    assert samples.keys() == layout.ROWS.keys()
    for product, row in layout.ROWS.items():
        sample = samples[product]
        np.testing.assert_array_equal(sample.pixels, expected(products, product, method))
        assert (sample.sensor, sample.crs, sample.gsd_m) == (row, "EPSG:32633", 10.0)


def test_date_baseline_location_wavelengths_and_classes(products: Path) -> None:
    l1c, new, old = (
        next(one for one in read_all("sentinel2-safe", products) if one.id == product)
        for product in (layout.L1C, layout.L2A, layout.OLD)
    )
    moment = datetime.datetime(2022, 6, 6, 8, 56, 11, tzinfo=datetime.UTC)
    assert new.time == int(moment.timestamp())
    assert (l1c.group, new.group, old.group) == ("T33NZA", "T33NZA", "T33NZB")
    assert (new.product, old.product) == ("05.09", "02.14")
    assert new.wavelengths_nm[2] == 560.0 and len(l1c.wavelengths_nm) == 13
    assert l1c.masks == {}
    np.testing.assert_array_equal(new.masks["scl"], resample.nearest(layout.classes(20), 2))


@pytest.mark.parametrize("metres", [10, 20, 60])
def test_bands_of_one_resolution(products: Path, metres: int) -> None:
    samples = read_all("sentinel2-safe", products, resolution=metres)
    for product, sample in zip(sorted(layout.ROWS), samples, strict=True):
        assert (sample.sensor, sample.gsd_m) == (f"{layout.ROWS[product]}_{metres}m", metres)
        kept = [band for band, size in layout.bands(product).items() if size == metres]
        cube = np.stack(
            [
                jp2(layout.path_of(products / f"{product}.SAFE", product, band, metres))
                for band in kept
            ]
        )
        cube[cube == layout.SATURATED] = 0
        if "L2A" in product:
            scl = layout.classes(60 if metres == 60 else 20)
            scl = resample.nearest(scl, 2) if metres == 10 else scl
            cube[:, np.isin(scl, (0, 1))] = 0
            np.testing.assert_array_equal(sample.masks["scl"], scl)
        np.testing.assert_array_equal(sample.pixels, cube)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_a_patch_is_a_part_of_the_whole_tile(products: Path, method: str) -> None:
    """Patches of 16 pixels do not begin at pixels of 60 m."""
    whole = {one.id: one for one in read_all("sentinel2-safe", products, resample=method)}
    patches = read_all("sentinel2-safe", products, resample=method, patch_size=16)
    assert len(patches) == 3 * 2 * 3
    for patch in patches:
        product, _, corner = patch.id.partition("/")
        row, column = map(int, corner.split("_"))
        part = np.s_[..., row : row + 16, column : column + 16]
        np.testing.assert_array_equal(patch.pixels, whole[product].pixels[part])
        assert patch.group == f"{whole[product].group}/{corner}"
        assert patch.affine[2] == 399960 + 10 * column
        for name, mask in patch.masks.items():
            np.testing.assert_array_equal(mask, whole[product].masks[name][part])


# Corners of patches of 12 pixels in which the tiny archive has nothing special.
UNEVENTFUL = [(row, column) for row in (0, 12, 24) for column in (0, 12)][1:]


def test_limits_on_cloud_and_no_data(products: Path) -> None:
    reader = make_reader("sentinel2-safe", products / f"{layout.L2A}.SAFE", patch_size=12)
    items = {
        item.id.rpartition("/")[2]: item for item in reader.items() if item.part not in UNEVENTFUL
    }

    def skipped(**options: float) -> set[str]:
        limited = Reader(reader.archive, patch_size=12, **options)
        found = set()
        for corner, item in items.items():
            try:
                read_item(limited, item)
            except SkipSample:
                found.add(corner)
        return found

    assert skipped(max_cloud=0.5) == {"00000_00024", "00000_00036"}
    assert skipped(max_cloud=0.4) == {
        f"{row:05}_{column:05}" for row in (0, 12) for column in (24, 36)
    }
    assert skipped(max_nodata=0.0) == {"00000_00000", "00024_00036"}


def test_cloud_limits_need_a_scene_classification(products: Path) -> None:
    reject("sentinel2-safe", products, layout.L1C, "--max-cloud 0.2", "L1C", max_cloud=0.2)


def test_zips_and_the_folder_itself_give_the_same(products: Path, tmp_path: Path) -> None:
    folder = products / f"{layout.L2A}.SAFE"
    with zipfile.ZipFile(tmp_path / f"{layout.L2A}.zip", "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(products))
    (one,) = read_all("sentinel2-safe", folder)
    for source in (tmp_path, tmp_path / f"{layout.L2A}.zip"):
        (two,) = read_all("sentinel2-safe", source)
        assert (one.id, one.group) == (two.id, two.group)
        np.testing.assert_array_equal(one.pixels, two.pixels)


# ------------------------------------------------------------------ statements


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"OFFSET": ""}, ("PROCESSING_BASELINE is 05.09", "offset of 0")),
        ({"PROCESSING_BASELINE": "03.01"}, ("PROCESSING_BASELINE is 03.01", "-1000")),
        ({"PROCESSING_BASELINE": "new"}, ("'new'", "05.09")),
        ({"OFFSET": "-1000 0"}, ("BOA_ADD_OFFSET", "-1000, 0")),
        ({"OFFSET": "-500"}, ("BOA_ADD_OFFSET", "-500")),
        ({"QUANTIFICATION": "1000"}, ("BOA_QUANTIFICATION_VALUE is '1000'", "'10000'")),
        ({"NODATA": "7"}, ("Special_Values are NODATA 7",)),
        ({"SATURATED": "x"}, ("SPECIAL_VALUE_INDEX is 'x'",)),
        ({"PROCESSING_LEVEL": "Level-1C"}, ("PROCESSING_LEVEL", "'Level-2A'")),
        ({"PRODUCT_URI": f"{layout.OLD}.SAFE"}, ("PRODUCT_URI", layout.OLD)),
        ({"PRODUCT_START_TIME": "noon"}, ("PRODUCT_START_TIME", "noon")),
        ({"CENTRAL_B3": "665"}, ("wavelengths", "band 3 has 665 nm")),
    ],
)
def test_a_contradiction_in_the_metadata(l2a: Path, changes: dict, words: tuple[str, ...]) -> None:
    (l2a / "MTD_MSIL2A.xml").write_text(layout.metadata(layout.L2A, **changes))
    reject("sentinel2-safe", l2a, "MTD_MSIL2A.xml", *words)


def test_an_offset_in_a_product_of_a_baseline_without_is_refused_by_its_name(tmp_path: Path):
    """Sen2Cor outside ESA writes baseline 99.99, which says nothing: the name may."""
    product = layout.write_product(tmp_path, layout.OLD)
    text = layout.metadata(layout.OLD, PROCESSING_BASELINE="99.99", OFFSET="-1000")
    (product / "MTD_MSIL2A.xml").write_text(text)
    reject("sentinel2-safe", tmp_path, "N0214", "baseline 02.14")


@pytest.mark.parametrize("text", ["", "<x/>", "<x", BOMB])
def test_damaged_metadata(l2a: Path, text: str) -> None:
    (l2a / "MTD_MSIL2A.xml").write_text(text)
    reject("sentinel2-safe", l2a, "MTD_MSIL2A.xml")


def test_without_special_values_nothing_is_saturated(l2a: Path) -> None:
    (l2a / "MTD_MSIL2A.xml").write_text(layout.metadata(layout.L2A, NODATA="", SATURATED=""))
    (sample,) = read_all("sentinel2-safe", l2a)
    assert (sample.pixels == layout.SATURATED).any()


def _aux(path: Path, text: str) -> None:
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")


BAND = '<PAMRasterBand band="1">{}</PAMRasterBand>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BAND.format("<NoDataValue>7</NoDataValue>"), "no-data value is 7"),
        (BAND.format("<Scale>0.5</Scale>"), "scale of band 1 is 0.5"),
        (BAND.format("<Description>B12</Description>"), "'B12'"),
        ("<PAMRaster", "cannot be read as XML"),
    ],
)
def test_what_is_said_beside_a_band_file(l2a: Path, text: str, words: str) -> None:
    path = layout.path_of(l2a, layout.L2A, "B3", 10)
    _aux(path, text)
    reader = make_reader("sentinel2-safe", l2a)
    (item,) = with_sidecars(reader.archive, reader.items())
    with pytest.raises(ValueError, match=words) as caught:
        reader.read(item, Files(reader.archive, item))
    assert path.name in str(caught.value)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(("band", "metres"), [("B12", 20), ("B2", 10), ("SCL", 20)])
@pytest.mark.parametrize("size", [0, 12])
def test_a_missing_band_is_named(l2a: Path, band: str, metres: int, size: int) -> None:
    layout.path_of(l2a, layout.L2A, band, metres).unlink()
    name = band if band == "SCL" else f"B{band[1:]:0>2}"
    reject("sentinel2-safe", l2a.parent, l2a.name, f"no file of {name} ", patch_size=size)


def test_missing_metadata(l2a: Path) -> None:
    (l2a / "MTD_MSIL2A.xml").unlink()
    reject("sentinel2-safe", l2a.parent, "MTD_MSIL2A.xml", "no such file")


def test_a_product_without_images(l2a: Path) -> None:
    shutil.rmtree(l2a / "GRANULE")
    reject("sentinel2-safe", l2a.parent, l2a.name, "no file of B01, B02", patch_size=12)


def test_a_renamed_folder(l2a: Path) -> None:
    l2a.rename(l2a.with_name("product.SAFE"))
    reject("sentinel2-safe", l2a.parent, "product.SAFE", "expected the name of a Sentinel-2")


def test_a_band_of_another_grid(l2a: Path) -> None:
    path = layout.path_of(l2a, layout.L2A, "B11", 20)
    layout.write_jp2(path, layout.plane(layout.L2A, "B11", 20), 10)
    reject("sentinel2-safe", l2a, path.name, "transform")


def test_another_format_with_the_name_of_a_jp2(l2a: Path) -> None:
    path = layout.path_of(l2a, layout.L2A, "B11", 20)
    path.write_text("<VRTDataset rasterXSize='24' rasterYSize='18'></VRTDataset>")
    reject("sentinel2-safe", l2a, path.name, "not JPEG 2000")


def test_nothing_to_read(tmp_path: Path) -> None:
    reject("sentinel2-safe", tmp_path, "no Sentinel-2 product")
