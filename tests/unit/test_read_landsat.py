"""SSL4EO-L, its benchmark, L7 Irish and L8 Biome: pixels and codes as read by rasterio, in every
container.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from layouts import (
    l7irish,
    l8biome,
    make_reader,
    read_all,
    read_item,
    reject,
    ssl4eo_l,
    ssl4eo_l_benchmark,
    write,
)
from layouts.ssl4eo_l import GRID

from data_prep.reader import SkipSample
from data_prep.readers._landsat_scenes import CLOUD_CODES
from data_prep.readers.ssl4eo_l_benchmark import CLASSES, published_split
from eo_jax.schema import Sample

LANDSAT_5 = "LT05_172034_20010526"


@pytest.fixture
def fixtures(sample_data: Path) -> Path:
    return sample_data / "torchgeo_fixtures_SYNTHETIC"


def day(seconds: int) -> str:
    """The date of a time at 00:00 UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    assert (moment.hour, moment.minute, moment.second) == (0, 0, 0)
    return moment.strftime("%Y%m%d")


def copy_containers(source: Path, target: Path) -> Path:
    """A folder with only the tar files of an archive."""
    for path in source.glob("*.tar.gz*"):
        shutil.copy(path, target)
    return target


def assert_same(found: Iterable[Sample], expected: Iterable[Sample]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.id, one.group, one.sensor, one.time, one.affine) == (
            other.id,
            other.group,
            other.sensor,
            other.time,
            other.affine,
        )
        assert one.labels.keys() == other.labels.keys()
        for name, label in one.labels.items():
            np.testing.assert_array_equal(label, other.labels[name])


# ------------------------------------------------------------------ SSL4EO-L


def test_ssl4eo_l_fixture_as_rasterio_reads_it(fixtures: Path) -> None:
    root = fixtures / "ssl4eo" / "l"
    samples = read_all("ssl4eo-l", root, size=36)
    assert len(samples) == 5 * 2 * 4
    for sample in samples:
        location, product, scene = sample.id.split("/")
        original = tiny_archives.read(
            root / f"ssl4eo_l_{product}" / location / scene / "all_bands.tif"
        )
        np.testing.assert_array_equal(sample.pixels, original)
        assert sample.pixels.dtype == np.uint8
        assert (sample.group, day(sample.time), sample.crs) == (location, scene[-8:], "EPSG:4326")


def test_ssl4eo_l_tar_parts_give_the_same_samples(fixtures: Path, tmp_path: Path) -> None:
    root = copy_containers(fixtures / "ssl4eo" / "l", tmp_path)
    assert len(list(tmp_path.glob("ssl4eo_l_tm_toa.tar.gza?"))) == 3
    assert_same(
        read_all("ssl4eo-l", root, size=36),
        read_all("ssl4eo-l", fixtures / "ssl4eo" / "l", size=36),
    )


