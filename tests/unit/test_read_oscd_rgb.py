"""OSCD, GeoNRW and SUN RGB-D: tiles shared by two dates or two sensors, in formats from GeoTIFF to
JPEG.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from layouts import geonrw, make_reader, oscd, read_all, reject, sunrgbd, write
from PIL import Image

from data_prep.archive import ArchiveError
from data_prep.formats.pictures import read_picture
from data_prep.reader import Item
from eo_jax.sensors import get_sensor
from tests import tiny_archives

IMAGES = f"{oscd.TITLE}Images"


def items_of(name: str, root: Path, **options) -> list[Item]:
    return make_reader(name, root, **options).items()


def window(array: np.ndarray, item: Item, size: int) -> np.ndarray:
    """The part [..., size, size] of a scene that belongs to an item."""
    row, column = item.part
    return array[..., row : row + size, column : column + size]


# ------------------------------------------------------------------ OSCD


def test_oscd_tiles_of_all_bands_and_dates(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    samples = read_all("oscd", tmp_path, **options)
    for item, sample in zip(items_of("oscd", tmp_path, **options), samples, strict=True):
        city, date, _ = sample.id.split("/")
        folder = tmp_path / IMAGES / city / f"imgs_{date}_rect"
        expected = np.concatenate(
            [tiny_archives.read(folder / f"{band}.tif") for band in oscd.NAMES]
        )
        np.testing.assert_array_equal(sample.pixels, window(expected, item, 16))
        assert (sample.sensor, sample.pixels.dtype) == ("sentinel2_l1c", np.uint16)


def test_oscd_b8a_comes_after_b8_as_in_the_sensor_table(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    bands = [band.name for band in get_sensor("sentinel2_l1c").bands]
    assert bands.index("B8A") == 8
    means = read_all("oscd", tmp_path, **options)[0].pixels.mean((1, 2))
    np.testing.assert_allclose(means, 10_025 + 100 * np.arange(13), atol=10)  # NAMES[8] is B8A


def test_oscd_two_dates_share_a_group_and_the_map_of_changes(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    groups: dict[str, list] = {}
    for item, sample in zip(
        items_of("oscd", tmp_path, **options), read_all("oscd", tmp_path, **options), strict=True
    ):
        groups.setdefault(sample.group, []).append((item, sample))
    for pairs in groups.values():
        (item, before), (_, after) = pairs
        city = before.group.split("/")[0]
        (label,) = tmp_path.glob(f"* Labels/{city}/cm/{city}-cm.tif")
        expected = window(tiny_archives.read(label)[0], item, 16)
        assert set(np.unique(expected)) == {1, 2}
        np.testing.assert_array_equal(before.labels["change"], expected)
        np.testing.assert_array_equal(after.labels["change"], expected)
        assert (before.time, after.time) == (
            1457308800,
            1517961600,
        )  # 2016-03-07 and 2018-02-07, 00:00 UTC
        assert (before.affine, before.lonlat) == (after.affine, after.lonlat)


def test_oscd_only_full_tiles(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    found = {
        item.group for item in items_of("oscd", tmp_path, **options)
    }  # beirut has 35 x 40 pixels, paris 16 x 33, rio 20 x 16
    assert found == {
        *(f"beirut/{row}_{column}" for row in ("00000", "00016") for column in ("00000", "00016")),
        *("paris/00000_00000", "paris/00000_00016", "rio/00000_00000"),
    }


def test_oscd_tile_has_its_georeference(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    sample = next(
        sample
        for sample in read_all("oscd", tmp_path, **options)
        if sample.group == "beirut/00016_00000"
    )
    assert sample.affine == (30.0, 0.0, 366015.0, 0.0, -30.0, 5809965.0 - 16 * 30)


def test_oscd_splits_are_those_of_the_lists(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    splits = {
        item.group.split("/")[0]: item.split for item in items_of("oscd", tmp_path, **options)
    }
    assert splits == {"beirut": "train", "paris": "train", "rio": "test"}


def test_oscd_folder_names_of_another_copy(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    expected = [item.id for item in items_of("oscd", tmp_path, **options)]
    for ending in ("Images", "Train Labels", "Test Labels"):
        (tmp_path / f"{oscd.TITLE}{ending}").rename(
            tmp_path / f"onera_dataset__{ending.lower().replace(' ', '_')}"
        )
    assert [item.id for item in items_of("oscd", tmp_path, **options)] == expected


def test_oscd_out_of_its_three_zip_files(tmp_path: Path) -> None:
    options = write("oscd", tmp_path / "a")
    expected = read_all("oscd", tmp_path / "a", **options)
    for ending in ("Images", "Train Labels", "Test Labels"):
        shutil.make_archive(
            str(tmp_path / "b" / f"{oscd.TITLE}{ending}"),
            "zip",
            tmp_path / "a",
            f"{oscd.TITLE}{ending}",
        )
    for found, sample in zip(read_all("oscd", tmp_path / "b", **options), expected, strict=True):
        np.testing.assert_array_equal(found.pixels, sample.pixels)


@pytest.mark.parametrize("band", ["B01", "B8A", "B12"])
def test_oscd_band_missing_unknown_or_of_another_size(tmp_path: Path, band: str) -> None:
    options = write("oscd", tmp_path)
    path = tmp_path / IMAGES / "paris" / "imgs_2_rect" / f"{band}.tif"
    shutil.copy(path, path.with_name("A.tif"))
    reject("oscd", tmp_path, "paris/imgs_2_rect/A.tif", "is not a band", **options)
    path.with_name("A.tif").unlink()
    tiny_archives.write(path, np.ones((1, 8, 33), np.uint16))
    reject("oscd", tmp_path, "8 x 33", "16 x 33", **options)
    path.unlink()
    reject("oscd", tmp_path, f"paris/imgs_2_rect/{band}.tif", "no such file", **options)


def test_oscd_second_date_of_another_size(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    for band in oscd.NAMES:
        tiny_archives.write(
            tmp_path / IMAGES / "paris" / "imgs_2_rect" / f"{band}.tif",
            np.ones((1, 15, 33), np.uint16),
        )
    reject("oscd", tmp_path, "paris-cm.tif", "15 x 33", **options)


def test_oscd_wrong_dtype(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    tiny_archives.write(
        tmp_path / IMAGES / "rio" / "imgs_1_rect" / "B05.tif", np.ones((1, 20, 16), np.uint8)
    )
    reject("oscd", tmp_path, "rio/imgs_1_rect/B05.tif", "uint8", "uint16", **options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "date_1: 20160307\n",
        "date_1: 20160307\ndate_2: 20181301\n",
        "date_1: 2016\ndate_2: 20180207\n",
    ],
)
def test_oscd_invalid_dates(tmp_path: Path, text: str) -> None:
    options = write("oscd", tmp_path)
    (tmp_path / IMAGES / "beirut" / "dates.txt").write_text(text)
    reject("oscd", tmp_path, "beirut/dates.txt", "such as date_", **options)


def test_oscd_city_without_labels_or_images(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    shutil.rmtree(tmp_path / f"{oscd.TITLE}Train Labels" / "paris")
    reject("oscd", tmp_path, "paris", "no labels", **options)
    shutil.rmtree(tmp_path / f"{oscd.TITLE}Train Labels")
    reject("oscd", tmp_path, "Train Labels", "0 folders", **options)


def test_oscd_list_against_label_folder(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    (tmp_path / IMAGES / "train.txt").write_text("beirut,rio")
    reject("oscd", tmp_path, "train.txt", "differ in 'paris'", **options)


def test_oscd_city_in_both_label_folders(tmp_path: Path) -> None:
    options = write("oscd", tmp_path)
    for split in oscd.CITIES:
        (tmp_path / IMAGES / f"{split}.txt").unlink()
    shutil.copytree(
        tmp_path / f"{oscd.TITLE}Train Labels" / "paris",
        tmp_path / f"{oscd.TITLE}Test Labels" / "paris",
    )
    reject("oscd", tmp_path, "paris", "both", **options)


@pytest.mark.parametrize("name", ["oscd", "geonrw"])
@pytest.mark.parametrize(
    ("size", "words"),
    [(0, ("--patch-size", "1 or more")), (64, ("too few for a tile of 64 x 64",))],
)
def test_invalid_tiles(tmp_path: Path, name: str, size: int, words: tuple[str, ...]) -> None:
    write(name, tmp_path)
    reject(name, tmp_path, *words, patch_size=size)


# ------------------------------------------------------------------ GeoNRW


def test_geonrw_photographs_elevation_and_map(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    samples = read_all("geonrw", tmp_path, **options)
    for item, sample in zip(items_of("geonrw", tmp_path, **options), samples, strict=True):
        city, tile, kind, _ = sample.id.split("/")
        ending = "jp2" if kind == "rgb" and f"{city}/{tile}" != geonrw.AS_TIFF else "tif"
        expected = tiny_archives.read(tmp_path / f"{city}/{tile}_{kind}.{ending}")
        np.testing.assert_array_equal(sample.pixels, window(expected, item, 16))
        np.testing.assert_array_equal(
            sample.labels["landcover"],
            window(tiny_archives.read(tmp_path / f"{city}/{tile}_seg.tif")[0], item, 16),
        )
        assert (sample.sensor, sample.pixels.dtype) == {
            "rgb": ("geonrw_rgb", np.uint8),
            "dem": ("geonrw_dem", np.float32),
        }[kind]


def test_geonrw_pairs_share_a_group_and_a_georeference(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    groups: dict[str, dict] = {}
    for sample in read_all("geonrw", tmp_path, **options):
        groups.setdefault(sample.group, {})[sample.sensor] = sample
    assert len(groups) == 3 * 4
    for pair in groups.values():
        assert set(pair) == {"geonrw_rgb", "geonrw_dem"}
        assert pair["geonrw_rgb"].affine == pair["geonrw_dem"].affine
    sample = groups["aachen/287_5623/00016_00000"]["geonrw_rgb"]
    assert (sample.crs, sample.gsd_m, sample.affine) == (
        "EPSG:25832",
        1.0,
        (1.0, 0.0, 287000.0, 0.0, -1.0, 5624000.0 - 16),
    )


def test_geonrw_channels_are_red_green_blue(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    sample = next(
        sample
        for sample in read_all("geonrw", tmp_path, **options)
        if sample.sensor == "geonrw_rgb"
    )
    np.testing.assert_allclose(sample.pixels.mean((1, 2)), [30, 110, 190], atol=8)


@pytest.mark.parametrize("ending", ["dem.tif", "seg.tif", "rgb.jp2"])
def test_geonrw_file_missing(tmp_path: Path, ending: str) -> None:
    options = write("geonrw", tmp_path)
    (tmp_path / f"herne/371_5710_{ending}").unlink()
    reject("geonrw", tmp_path, f"herne/371_5710_{ending[:3]}", "no such file", **options)


@pytest.mark.parametrize("kind", ["dem", "rgb"])
def test_geonrw_grids_must_agree(tmp_path: Path, kind: str) -> None:
    options = write("geonrw", tmp_path)
    path = next(tmp_path.glob(f"aachen/288_5623_{kind}.*"))
    cube = tiny_archives.read(path)
    tiny_archives.write(path, cube[:, :31], **geonrw.GRID)
    reject("geonrw", tmp_path, "288_5623_seg.tif", f"288_5623_{kind}.tif", "31 x 32", **options)
    tiny_archives.write(
        path, cube, crs=geonrw.GRID["crs"], transform=rasterio.Affine(1, 0, 287001, 0, -1, 5624000)
    )
    reject("geonrw", tmp_path, "288_5623_seg.tif", "transform", "287001", **options)


def test_geonrw_wrong_bands_and_dtypes(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    tiny_archives.write(
        tmp_path / "aachen/288_5623_rgb.tif", np.zeros((4, 32, 32), np.uint8), **geonrw.GRID
    )
    # The fourth band of an RGB picture is alpha: here, transparent everywhere.
    reject("geonrw", tmp_path, "288_5623_rgb.tif", "mask excludes 100.0%", **options)
    tiny_archives.write(
        tmp_path / "aachen/287_5623_dem.tif", np.zeros((1, 33, 40), np.float64), **geonrw.GRID
    )
    reject("geonrw", tmp_path, "287_5623_dem.tif", "float64", "float32", **options)


def test_geonrw_invalid_or_duplicate_names(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    shutil.copy(
        tmp_path / "aachen/287_5623_dem.tif", tmp_path / "aachen/287_5623_sar.tif"
    )  # which is ignored
    assert len(items_of("geonrw", tmp_path, **options)) == 24
    shutil.copy(tmp_path / "aachen/288_5623_rgb.tif", tmp_path / "aachen/287_5623_rgb.tif")
    reject("geonrw", tmp_path, "aachen/287_5623_rgb.tif", "aachen/287_5623_rgb.jp2", **options)
    (tmp_path / "aachen/287_5623_rgb.tif").rename(tmp_path / "aachen/mosaic.tif")
    reject("geonrw", tmp_path, "aachen/mosaic.tif", "is not a file of GeoNRW", **options)
    shutil.rmtree(tmp_path / "aachen")
    shutil.rmtree(tmp_path / "herne")
    reject("geonrw", tmp_path, "no GeoNRW", **options)


def test_geonrw_jpeg2000_that_is_damaged_or_something_else(tmp_path: Path) -> None:
    options = write("geonrw", tmp_path)
    path = tmp_path / "herne/371_5710_rgb.jp2"
    data = path.read_bytes()
    for damaged in (
        b"",
        data[:40],
        data[: len(data) // 2],
        (tmp_path / "aachen/288_5623_rgb.tif").read_bytes(),
    ):
        path.write_bytes(damaged)
        reject(
            "geonrw", tmp_path, "herne/371_5710_rgb.jp2", "cannot be read as JPEG 2000", **options
        )


# ------------------------------------------------------------------ SUN RGB-D


def picture(path: Path) -> np.ndarray:
    """The picture as read by Pillow, [c, h, w]."""
    with Image.open(path) as image:
        array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def test_sunrgbd_pictures_as_pillow_reads_them(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    expected = {
        "rgb": ("RGB", "jpg", "sunrgbd_rgb"),
        "hha": ("HHA", "png", "sunrgbd_hha"),
        "depth": ("Depth", "png", "sunrgbd_depth"),
    }
    for sample in read_all("sunrgbd", tmp_path):
        name, kind = sample.id.split("/")
        folder, ending, sensor = expected[kind]
        np.testing.assert_array_equal(
            sample.pixels, picture(tmp_path / folder / f"{name}.{ending}")
        )
        np.testing.assert_array_equal(
            sample.labels["segmentation"], picture(tmp_path / "Label" / f"{name}.png")[0]
        )
        assert (sample.sensor, sample.group) == (sensor, name)
        assert (sample.time, sample.lonlat, sample.crs, sample.affine, sample.wavelengths_nm) == (
            None,
        ) * 5


def test_sunrgbd_depth_stays_16_bit(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    depths = [
        sample.pixels
        for sample in read_all("sunrgbd", tmp_path)
        if sample.sensor == "sunrgbd_depth"
    ]
    assert {depth.dtype.name for depth in depths} == {"uint16"}
    assert max(depth.max() for depth in depths) > 50_000


def test_sunrgbd_hha_channels_are_in_file_order_not_reversed_as_opencv_has_them(
    tmp_path: Path,
) -> None:
    write("sunrgbd", tmp_path)
    sample = next(
        sample for sample in read_all("sunrgbd", tmp_path) if sample.sensor == "sunrgbd_hha"
    )
    np.testing.assert_allclose(sample.pixels.mean((1, 2)), [25, 125, 225], atol=5)


def test_sunrgbd_label_0_is_no_label_and_stays(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    Image.fromarray(np.zeros(sunrgbd.SIZES["1"], np.uint8)).save(tmp_path / "Label" / "1.png")
    assert not read_all("sunrgbd", tmp_path)[0].labels["segmentation"].any()


def test_sunrgbd_palette_labels_are_indices(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    with Image.open(tmp_path / "Label" / "1.png") as image:
        codes = np.asarray(image)
    coloured = Image.fromarray(codes, "L").convert("P")
    coloured.putdata(codes.ravel().tolist())
    coloured.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    coloured.save(tmp_path / "Label" / "1.png")
    np.testing.assert_array_equal(read_all("sunrgbd", tmp_path)[0].labels["segmentation"], codes)


def test_sunrgbd_splits(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    splits = {item.group: item.split for item in items_of("sunrgbd", tmp_path)}
    assert splits == {name: split for split, names in sunrgbd.SPLITS.items() for name in names}
    (tmp_path / "test.txt").unlink()
    reject("sunrgbd", tmp_path, "in no split list")


def test_sunrgbd_without_labels_or_depth(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    shutil.rmtree(tmp_path / "Label")
    shutil.rmtree(tmp_path / "Depth")
    samples = read_all("sunrgbd", tmp_path)
    assert {sample.sensor for sample in samples} == {"sunrgbd_rgb", "sunrgbd_hha"}
    assert not any(sample.labels for sample in samples)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "HHA" / "2.png")
    reject("sunrgbd", tmp_path, "RGB/2.jpg", "9 x 9", "24 x 32")


@pytest.mark.parametrize(
    ("folder", "ending"), [("HHA", "png"), ("Depth", "png"), ("Label", "png"), ("RGB", "jpg")]
)
def test_sunrgbd_picture_missing(tmp_path: Path, folder: str, ending: str) -> None:
    write("sunrgbd", tmp_path)
    (tmp_path / folder / f"10.{ending}").unlink()
    reject("sunrgbd", tmp_path, f"{folder}/10", "no such picture")


def test_sunrgbd_pictures_that_are_wrong(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    for folder, shape, dtype, words in [
        ("HHA", (24, 32), np.uint8, ("1 channels", "3")),
        ("Depth", (24, 32), np.uint8, ("uint8", "uint16")),
        ("Label", (24, 31), np.uint8, ("24 x 31",)),
        ("Label", (24, 32, 3), np.uint8, ("3 channels",)),
    ]:
        path = tmp_path / folder / "1.png"
        good = path.read_bytes()
        Image.fromarray(np.zeros(shape, dtype)).save(path)
        reject("sunrgbd", tmp_path, f"{folder}/1.png", *words)
        path.write_bytes(good)


def test_sunrgbd_one_name_in_two_formats(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    shutil.copy(tmp_path / "HHA" / "1.png", tmp_path / "RGB" / "1.png")
    reject("sunrgbd", tmp_path, "RGB/1.png", "RGB/1.jpg")
    shutil.rmtree(tmp_path / "RGB")
    reject("sunrgbd", tmp_path, "RGB", "no such folder")


@pytest.mark.parametrize("name", ["RGB/1.jpg", "HHA/1.png", "Depth/1.png", "Label/1.png"])
def test_sunrgbd_truncated_pictures(tmp_path: Path, name: str) -> None:
    write("sunrgbd", tmp_path)
    data = (tmp_path / name).read_bytes()
    for size in (0, 10, len(data) // 2):
        (tmp_path / name).write_bytes(data[:size])
        reject("sunrgbd", tmp_path, name, "cannot be read as")


def test_sunrgbd_other_formats_behind_the_name(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    shutil.copy(tmp_path / "HHA" / "1.png", tmp_path / "RGB" / "1.jpg")
    reject("sunrgbd", tmp_path, "RGB/1.jpg", "cannot be read as JPEG")


def test_sunrgbd_picture_that_claims_too_much(tmp_path: Path) -> None:
    write("sunrgbd", tmp_path)
    data = bytearray((tmp_path / "HHA" / "1.png").read_bytes())
    data[16:24] = struct.pack(
        ">II", 60_000, 60_000
    )  # width and height in the header, and its checksum
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "HHA" / "1.png").write_bytes(data)
    reject("sunrgbd", tmp_path, "HHA/1.png", "too large")


@pytest.mark.parametrize("name", ["1.jpg", "1.png"])
def test_picture_with_flipped_bits_gives_an_error_or_pixels(tmp_path: Path, name: str) -> None:
    write("sunrgbd", tmp_path)
    good = (tmp_path / ("RGB" if name == "1.jpg" else "HHA") / name).read_bytes()
    rejected = 0
    for position in range(0, min(len(good), 1500)):
        damaged = bytearray(good)
        damaged[position] ^= 16
        try:
            assert read_picture(name, bytes(damaged)).size
        except ArchiveError as error:
            rejected += 1
            assert "\n" not in str(error) and "0x" not in str(error)
    assert rejected > 100
