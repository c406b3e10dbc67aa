"""`geotiff --band-regex`: which file is which band of which image comes from names, and coarser
bands are resampled only when asked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from layouts import geotiff_bands as layout
from layouts import make_reader, read_all, read_item, reject, write

from data_prep.formats import resample
from data_prep.reader import SkipSample
from eo_jax.sensors import get_sensor

S2 = r"^(?P<item>s2c/\d+/[^/]+)/(?P<band>B\w+)\.tif$"
WHOLE = {**layout.OPTIONS, "patch_size": 0}


def s2_folder(root: Path, bands: int = 12, size: int = 6) -> Path:
    """One L2A image with a file per band, all on one grid."""
    for index, band in enumerate(get_sensor("sentinel2_l2a").bands[:bands]):
        plane = np.full((1, size, size), 100 * index + 1, np.uint16)
        tiny_archives.write(root / f"B{band.name[1:]:0>2}.tif", plane)
    return root


L2A = {"sensor": "sentinel2_l2a", "band_regex": r"^(?P<item>.+)/(?P<band>B\w+)\.tif$"}


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_real_ssl4eo_s12_as_its_own_reader_reads_it(sample_data: Path, method: str) -> None:
    root = sample_data / "sentinel" / "SSL4EO-S12_real"
    options = {"sensor": "sentinel2_l1c", "pattern": "s2c/*", "resample": method}
    found = read_all("geotiff", root, band_regex=S2, group_regex=r"/(?P<group>\d{7})/", **options)
    expected = read_all("ssl4eo-s12", root, products=("s2c",), resample=method)
    assert len(found) == len(expected) == 2
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert (one.group, one.crs, one.affine) == (two.group, two.crs, two.affine)


def test_real_landsat_crop_as_gdal_reads_it(sample_data: Path) -> None:
    """B8 has a grid of its own, and B10 comes after B9, not after B1."""
    root = sample_data / "landsat" / "L8_OLI_TIRS_elkton"
    options = {"sensor": "landsat8_oli_tirs_l1_c2", "pattern": "L8-B[0-79]*"}
    regex = r"^L8-(?P<band>B\d+)-(?P<item>.+)\.tiff$"
    (sample,) = read_all("geotiff", root, band_regex=regex, **options)
    numbers = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11)
    planes = [tiny_archives.read(root / f"L8-B{number}-Elkton-VA.tiff")[0] for number in numbers]
    np.testing.assert_array_equal(sample.pixels, planes)
    assert (sample.id, sample.crs) == ("Elkton-VA", "EPSG:32617")


def test_bands_are_in_the_order_of_the_table_whatever_their_spelling(tmp_path: Path) -> None:
    s2_folder(tmp_path / "a")
    (sample,) = read_all("geotiff", tmp_path, **L2A)
    assert sample.pixels[:, 0, 0].tolist() == [100 * index + 1 for index in range(12)]
    assert (sample.id, sample.group, sample.sensor) == ("a", "a", "sentinel2_l2a")


def test_images_with_more_no_data_than_allowed_are_left_out(tmp_path: Path) -> None:
    """A quarter of the pixels lacks one band alone."""
    row, images = tmp_path / "row.json", tmp_path / "images"
    row.write_text(json.dumps(get_sensor("sentinel2_l2a").row() | {"id": "own", "nodata": 0}))
    options = {**L2A, "sensor": str(row)}
    for name in ("a", "b"):
        s2_folder(images / name)
    plane = np.full((1, 6, 6), 301, np.uint16)
    plane[0, :3, :3] = 0
    tiny_archives.write(images / "b" / "B04.tif", plane)
    for limit, kept in ((0.24, ["a"]), (0.25, ["a", "b"])):
        found = read_all("geotiff", images, **options, max_nodata=limit)
        assert [sample.id for sample in found] == kept
    reject("geotiff", images, "--max-nodata", "1.5", **options, max_nodata=1.5)


def test_some_bands_are_kept_of_images_with_more(tmp_path: Path) -> None:
    s2_folder(tmp_path / "a")
    (tmp_path / "a" / "B01.tif").write_bytes(b"damaged, but not among the bands that are read")
    (sample,) = read_all("geotiff", tmp_path, **L2A, bands=("B8", "B4"))
    assert sample.pixels[:, 0, 0].tolist() == [301, 701]  # in the order of the table


def test_images_labels_and_splits_of_the_tiny_archive(tmp_path: Path) -> None:
    write("geotiff-bands", tmp_path)
    items = make_reader("geotiff", tmp_path, **WHOLE).items()
    assert {item.id: item.split for item in items} == layout.IMAGES
    for seed, sample in enumerate(read_all("geotiff", tmp_path, **WHOLE)):
        for index, band in enumerate(layout.BANDS[:3]):
            np.testing.assert_array_equal(sample.pixels[index], layout.plane(seed, band)[0])
        near_infrared = resample.bilinear(layout.plane(seed, "NIR")[0], 2, layout.NODATA)
        np.testing.assert_array_equal(sample.pixels[3], near_infrared)
        assert sample.affine == tuple(layout.transform(seed))[:6]
        assert sample.labels["labels"].shape == (layout.HEIGHT, layout.WIDTH)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [3, 5, 12])
def test_a_patch_is_a_part_of_the_whole_image(tmp_path: Path, method: str, size: int) -> None:
    write("geotiff-bands", tmp_path)
    options = {**WHOLE, "resample": method}
    wholes = {sample.id: sample for sample in read_all("geotiff", tmp_path, **options)}
    patches = read_all("geotiff", tmp_path, **{**options, "patch_size": size})
    assert len(patches) == 3 * (layout.HEIGHT // size) * (layout.WIDTH // size)
    for patch in patches:
        image, _, corner = patch.id.rpartition("/")
        row, column = map(int, corner.split("_"))
        part = np.s_[..., row : row + size, column : column + size]
        np.testing.assert_array_equal(patch.pixels, wholes[image].pixels[part])
        np.testing.assert_array_equal(patch.labels["labels"], wholes[image].labels["labels"][part])


@pytest.mark.parametrize("nodata", [None, -9999.0])
def test_bilinear_of_floats_keeps_fractions_and_spreads_no_data(nodata: float | None) -> None:
    band = np.array([[0.5, 1.0, 1.5, 2.0]], np.float32)
    np.testing.assert_allclose(
        resample.bilinear(band, 2, nodata)[0], [0.5, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875, 2]
    )
    band[0, 3] = np.nan if nodata is None else nodata
    fine = resample.bilinear(band, 2, nodata)[0]
    gone = np.isnan(fine) if nodata is None else fine == nodata
    assert gone.tolist() == [False] * 5 + [True] * 3
    np.testing.assert_allclose(fine[:5], [0.5, 0.625, 0.875, 1.125, 1.375])


# ------------------------------------------------------------------ what is left out or refused


def test_an_image_that_lacks_a_band_is_left_out_by_name(tmp_path: Path) -> None:
    s2_folder(tmp_path / "whole")
    s2_folder(tmp_path / "part", bands=10)
    reader = make_reader("geotiff", tmp_path, **L2A)
    part, whole = reader.items()
    with pytest.raises(SkipSample, match="no file of B11, B12"):
        read_item(reader, part)
    assert read_item(reader, whole).id == "whole"


def test_grids_of_two_sizes_are_refused_unless_asked_for(tmp_path: Path) -> None:
    write("geotiff-bands", tmp_path)
    reject("geotiff", tmp_path, "NIR.tif", "6 x 8", "--resample", **{**WHOLE, "resample": "none"})


def test_sizes_that_are_not_whole_multiples(tmp_path: Path) -> None:
    write("geotiff-bands", tmp_path)
    path = tmp_path / "images/north/20240501_NIR.tif"
    tiny_archives.write(path, np.ones((1, 5, 7), np.uint16), nodata=layout.NODATA)
    reject("geotiff", tmp_path, "20240501_NIR.tif", "5 x 7", "12 x 16", "whole multiple", **WHOLE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transform": layout.transform(0, 1)}, ("transform", "does not match")),
        ({"crs": "EPSG:32632"}, ("CRS", "EPSG:32633")),
        ({"dtype": "int16"}, ("int16", "uint16")),
        ({"nodata": 7}, ("no-data value is 7",)),
    ],
    ids=["shifted", "crs", "dtype", "nodata"],
)
def test_a_band_file_that_does_not_belong_there(tmp_path: Path, change: dict, words: tuple) -> None:
    write("geotiff-bands", tmp_path)
    profile = {"nodata": layout.NODATA, "transform": layout.transform(0, 2), **change}
    plane = np.ones((1, 6, 8), profile.pop("dtype", "uint16"))
    if plane.dtype == np.int16:
        profile["nodata"] = None
    tiny_archives.write(tmp_path / "images/north/20240501_NIR.tif", plane, **profile)
    reject("geotiff", tmp_path, "20240501_NIR.tif", *words, **WHOLE)


def test_two_files_of_one_band(tmp_path: Path) -> None:
    s2_folder(tmp_path / "a")
    tiny_archives.write(tmp_path / "a" / "B2.tif", np.ones((1, 6, 6), np.uint16))
    reject("geotiff", tmp_path, "a/B2.tif", "a/B02.tif", "(?P<item>...)", **L2A)


def test_a_band_that_the_table_does_not_have(tmp_path: Path) -> None:
    s2_folder(tmp_path / "a")
    tiny_archives.write(tmp_path / "a" / "B10.tif", np.ones((1, 6, 6), np.uint16))
    reject("geotiff", tmp_path, "a/B10.tif", "'B10'", "--pattern", **L2A)


def test_a_name_that_the_regex_does_not_match(tmp_path: Path) -> None:
    s2_folder(tmp_path / "a")
    tiny_archives.write(tmp_path / "a" / "cloud_mask.tif", np.ones((1, 6, 6), np.uint8))
    reject("geotiff", tmp_path, "cloud_mask.tif", "--band-regex", "--pattern", **L2A)
    assert len(read_all("geotiff", tmp_path, pattern="*/B*.tif", **L2A)) == 1


def test_the_processing_baseline_in_a_path_decides_about_the_offset(tmp_path: Path) -> None:
    product = "S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419"
    s2_folder(tmp_path / product)
    reject("geotiff", tmp_path, "04.00", "sentinel2_l2a_offset_uint16", **L2A)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"band_regex": r"(?P<item>.+)/B\d"}, "no group named 'band'"),
        ({"band_regex": r"(?P<band>B\d)"}, "no group named 'item'"),
        ({"band_regex": r"(?P<band>B\d"}, "not a valid regular expression"),
        ({"resample": "nearest"}, "give --band-regex"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict, words: str) -> None:
    s2_folder(tmp_path / "a")
    with pytest.raises(ValueError, match=re.escape(words)):
        read_all("geotiff", tmp_path, sensor="sentinel2_l2a", **options)