@pytest.mark.parametrize(
    ("product", "sensor", "bands"),
    [
        ("tm_toa", "landsat5_tm_toa", "B1 B2 B3 B4 B5 B6 B7"),
        ("etm_toa", "landsat7_etm_toa", "B1 B2 B3 B4 B5 B6_VCID_1 B6_VCID_2 B7 B8"),
        ("etm_sr", "landsat7_etm_sr", "SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B7"),
        ("oli_tirs_toa", "landsat8_oli_tirs_toa", "B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11"),
        ("oli_sr", "landsat8_oli_sr", "SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B6 SR_B7"),
    ],
)
def test_ssl4eo_l_bands_of_each_product_in_file_order(
    tmp_path: Path, product: str, sensor: str, bands: str
) -> None:
    write("ssl4eo-l", tmp_path)
    reader = make_reader("ssl4eo-l", tmp_path, products=(product,), size=ssl4eo_l.SIZE)
    sample = read_item(reader, reader.items()[0])
    assert sample.sensor == sensor
    assert (
        " ".join(band.name for row in reader.sensors if row.id == sensor for band in row.bands)
        == bands
    )
    assert (sample.pixels // 20 == np.arange(1, len(bands.split()) + 1)[:, None, None]).all()


def test_ssl4eo_l_groups_are_locations_over_all_products(tmp_path: Path) -> None:
    items = make_reader("ssl4eo-l", tmp_path, **write("ssl4eo-l", tmp_path)).items()
    ids = [item.id for item in items]
    assert ids == sorted(ids)
    assert len(items) == 15
    assert {item.id.split("/")[1] for item in items if item.group == "0000002"} == {
        "tm_toa",
        "etm_toa",
        "etm_sr",
    }
    toa, sr = (
        {item.id.split("/")[2] for item in items if f"/{product}/" in item.id}
        for product in ("etm_toa", "etm_sr")
    )
    assert toa == sr


def test_ssl4eo_l_date_is_the_last_eight_characters_even_of_LT5(tmp_path: Path) -> None:
    samples = {
        sample.id: sample
        for sample in read_all("ssl4eo-l", tmp_path, **write("ssl4eo-l", tmp_path))
    }
    assert day(samples["0000002/tm_toa/LT5_172034_20020923"].time) == "20020923"


def test_ssl4eo_l_fewer_seasons_are_accepted_and_more_than_four_are_not(tmp_path: Path) -> None:
    tiny_archives.write(
        ssl4eo_l.path(tmp_path, "tm_toa", "0000002", LANDSAT_5),
        ssl4eo_l.pixels("tm_toa", LANDSAT_5),
        **GRID,
    )
    assert len(read_all("ssl4eo-l", tmp_path, size=16)) == 1
    for month in range(1, 5):
        path = ssl4eo_l.path(tmp_path, "tm_toa", "0000002", f"LT05_172034_20020{month}01")
        tiny_archives.write(path, ssl4eo_l.pixels("tm_toa", LANDSAT_5), **GRID)
    reject("ssl4eo-l", tmp_path, "ssl4eo_l_tm_toa/0000002", "5 dates", "at most 4", size=16)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"ssl4eo_l_tm_toa/2/{LANDSAT_5}/all_bands.tif", ("7 digits",)),
        (f"ssl4eo_l_tm_toa/0000002/{LANDSAT_5}/B1.tif", ("is not at", "all_bands.tif")),
        ("ssl4eo_l_tm_toa/0000002/LT05_172034_20011326/all_bands.tif", ("date", "20010526")),
        ("ssl4eo_l_tm_toa/0000002/LT05_172034_2001052/all_bands.tif", ("date",)),
        ("ssl4eo_l_tm_raw/0000002/LT05_172034_20010526/all_bands.tif", ("no product", "oli_sr")),
    ],
)
def test_ssl4eo_l_files_in_other_folders(tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    tiny_archives.write(tmp_path / name, ssl4eo_l.pixels("tm_toa", LANDSAT_5), **GRID)
    reject("ssl4eo-l", tmp_path, *words, size=16)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((6, 16, 16), np.uint8), ("6 bands", "7")),
        (np.zeros((7, 16, 16), np.uint16), ("uint16", "uint8")),
        (np.zeros((7, 16, 15), np.uint8), ("16 x 15", "16 x 16")),
    ],
    ids=["bands", "dtype", "shape"],
)
def test_ssl4eo_l_wrong_images(tmp_path: Path, pixels: np.ndarray, words: tuple[str, ...]) -> None:
    tiny_archives.write(ssl4eo_l.path(tmp_path, "tm_toa", "0000002", LANDSAT_5), pixels, **GRID)
    reject(
        "ssl4eo-l", tmp_path, f"ssl4eo_l_tm_toa/0000002/{LANDSAT_5}/all_bands.tif", *words, size=16
    )


def test_ssl4eo_l_images_are_264_pixels_unless_told_otherwise(tmp_path: Path) -> None:
    write("ssl4eo-l", tmp_path)
    reject("ssl4eo-l", tmp_path, "16 x 16", "264 x 264")


