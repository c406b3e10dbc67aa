"""Class numbers of label maps: what a file declares as no data is unlabelled, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import hsi_scene, make_reader, read_all, reject

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.labels import ClassNumbers, class_numbers
from data_prep.reader import Files, with_sidecars

SIDE = tiny_archives.SIZE
READERS = ("geotiff", "enmap-tiles", "spectral-earth", "hsi-scene")


def archive(reader: str, root: Path, classes: np.ndarray, **profile) -> dict:
    """An image with a label map of that reader; returns its options."""
    if reader == "geotiff":
        cube = np.full((4, SIDE, SIDE), 500, np.uint16)
        tiny_archives.write(root / "images" / "a.tif", cube)
        tiny_archives.write(root / "labels" / "a.tif", classes[None], **profile)
        return {"sensor": str(Path(hsi_scene.__file__).with_name("drone_bands.json"))}
    if reader == "enmap-tiles":
        tiny_archives.tile(root / "images" / "a.tif")
        tiny_archives.write(root / "labels" / "a.tif", classes[None], **profile)
        return {}
    if reader == "spectral-earth":
        tiny_archives.write(
            root / "enmap" / "0000001" / "00001.tif", tiny_archives.pixels(1, size=SIDE)
        )
        tiny_archives.write(root / "cdl" / "0000001" / "00001.tif", classes[None], **profile)
        return {"labels": ("cdl",)}
    options = hsi_scene.own(root.parent)
    cube = np.full((hsi_scene.BANDS_OF_OWN, SIDE, SIDE), 500, np.uint16)
    tiny_archives.write(root / "scene.tif", cube)
    tiny_archives.write(root / "truth.tif", classes[None], **profile)
    return {**options, "image": "scene.tif", "variable": "", "ground_truth": "truth.tif"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("values", "dtype", "profile", "options", "expected"),
    [
        ((0, 1, 2), "uint8", {}, {}, (0, 1, 2)),
        ((255, 1, 2), "uint8", {"nodata": 255}, {}, (0, 1, 2)),
        ((255, 1, 2), "uint8", {}, {"label_nodata": ("255",)}, (0, 1, 2)),
        ((-1, 0, 1), "int16", {}, {"first_class": 0, "label_nodata": ("-1",)}, (0, 1, 2)),
        ((0, 1, 254), "uint8", {}, {"first_class": 0}, (1, 2, 255)),
        ((0, 11, 12), "int32", {"nodata": 0}, {"first_class": 11}, (0, 1, 2)),
        ((np.nan, 1, 2), "float32", {"nodata": np.nan}, {}, (0, 1, 2)),
        ((-9999.0, 1, 2), "float64", {"nodata": -9999}, {}, (0, 1, 2)),
    ],
)
def test_classes_count_from_one(
    tmp_path: Path, reader: str, values: tuple, dtype: str, profile: dict, options: dict, expected
):
    classes = np.resize(np.array(values, dtype), (SIDE, SIDE))
    root = tmp_path / "in"
    given = archive(reader, root, classes, **profile)
    (sample,) = read_all(reader, root, **given, **options)
    (label,) = sample.labels.values()
    assert label.dtype.kind in "iu"
    np.testing.assert_array_equal(label, np.resize(np.array(expected), (SIDE, SIDE)))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("values", "dtype", "options", "words"),
    [
        ((255, 1, 2), "uint8", {}, ("the value 255 in 342 pixels", "--label-nodata 255")),
        ((65535, 1, 2), "uint16", {}, ("the value 65535", "--label-nodata 65535")),
        ((-1, 1, 2), "int16", {}, ("the value -1", "--label-nodata -1")),
        ((0, 3, 4), "uint8", {"first_class": 3}, ("the value 0", "below the first class 3")),
        ((0, 1, 127), "int8", {"first_class": 0}, ("the class 127 in int8", "a larger type")),
        ((1, 2, 3), "uint8", {"first_class": 300}, ("the value 1", "below the first class 300")),
    ],
)
def test_a_value_that_is_not_a_class_is_refused(
    tmp_path: Path, reader: str, values: tuple, dtype: str, options: dict, words: tuple[str, ...]
):
    root = tmp_path / "in"
    given = archive(reader, root, np.resize(np.array(values, dtype), (SIDE, SIDE)))
    reject(reader, root, *words, **given, **options)


def test_label_nodata_must_be_numbers():
    with pytest.raises(ValueError, match=r"--label-nodata.*'none'"):
        class_numbers(1, ("none",))


def test_codes_of_a_published_legend_stay():
    classes = np.array([[0, 64, 255]], np.uint8)
    known = ClassNumbers(known=frozenset((255,)))
    np.testing.assert_array_equal(known.to_store("a.tif", classes, None), classes)


def test_a_map_with_a_scale_is_not_of_classes(tmp_path: Path):
    root = tmp_path / "in"
    given = archive("geotiff", root, np.ones((SIDE, SIDE), np.uint8))
    with rasterio.open(root / "labels" / "a.tif", "r+") as file:
        file.scales = (0.1,)
    reject("geotiff", root, "labels/a.tif", "scale 0.1", **given)


def test_masked_pixels_of_a_map_are_unlabelled(tmp_path: Path):
    root = tmp_path / "in"
    given = archive("geotiff", root, np.full((SIDE, SIDE), 3, np.uint8))
    masked = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0
    with rasterio.open(root / "labels" / "a.tif", "r+") as file:
        file.write_mask(~masked)
    reader = make_reader("geotiff", root, **given)
    (item,) = with_sidecars(reader.archive, reader.items())
    label = reader.read(item, Files(reader.archive, item)).labels["labels"]
    np.testing.assert_array_equal(label, np.where(masked, 0, 3))


def test_names_and_colours_of_the_classes_that_occur_are_noted(tmp_path: Path):
    root = tmp_path / "in"
    classes = np.resize(np.array([0, 1], np.uint8), (SIDE, SIDE))
    given = archive("geotiff", root, classes)
    with rasterio.open(root / "labels" / "a.tif", "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (7, 8, 9, 255)})
    names = "".join(f"<Category>{name}</Category>" for name in ("dry", "water", "ice"))
    (root / "labels" / "a.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
        "</PAMRasterBand></PAMDataset>"
    )
    reader = make_reader("geotiff", root, **given, first_class=0)
    (item,) = with_sidecars(reader.archive, reader.items())
    with remarks.collect() as found:
        reader.read(item, Files(reader.archive, item))
    assert found.classes == {
        "labels": {
            1: {"name": "dry", "colour": [1, 2, 3]},
            2: {"name": "water", "colour": [40, 50, 60]},
        }
    }


def test_names_in_a_raster_attribute_table(tmp_path: Path):
    root = tmp_path / "in"
    given = archive("geotiff", root, np.full((SIDE, SIDE), 7, np.uint8))
    fields = "".join(
        f"<FieldDefn><Name>{name}</Name><Usage>{usage}</Usage></FieldDefn>"
        for name, usage in (("Value", 5), ("Count", 1), ("Class", 2))
    )
    (root / "labels" / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>'
        f'{fields}<Row index="0"><F>7</F><F>64</F><F>rye</F></Row>'
        "</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )
    reader = make_reader("geotiff", root, **given)
    (item,) = with_sidecars(reader.archive, reader.items())
    with remarks.collect() as found:
        reader.read(item, Files(reader.archive, item))
    assert found.classes == {"labels": {7: {"name": "rye"}}}


@pytest.mark.parametrize("first", [-5, 0, 2, 300])
def test_a_map_without_any_label_is_zeros_whatever_the_first_class(first: int):
    classes = np.full((2, 2), 9, np.uint8)
    numbers = ClassNumbers(first, nodata=(9.0,))
    if first == 300:  # no class of such a map could be stored
        with pytest.raises(ArchiveError, match="a larger type"):
            numbers.to_store("a.tif", classes, None)
        return
    np.testing.assert_array_equal(numbers.to_store("a.tif", classes, None), np.zeros((2, 2)))


def test_masked_values_may_be_anything():
    """NaN and fractions under the mask are not class numbers, and need not be."""
    classes = np.array([[0.5, 1.0, np.nan]], np.float32)
    masked = np.array([[True, False, True]])
    np.testing.assert_array_equal(
        ClassNumbers().to_store("a.tif", classes, masked), np.array([[0, 1, 0]])
    )
    with pytest.raises(ArchiveError, match="fractions"):
        ClassNumbers().to_store("a.tif", classes, None)
