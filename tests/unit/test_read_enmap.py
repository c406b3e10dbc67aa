"""HySpecNet-11k and whole EnMAP products: bands by number, patches by window, quality layers and
METADATA.XML checked against the image.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import enmap_l2a, hyspecnet11k, make_reader, read_all, read_item, reject, write
from rasterio.windows import Window

from data_prep.formats import geotiff
from data_prep.reader import SkipSample
from data_prep.readers import enmap_l2a as products
from data_prep.readers._enmap_layers import QUALITY
from eo_jax.sensors import ENMAP, ENMAP_PRODUCT

KEPT = [number - 1 for number in ENMAP.band_numbers]
HYSPECNET, L2A = "hyspecnet11k", "enmap-l2a"
SCENE, OTHER = enmap_l2a.SCENES
SIZE = 8


def patch_file(root: Path, patch: str, part: str = "SPECTRAL_IMAGE") -> Path:
    (found,) = root.rglob(f"{patch}-{part}.TIF")
    return found


def change(path: Path, cube: np.ndarray | None = None, **profile) -> None:
    """Rewrites a GeoTIFF with other pixels or another profile."""
    cube = tiny_archives.read(path) if cube is None else cube
    path.unlink()
    tiny_archives.write(path, cube, **profile)


# ------------------------------------------------------------------ HySpecNet-11k


def test_real_hyspecnet_patch(sample_data: Path) -> None:
    root = sample_data / "enmap" / "hyspecnet11k"
    (sample,) = read_all(HYSPECNET, root, masks=tuple(QUALITY))
    tile, offset = sample.id.split("/")
    original = tiny_archives.read(patch_file(root, f"{tile}-{offset}"))
    np.testing.assert_array_equal(sample.pixels, original[KEPT])
    assert not (sample.pixels == ENMAP.nodata).any()  # exactly the 22 empty bands are dropped
    assert (sample.sensor, sample.pixels.dtype, sample.wavelengths_nm) == ("enmap", np.int16, None)
    assert (offset, sample.group) == ("Y01460273_X03110438", sample.id)
    assert (sample.product, sample.time) == ("V010110", 1667492678)  # 2022-11-03T16:24:38Z
    assert (sample.crs, sample.gsd_m) == ("EPSG:32618", 30.0)
    assert sample.affine == (30.0, 0.0, 688005.0, 0.0, -30.0, 4561935.0)
    for mask, part in QUALITY.items():
        np.testing.assert_array_equal(
            sample.masks[mask], tiny_archives.read(patch_file(root, f"{tile}-{offset}", part))[0]
        )
        assert sample.masks[mask].dtype == np.uint8
    assert (sample.masks["classes"] == 2).all()  # water


def test_real_hyspecnet_patch_with_all_bands(sample_data: Path) -> None:
    root = sample_data / "enmap" / "hyspecnet11k"
    (sample,) = read_all(HYSPECNET, root, bands=224)
    np.testing.assert_array_equal(
        sample.pixels, tiny_archives.read(next(root.rglob("*SPECTRAL_IMAGE.TIF")))
    )
    assert (sample.sensor, sample.masks) == ("enmap_l2a_224", {})


def test_torchgeo_fixture_is_flat_and_has_short_split_lines(sample_data: Path) -> None:
    root = sample_data / "torchgeo_fixtures_SYNTHETIC" / "hyspecnet" / "hyspecnet-11k"
    for name in ("train", "val", "test"):
        assert "/" not in (root / "splits" / "easy" / f"{name}.csv").read_text()
    (sample, _) = read_all(HYSPECNET, root, splits="none")
    tile, offset = sample.id.split("/")
    np.testing.assert_array_equal(
        sample.pixels,
        tiny_archives.read(root / "patches" / f"{tile}-{offset}-SPECTRAL_IMAGE.TIF")[KEPT],
    )
    # The fixture lists each of its two patches in every split, which is not allowed.
    reject(HYSPECNET, root, "splits/easy/val.csv", "which is also in splits/easy/train.csv")


def test_hyspecnet_keeps_bands_by_number_without_wavelengths(tmp_path: Path) -> None:
    options = write(HYSPECNET, tmp_path)
    for sample in read_all(HYSPECNET, tmp_path, **options):
        original = tiny_archives.read(patch_file(tmp_path, sample.id.replace("/", "-")))
        assert (
            len(np.unique(original, axis=0)) == 203
        )  # all bands differ, except those in water vapour
        np.testing.assert_array_equal(sample.pixels, original[KEPT])
        assert set(sample.masks) == {"cloud", "classes"}


@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_hyspecnet_split_lists(tmp_path: Path, kind: str) -> None:
    write(HYSPECNET, tmp_path)
    found = {
        item.id.replace("/", "-"): item.split
        for item in make_reader(HYSPECNET, tmp_path, splits=kind).items()
    }
    for split in ("train", "val", "test"):
        lines = (tmp_path / "splits" / kind / f"{split}.csv").read_text().split()
        assert {line.split("/")[1] for line in lines} == {
            patch for patch, side in found.items() if side == split
        }


def test_hyspecnet_lists_with_file_names_alone(tmp_path: Path) -> None:
    write(HYSPECNET, tmp_path)
    hyspecnet11k.write_lists(tmp_path, "easy", hyspecnet11k.PATCHES, "{patch}-DATA.npy")
    found = {
        item.id.replace("/", "-"): item.split for item in make_reader(HYSPECNET, tmp_path).items()
    }
    assert found == hyspecnet11k.PATCHES


def test_hyspecnet_part_of_the_archive(tmp_path: Path) -> None:
    write(HYSPECNET, tmp_path)
    patch = next(iter(hyspecnet11k.PATCHES))
    shutil.rmtree(patch_file(tmp_path, patch).parent)
    reject(HYSPECNET, tmp_path, "splits/easy/test.csv", patch, "give --splits none")
    assert [item.split for item in make_reader(HYSPECNET, tmp_path, splits="none").items()] == [
        None
    ] * 3


def test_hyspecnet_half_a_set_of_lists(tmp_path: Path) -> None:
    write(HYSPECNET, tmp_path)
    (tmp_path / "splits" / "hard" / "val.csv").unlink()
    reject(HYSPECNET, tmp_path, "splits/hard", "has no val.csv", splits="hard")
    shutil.rmtree(tmp_path / "splits" / "easy")
    reject(HYSPECNET, tmp_path, "splits/easy", "has no train.csv, val.csv, test.csv", splits="easy")
    shutil.rmtree(tmp_path / "splits")
    assert [item.split for item in make_reader(HYSPECNET, tmp_path).items()] == [None] * 4


def test_hyspecnet_patch_twice(tmp_path: Path) -> None:
    write(HYSPECNET, tmp_path)
    patch = next(iter(hyspecnet11k.PATCHES))
    shutil.copy(patch_file(tmp_path, patch), tmp_path)
    reject(HYSPECNET, tmp_path, f"{patch}-SPECTRAL_IMAGE.TIF", "has the same id")


def test_hyspecnet_missing_layer(tmp_path: Path) -> None:
    options = write(HYSPECNET, tmp_path)
    patch_file(tmp_path, next(iter(hyspecnet11k.PATCHES)), "QL_QUALITY_CLOUD").unlink()
    reject(HYSPECNET, tmp_path, "QL_QUALITY_CLOUD.TIF", "--masks cloud", **options)
    assert len(read_all(HYSPECNET, tmp_path)) == 4  # not needed without the option


@pytest.mark.parametrize(
    ("part", "bands", "profile", "words"),
    [
        ("SPECTRAL_IMAGE", 202, {}, ("202 bands", "224")),
        ("SPECTRAL_IMAGE", 224, {"dtype": "float32"}, ("float32", "int16")),
        ("SPECTRAL_IMAGE", 224, {"nodata": 0}, ("no-data value is 0", "-32768")),
        ("QL_QUALITY_CLOUD", 2, {}, ("2 bands",)),
        ("QL_QUALITY_CLOUD", 1, {"dtype": "int16"}, ("int16", "uint8")),
        ("QL_QUALITY_CLOUD", 1, {"crs": "EPSG:32618"}, ("CRS",)),
        (
            "QL_QUALITY_CLOUD",
            1,
            {"transform": rasterio.Affine(30, 0, 0, 0, -30, 0)},
            ("transform",),
        ),
    ],
)
def test_hyspecnet_wrong_files(
    tmp_path: Path, part: str, bands: int, profile: dict, words: tuple[str, ...]
) -> None:
    options = write(HYSPECNET, tmp_path)
    path = patch_file(tmp_path, next(iter(hyspecnet11k.PATCHES)), part)
    change(path, np.resize(tiny_archives.read(path), (bands, SIZE, SIZE)), **profile)
    reject(HYSPECNET, tmp_path, path.name, *words, **options)


def test_hyspecnet_layer_of_another_size(tmp_path: Path) -> None:
    options = write(HYSPECNET, tmp_path)
    path = patch_file(tmp_path, next(iter(hyspecnet11k.PATCHES)), "QL_QUALITY_CLOUD")
    change(path, np.zeros((1, 4, 4), np.uint8))
    reject(HYSPECNET, tmp_path, path.name, "4 x 4 pixels, expected 8 x 8", **options)


def test_nothing_of_hyspecnet(tmp_path: Path) -> None:
    tiny_archives.tile(tmp_path / "a.tif")
    reject(HYSPECNET, tmp_path, "contains no patch")


# ------------------------------------------------------------------ EnMAP L2A


def whole(root: Path, scene: str, part: str = "SPECTRAL_IMAGE") -> np.ndarray:
    return tiny_archives.read(next((root / scene).glob(f"{scene}-{part}.[Tt]*")))


def test_l2a_adjacent_patches(tmp_path: Path) -> None:
    options = write(L2A, tmp_path)
    samples = {
        sample.id: sample
        for sample in read_all(L2A, tmp_path, **options, max_cloud=1, max_nodata=1)
    }
    expected = [
        f"{scene}/{row:05}_{column:05}"
        for scene in (SCENE, OTHER)
        for row in (0, 8)
        for column in (0, 8, 16)
    ]
    assert list(samples) == sorted(expected)
    for name, sample in samples.items():
        scene, corner = name.split("/")
        row, column = map(int, corner.split("_"))
        rows, columns = slice(row, row + SIZE), slice(column, column + SIZE)
        kind = enmap_l2a.SCENES[scene]
        np.testing.assert_array_equal(
            sample.pixels, whole(tmp_path, scene, f"SPECTRAL_IMAGE{kind}")[KEPT, rows, columns]
        )
        for mask, part in QUALITY.items():
            np.testing.assert_array_equal(
                sample.masks[mask], whole(tmp_path, scene, f"{part}{kind}")[0, rows, columns]
            )
        assert sample.affine == (
            30.0,
            0.0,
            366015.0 + 30 * column,
            0.0,
            -30.0,
            5809965.0 - 30 * row,
        )
        assert (sample.group, sample.sensor, sample.crs) == (name, "enmap", "EPSG:32633")
        np.testing.assert_allclose(sample.wavelengths_nm, ENMAP.centres_nm + 0.1, atol=1e-3)
    assert samples[expected[0]].product == "V010400"
    assert samples[expected[0]].time == 1654932185  # 2022-06-11T07:23:05Z, as the metadata say


def test_l2a_limits_on_cloud_and_no_data(tmp_path: Path) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    reader = make_reader(L2A, tmp_path, patch_size=SIZE)
    reasons = {}
    for item in reader.items():
        try:
            read_item(reader, item)
        except SkipSample as reason:
            reasons[item.part] = str(reason)
    too_cloudy = "more than 0.1 of the patch is cloud (--max-cloud)"
    empty = "has pixels without data (--max-nodata)"
    assert reasons == {(0, 0): empty, (0, 16): too_cloudy, (8, 16): too_cloudy}
    assert len(read_all(L2A, tmp_path, patch_size=SIZE, max_cloud=0)) == 2
    assert len(read_all(L2A, tmp_path, patch_size=SIZE, max_nodata=1 / 64)) == 4


def test_l2a_bands_in_water_vapour_are_not_missing_pixels(tmp_path: Path) -> None:
    """Products fill these bands with the no-data value; with 224 bands they stay, and a pixel is
    missing only where all bands are.
    """
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    sample = read_all(L2A, tmp_path, patch_size=SIZE, bands=224)[0]
    assert (sample.sensor, sample.id) == ("enmap_l2a_224", f"{SCENE}/00000_00008")
    np.testing.assert_array_equal(sample.pixels, whole(tmp_path, SCENE)[:, :8, 8:16])
    empty = np.flatnonzero((sample.pixels == ENMAP.nodata).all((1, 2))) + 1
    assert empty.tolist() == [*range(127, 142), *range(161, 168)]
    np.testing.assert_allclose(sample.wavelengths_nm, ENMAP_PRODUCT.centres_nm + 0.1, atol=1e-3)


def test_l2a_stride(tmp_path: Path) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    items = make_reader(L2A, tmp_path, patch_size=16, stride=2).items()
    assert [item.part for item in items] == [
        (row, column) for row in (0, 2) for column in (0, 2, 4, 6, 8)
    ]


def test_l2a_reads_windows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    monkeypatch.setattr(geotiff, "MAX_BYTES", 224 * SIZE * SIZE * 2)  # of one patch
    assert len(read_all(L2A, tmp_path, patch_size=SIZE)) == 3


def test_l2a_masks_are_a_choice(tmp_path: Path) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    for path in tmp_path.rglob("*QL_QUALITY_HAZE.TIF"):
        path.unlink()
    reject(L2A, tmp_path, f"{SCENE}-QL_QUALITY_HAZE.TIF", "no such file", patch_size=SIZE)
    samples = read_all(L2A, tmp_path, patch_size=SIZE, masks=("snow",))
    assert [set(sample.masks) for sample in samples] == [{"snow"}] * 3  # clouds were still checked


def test_torchgeo_cloud_optimised_product(sample_data: Path, tmp_path: Path) -> None:
    (image,) = (sample_data / "torchgeo_fixtures_SYNTHETIC" / "enmap").glob("*_COG.tiff")
    scene = image.name.removesuffix("-SPECTRAL_IMAGE_COG.tiff")
    shutil.copy(image, tmp_path)
    reject(L2A, tmp_path, f"{scene}-METADATA.XML", "no such file")
    (tmp_path / f"{scene}-METADATA.XML").write_text(enmap_l2a.metadata())
    with rasterio.open(image) as file:
        grid = {"crs": file.crs, "transform": file.transform}
        expected = file.read(window=Window(16, 0, 16, 16))[KEPT]
    tiny_archives.write(
        tmp_path / f"{scene}-QL_QUALITY_CLOUD_COG.TIF", np.zeros((1, 32, 32), np.uint8), **grid
    )
    samples = read_all(L2A, tmp_path, patch_size=16, masks=())
    assert [sample.id for sample in samples] == [
        f"{scene}/{row:05}_{column:05}" for row in (0, 16) for column in (0, 16)
    ]
    np.testing.assert_array_equal(samples[1].pixels, expected)


BAND_9 = '<bandID number="9"><wavelengthCenterOfBand>459.130</wavelengthCenterOfBand>'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "<GainOfBand>0.0001</GainOfBand>",
            "<GainOfBand>0.001</GainOfBand>",
            ("GainOfBand of band 1 is 0.001", "0.0001"),
        ),
        (
            "<OffsetOfBand>0</OffsetOfBand>",
            "<OffsetOfBand>-5</OffsetOfBand>",
            ("OffsetOfBand of band 1 is -5",),
        ),
        ("<OffsetOfBand>0</OffsetOfBand>", "", ("no element OffsetOfBand of band 1",)),
        ("<backgroundValue>-32768", "<backgroundValue>0", ("backgroundValue is 0", "-32768")),
        ("<level>L2A", "<level>L1C", ("'L1C'", "'L2A'")),
        (BAND_9, BAND_9.replace("459.130", "469.130"), ("band 9 has 469.13 nm", "459.03")),
        (
            BAND_9,
            BAND_9.replace("459.130", "wide"),
            ("wavelengthCenterOfBand of band 9 is 'wide'",),
        ),
        (BAND_9, BAND_9.replace("459.130", "nan"), ("band 9",)),
        ('number="9"', 'number="10"', ("bandID 1 to 224",)),
        ('number="224"', 'number="225"', ("bandID 1 to 224",)),
        (
            "<startTime>2022-06-11T07:23:05.138Z",
            "<startTime>yesterday",
            ("startTime is 'yesterday'",),
        ),
        (
            "<startTime>2022-06-11T07:23:05.138Z</startTime>",
            "",
            ("no element base/temporalCoverage/startTime",),
        ),
        ("bandCharacterisation", "bandCharacter", ("no element specific/bandCharacterisation",)),
        ("</level_X>", "", ("cannot be read as XML",)),
        (
            "<level_X",
            '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]><level_X',
            ("cannot be read as XML",),
        ),
    ],
)
def test_l2a_wrong_metadata(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    path = tmp_path / SCENE / f"{SCENE}-METADATA.XML"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    reject(L2A, tmp_path, path.name, *words, patch_size=SIZE)


def test_l2a_order_of_bands_is_that_of_their_numbers(tmp_path: Path) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    path = tmp_path / SCENE / f"{SCENE}-METADATA.XML"
    before, bands, after = re.split(r"(<bandID number=.*</bandID>)(?=</bandC)", path.read_text())
    path.write_text(before + "".join(reversed(re.findall("<bandID.*?</bandID>", bands))) + after)
    sample = read_all(L2A, tmp_path, patch_size=SIZE)[0]
    np.testing.assert_allclose(sample.wavelengths_nm, ENMAP.centres_nm + 0.1, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_cloud": 1.5}, ("--max-cloud", "1.5")),
        ({"max_nodata": -0.1}, ("--max-nodata", "-0.1")),
        ({"patch_size": 0}, ("--patch-size", "0")),
        (
            {"patch_size": 19},
            (f"{SCENE}-SPECTRAL_IMAGE.TIF", "18 x 25 pixels, too few for a tile of 19 x 19"),
        ),
    ],
)
def test_l2a_invalid_options(tmp_path: Path, options: dict, words: tuple[str, ...]) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    reject(L2A, tmp_path, *words, **options)


@pytest.mark.parametrize(
    ("part", "bands", "profile", "words"),
    [
        ("SPECTRAL_IMAGE", 202, {}, ("202 bands", "224")),
        ("SPECTRAL_IMAGE", 224, {"dtype": "float32"}, ("float32", "int16")),
        ("QL_QUALITY_SNOW", 1, {"dtype": "int16"}, ("int16", "uint8")),
        ("QL_QUALITY_SNOW", 1, {"crs": "EPSG:32632"}, ("another CRS",)),
    ],
)
def test_l2a_wrong_files(
    tmp_path: Path, part: str, bands: int, profile: dict, words: tuple[str, ...]
) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    path = tmp_path / SCENE / f"{SCENE}-{part}.TIF"
    change(
        path,
        np.resize(tiny_archives.read(path), (bands, enmap_l2a.HEIGHT, enmap_l2a.WIDTH)),
        **profile,
    )
    reject(L2A, tmp_path, path.name, *words, patch_size=SIZE)


def test_l2a_both_kinds_of_one_product(tmp_path: Path) -> None:
    enmap_l2a.write_product(tmp_path / SCENE, SCENE)
    shutil.copy(
        tmp_path / SCENE / f"{SCENE}-SPECTRAL_IMAGE.TIF",
        tmp_path / SCENE / f"{SCENE}-SPECTRAL_IMAGE_COG.TIF",
    )
    reject(L2A, tmp_path, "has the same id", patch_size=SIZE)


def test_l2a_is_not_l1c(tmp_path: Path) -> None:
    assert products._IMAGE.fullmatch(f"{SCENE}-SPECTRAL_IMAGE.TIF")
    enmap_l2a.write_product(tmp_path, SCENE.replace("L2A", "L1C"))
    reject(L2A, tmp_path, "no EnMAP L2A product")