def test_ssl4eo_l_product_that_is_not_there(tmp_path: Path) -> None:
    tiny_archives.write(
        ssl4eo_l.path(tmp_path, "tm_toa", "0000002", LANDSAT_5),
        ssl4eo_l.pixels("tm_toa", LANDSAT_5),
        **GRID,
    )
    reject("ssl4eo-l", tmp_path, "ssl4eo_l_oli_sr", "can be tm_toa", products=("oli_sr",), size=16)


# ------------------------------------------------------------------ the benchmark


def test_benchmark_fixture_as_rasterio_reads_it_with_maps_shared_by_toa_and_sr(
    fixtures: Path,
) -> None:
    root = fixtures / "ssl4eo_benchmark_landsat"
    samples = read_all("ssl4eo-l-benchmark", root, subset=True)
    assert len(samples) == 5 * 2
    for sample in samples:
        location, product, scene = sample.id.split("/")
        sensor, inner = product.split("_")[0], f"{location}/{scene}"
        np.testing.assert_array_equal(
            sample.pixels,
            tiny_archives.read(root / f"ssl4eo_l_{product}_benchmark" / inner / "all_bands.tif"),
        )
        assert (sample.pixels.shape[1:], sample.group, day(sample.time)) == (
            (264, 264),
            location,
            scene[-8:],
        )
        year = {"tm": 2011, "etm": 2019, "oli": 2019}[sensor]
        for kind in ("cdl", "nlcd"):
            codes = tiny_archives.read(
                root / f"ssl4eo_l_{sensor}_{kind}" / inner / f"{kind}_{year}.tif"
            )[0]
            np.testing.assert_array_equal(sample.labels[kind], codes)


@pytest.mark.parametrize(("images", "counts"), [(25_000, [17_500, 3_750, 3_750]), (3, [2, 0, 1])])
def test_benchmark_split_of_25000_has_the_published_counts(images: int, counts: list[int]) -> None:
    assert [published_split(images).count(split) for split in ("train", "val", "test")] == counts


def test_benchmark_split_is_numpys_legacy_shuffle_with_seed_0() -> None:
    np.random.seed(0)
    order = np.arange(25_000)
    np.random.shuffle(order)
    parts = np.split(order, [17_500, 21_250])
    expected = {
        number: split
        for split, part in zip(("train", "val", "test"), parts, strict=True)
        for number in part.tolist()
    }
    assert published_split(25_000) == [expected[number] for number in range(25_000)]
    np.testing.assert_array_equal(
        order[:3], [14149, 8946, 22378]
    )  # so that a new NumPy cannot change both sides


def test_benchmark_split_follows_the_order_of_paths_in_each_product(tmp_path: Path) -> None:
    items = make_reader(
        "ssl4eo-l-benchmark", tmp_path, **write("ssl4eo-l-benchmark", tmp_path)
    ).items()
    for product, count in ssl4eo_l_benchmark.LOCATIONS.items():
        assert [item.split for item in items if f"/{product}/" in item.id] == published_split(count)


def test_benchmark_split_needs_all_images(tmp_path: Path) -> None:
    write("ssl4eo-l-benchmark", tmp_path)
    reject(
        "ssl4eo-l-benchmark",
        tmp_path,
        "ssl4eo_l_tm_toa_benchmark",
        "3 images",
        "25,000",
        "--subset",
        size=16,
    )


@pytest.mark.parametrize(("kind", "count"), [("nlcd", 14), ("cdl", 18)])
def test_benchmark_paper_classes_are_positions_and_others_0(
    tmp_path: Path, kind: str, count: int
) -> None:
    options = write("ssl4eo-l-benchmark", tmp_path)
    assert (len(CLASSES[kind]), CLASSES[kind][0]) == (count, 0)
    expected = {
        code: CLASSES[kind].index(code) if code in CLASSES[kind] else 0 for code in range(256)
    }
    for raw, paper in zip(
        *(
            read_all("ssl4eo-l-benchmark", tmp_path, classes=classes, **options)
            for classes in ("raw", "paper")
        ),
        strict=True,
    ):
        assert (raw.labels[kind] > 0).any()
        np.testing.assert_array_equal(
            paper.labels[kind], np.vectorize(expected.get)(raw.labels[kind])
        )


def test_benchmark_map_missing(tmp_path: Path) -> None:
    options = write("ssl4eo-l-benchmark", tmp_path)
    lost = tmp_path / "ssl4eo_l_etm_cdl/0000007/LE07_172030_20190508/cdl_2019.tif"
    lost.unlink()
    reject(
        "ssl4eo-l-benchmark",
        tmp_path,
        str(lost.relative_to(tmp_path)),
        "needs its label map 'cdl'",
        **options,
    )


def test_benchmark_with_one_kind_of_maps(tmp_path: Path) -> None:
    options = write("ssl4eo-l-benchmark", tmp_path)
    for sensor in ("tm", "etm"):
        shutil.rmtree(tmp_path / f"ssl4eo_l_{sensor}_cdl")
    assert all(
        set(sample.labels) == {"nlcd"}
        for sample in read_all("ssl4eo-l-benchmark", tmp_path, **options)
    )
    for sensor in ("tm", "etm"):
        shutil.rmtree(tmp_path / f"ssl4eo_l_{sensor}_nlcd")
    reject("ssl4eo-l-benchmark", tmp_path, "label maps next to the images", **options)


def test_benchmark_map_on_another_grid(tmp_path: Path) -> None:
    options = write("ssl4eo-l-benchmark", tmp_path)
    path = tmp_path / "ssl4eo_l_tm_nlcd/0000001/LE07_172030_20190502/nlcd_2011.tif"
    tiny_archives.write(path, np.zeros((1, 16, 15), np.uint8), **GRID)
    reject(
        "ssl4eo-l-benchmark",
        tmp_path,
        str(path.relative_to(tmp_path)),
        "16 x 15",
        "16 x 16",
        **options,
    )


# ------------------------------------------------------------------ L7 Irish and L8 Biome

SCENES = {
    "l7irish": {
        folder: (f"{folder}/{image}.TIF", f"{folder}/{mask}.TIF")
        for folder, (image, mask, _) in l7irish.SCENES.items()
    },
    "l8biome": {
        folder: tuple(f"{folder}/{folder.split('/')[1]}{end}.TIF" for end in ("", "_fixedmask"))
        for folder in l8biome.SCENES
    },
}
DATES = {
    "austral/p226_r98": "20011112",
    "austral/p231_r93_2": "20010507",
    "boreal/p2_r27": "20010604",
}
DATES |= {
    "barren/LC80420082013220LGN00": "20130808",
    "barren/LC81360302014162LGN00": "20140611",
    "forest/LC80070662014234LGN00": "20140822",
}
both = pytest.mark.parametrize("name", ["l7irish", "l8biome"])


@pytest.mark.parametrize(("name", "scenes", "bands"), [("l7irish", 5, 9), ("l8biome", 5, 11)])
def test_scene_fixtures_as_rasterio_reads_them(
    fixtures: Path, name: str, scenes: int, bands: int
) -> None:
    root = fixtures / name / name
    samples = read_all(name, root, patch_size=32, max_nodata=1.0)
    assert len(samples) == scenes  # 36 x 36 pixels give one full tile
    for sample in samples:
        folder = root / sample.id.rpartition("/")[0]
        mask, image = sorted(folder.glob("*.TIF"), key=lambda path: "mask" not in path.name)
        np.testing.assert_array_equal(sample.pixels, tiny_archives.read(image)[:, :32, :32])
        np.testing.assert_array_equal(sample.labels["cloud"], tiny_archives.read(mask)[0, :32, :32])
        assert (sample.pixels.shape, sample.pixels.dtype, sample.gsd_m) == (
            (bands, 32, 32),
            np.uint8,
            30.0,
        )


@both
def test_scenes_in_tar_files_give_the_same_samples(
    fixtures: Path, tmp_path: Path, name: str
) -> None:
    root = copy_containers(fixtures / name, tmp_path)
    options = {"patch_size": 16, "max_nodata": 1.0}
    assert_same(read_all(name, root, **options), read_all(name, fixtures / name / name, **options))


@both
def test_scene_tiles_are_the_windows_of_the_scene(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)
    samples = read_all(name, tmp_path, patch_size=16, max_nodata=1.0)
    assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
    assert len(samples) == 2 * 2 + 2 * 2 + 1 * 2  # full tiles of 35 x 40, 32 x 33, 16 x 32 pixels
    for sample in samples:
        folder, _, tile = sample.id.rpartition("/")
        row, column = map(int, tile.split("_"))
        image, mask = (tiny_archives.read(tmp_path / path) for path in SCENES[name][folder])
        np.testing.assert_array_equal(sample.pixels, image[:, row : row + 16, column : column + 16])
        np.testing.assert_array_equal(
            sample.labels["cloud"], mask[0, row : row + 16, column : column + 16]
        )
        assert sample.affine[2::3] == (366015 + 30 * column, 5809965 - 30 * row)
        assert (day(sample.time), sample.group, sample.product) == (
            DATES[folder],
            sample.id,
            folder.split("/")[0],
        )


def test_scene_tiles_of_real_landsat_pixels(sample_data: Path, tmp_path: Path) -> None:
    """Bands 1, 2, 3, 4, 5 and 7 of a real scene, three of them twice, on their real grid."""
    with rasterio.open(sample_data / "landsat" / "L7_ETM_olinda" / "L7_ETMs.tif") as file:
        scene, grid = (
            file.read()[[0, 1, 2, 3, 4, 5, 0, 1, 2]],
            {"crs": file.crs, "transform": file.transform},
        )
    image, mask = SCENES["l7irish"]["austral/p226_r98"]
    tiny_archives.write(
        tmp_path / image, scene, compress="lzw", tiled=True, blockxsize=64, blockysize=64, **grid
    )
    tiny_archives.write(tmp_path / mask, np.full((1, *scene.shape[1:]), 128, np.uint8), **grid)
    samples = read_all("l7irish", tmp_path, patch_size=128)
    tiles = {sample.id.rpartition("/")[2]: sample for sample in samples}
    assert sorted(tiles) == [
        "00000_00000",
        "00000_00128",
        "00128_00000",
        "00128_00128",
    ]  # of 352 x 349 pixels
    np.testing.assert_array_equal(tiles["00128_00000"].pixels, scene[:, 128:256, :128])
    assert samples[0].gsd_m == pytest.approx(28.5)
    assert samples[0].lonlat == pytest.approx((-34.9, -8.0), abs=0.1)  # Olinda


@both
def test_scene_classes_by_index(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)
    for raw, index in zip(
        *(read_all(name, tmp_path, classes=classes, patch_size=16) for classes in ("raw", "index")),
        strict=True,
    ):
        assert index.labels["cloud"].dtype == np.uint8
        np.testing.assert_array_equal(
            np.array([0, 64, 128, 192, 255])[index.labels["cloud"]], raw.labels["cloud"]
        )
    assert CLOUD_CODES == (0, 64, 128, 192, 255)


@both
def test_scene_tiles_of_fill_are_left_out(tmp_path: Path, name: str) -> None:
    reader = make_reader(name, tmp_path, **write(name, tmp_path))
    reasons, kept = set(), 0
    for item in reader.items():
        try:
            kept += (read_item(reader, item).labels["cloud"] > 0).any()
        except SkipSample as reason:
            reasons.add(str(reason))
            assert item.part == (0, 0)
    assert (kept, reasons) == (7, {"more than 90% fill (--max-nodata)"})


@both
def test_scene_code_that_is_not_a_class(tmp_path: Path, name: str) -> None:
    options = write(name, tmp_path)
    mask = next(iter(SCENES[name].values()))[1]
    shape = tiny_archives.read(tmp_path / mask).shape
    tiny_archives.write(tmp_path / mask, np.full(shape, 129, np.uint8))
    reject(name, tmp_path, mask, "code 129", "128", **options)


@both
@pytest.mark.parametrize("lost", [0, 1], ids=["image", "mask"])
def test_scene_incomplete(tmp_path: Path, name: str, lost: int) -> None:
    options = write(name, tmp_path)
    files = next(iter(SCENES[name].values()))
    (tmp_path / files[lost]).unlink()
    reject(name, tmp_path, files[1 - lost], "has no " + ("image", "cloud mask")[lost], **options)


@both
@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ((1, 35, 39), {}, ("35 x 39", "35 x 40")),
        ((1, 35, 40), {"crs": "EPSG:32632"}, ("EPSG:32632", "EPSG:32633")),
        (
            (1, 35, 40),
            {"transform": rasterio.Affine(30, 0, 366045, 0, -30, 5809965)},
            ("366045", "366015"),
        ),
    ],
    ids=["size", "crs", "shifted"],
)
def test_scene_mask_on_another_grid(
    tmp_path: Path, name: str, shape: tuple[int, ...], changes: dict, words: tuple[str, ...]
) -> None:
    options = write(name, tmp_path)
    image, mask = next(iter(SCENES[name].values()))
    tiny_archives.write(tmp_path / mask, np.full(shape, 128, np.uint8), **changes)
    reject(name, tmp_path, mask, image, *words, **options)


@both
def test_scene_with_other_bands(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)
    image = next(iter(SCENES[name].values()))[0]
    tiny_archives.write(tmp_path / image, np.ones((8, 35, 40), np.uint8))
    reject(name, tmp_path, image, "8 bands", patch_size=16)


@both
def test_scene_smaller_than_a_tile(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)
    reject(name, tmp_path, "too few for a tile of 256 x 256", "--patch-size")


def test_l7irish_mask_of_another_path(tmp_path: Path) -> None:
    options = write("l7irish", tmp_path)
    mask = tmp_path / "austral/p226_r98/L7_p226_r98_newmask2015.TIF"
    mask.rename(mask.with_name("L7_p227_r98_newmask2015.TIF"))
    reject(
        "l7irish",
        tmp_path,
        "austral/p226_r98/L71226098_09820011112.TIF",
        "no cloud mask",
        **options,
    )


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        (
            "l7irish",
            "austral/p226_r98/L71226098_09720011112.TIF",
            ("is not a file of this archive",),
        ),
        ("l7irish", "austral/p1_r98/L71226098_09820011312.TIF", ("no cloud mask",)),
        (
            "l7irish",
            "p226_r98/L71226098_09820011112.TIF",
            ("is not a file of this archive", "<biome>/p226_r98"),
        ),
        (
            "l8biome",
            "barren/LC80420082013220LGN00/LC80420082013221LGN00.TIF",
            ("is not a file of this archive",),
        ),
        ("l8biome", "barren/LC80420082013220LGN00/BQA.TIF", ("is not a file of this archive",)),
    ],
)
def test_scene_files_that_do_not_belong_there(
    tmp_path: Path, name: str, file: str, words: tuple[str, ...]
) -> None:
    options = write(name, tmp_path)
    tiny_archives.write(tmp_path / file, np.ones((1, 16, 16), np.uint8))
    reject(name, tmp_path, file, *words, **options)


@pytest.mark.parametrize(
    ("name", "image", "mask"),
    [
        (
            "l7irish",
            "tropical/p1_r2/L71001002_00220011312.TIF",
            "tropical/p1_r2/L7_p1_r2_newmask2015.TIF",
        ),
        (
            "l8biome",
            "urban/LC80420082013400LGN00/LC80420082013400LGN00.TIF",
            "urban/LC80420082013400LGN00/LC80420082013400LGN00_fixedmask.TIF",
        ),
    ],
)
def test_scene_name_without_a_date(tmp_path: Path, name: str, image: str, mask: str) -> None:
    l7irish.write_scene(tmp_path / image, tmp_path / mask, 9, (16, 16))
    reject(name, tmp_path, image, "no date", patch_size=16)
