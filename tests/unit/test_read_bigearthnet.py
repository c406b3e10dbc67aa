"""BigEarthNet, both versions: bands as in their files, labels and splits from the published lists,
S1 and S2 of a location in one group.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import bigearthnet, make_reader, read_all, read_item, reject, write

from data_prep.reader import SkipSample
from data_prep.readers import _clc_labels, _corine
from tests import tiny_archives

BEN = "bigearthnet"
NAMES = {_clc_labels.NAMES_19: "multilabel", _clc_labels.NAMES_43: "multilabel_43"}


def test_real_patches_as_rasterio_reads_them(sample_data: Path) -> None:
    """Three files of three patches: an S1 patch and an S2 patch that are not a pair, and the map of
    a third.
    """
    root = sample_data / "sentinel" / "BigEarthNet_v2"
    radar, optical = read_all(BEN, root, resample="nearest")
    folders = {patch.name: patch for patch in root.glob("BigEarthNet-S?/*/*")}
    for sample in (radar, optical):
        patch = sample.id.split("/")[1]
        bands = bigearthnet.S2 if len(sample.pixels) == 12 else bigearthnet.S1
        for band, plane in zip(bands, sample.pixels, strict=True):
            original, factor = (
                tiny_archives.read(folders[patch] / f"{patch}_{band}.tif")[0],
                bigearthnet.PIXELS.get(band, 2),
            )
            assert plane.dtype == original.dtype
            np.testing.assert_array_equal(
                plane, np.kron(original, np.ones((factor, factor), original.dtype))
            )
    assert (radar.group, optical.group) == ("33UUP_70_48", "33UUP_75_43")
    assert (radar.pixels.shape, optical.pixels.shape) == ((2, 120, 120), (12, 120, 120))
    assert optical.lonlat == pytest.approx((13.52, 48.28), abs=0.01)
    assert (optical.time, optical.gsd_m, optical.crs, optical.labels) == (
        1497348631,
        10.0,
        "EPSG:32633",
        {},
    )  # 2017-06-13T10:10:31Z
    assert (optical.product, radar.product) == (bigearthnet.TILE, bigearthnet.SCENE)


def test_labels_splits_and_pairs_of_version_2(tmp_path: Path) -> None:
    options = write(BEN, tmp_path)
    reader = make_reader(BEN, tmp_path, **options)
    items = reader.items()
    assert {item.group: item.split for item in items} == {
        "33UUP_26_57": "train",
        "33UUP_75_43": "val",
        "33UUP_8_9": "test",
    }
    for item in items:
        sample, location = read_item(reader, item), item.group.removeprefix("33UUP_")
        expected = [_clc_labels.NAMES_19.index(name) for name in bigearthnet.LABELS[location]]
        assert sample.labels["multilabel"].dtype == np.uint8
        assert sorted(np.flatnonzero(sample.labels["multilabel"])) == sorted(expected)
        patch = f"{bigearthnet.TILE}_{location}"  # S1 patches have the map of their S2 patch
        original = tiny_archives.read(
            tmp_path / "Reference_Maps" / bigearthnet.TILE / patch / f"{patch}_reference_map.tif"
        )[0]
        np.testing.assert_array_equal(sample.labels["landcover"], original)


def test_patches_in_no_list_are_skipped(tmp_path: Path) -> None:
    options = write(BEN, tmp_path)
    bigearthnet.write_location(tmp_path, "70_48")
    reader = make_reader(BEN, tmp_path, **options)
    unlisted = [item for item in reader.items() if item.group == "33UUP_70_48"]
    assert len(unlisted) == 2
    for item in unlisted:
        with pytest.raises(SkipSample, match="none of the split lists"):
            read_item(reader, item)
    assert len(read_all(BEN, tmp_path, splits="none")) == 8
    assert {item.split for item in make_reader(BEN, tmp_path, splits="none").items()} == {None}


def test_metadata_pair_patches_that_are_named_otherwise(tmp_path: Path) -> None:
    write(BEN, tmp_path)
    metadata = tmp_path / "metadata.csv"
    one, two = (f"{bigearthnet.SCENE}_33UUP_{location}" for location in ("26_57", "75_43"))
    metadata.write_text(
        metadata.read_text().replace(one, "x").replace(two, one).replace("x\n", f"{two}\n")
    )
    groups = {item.id.split("/")[1]: item.group for item in make_reader(BEN, tmp_path).items()}
    assert (groups[one], groups[two]) == ("33UUP_75_43", "33UUP_26_57")


def test_no_data_of_bigearthnet_is_0_and_stays_so(tmp_path: Path) -> None:
    write(BEN, tmp_path)
    patch = f"{bigearthnet.TILE}_8_9"
    coarse = np.full((1, 6, 6), 500, np.uint16)
    coarse[0, 0, 0] = 0
    folder = tmp_path / "BigEarthNet-S2" / bigearthnet.TILE / patch
    tiny_archives.write(folder / f"{patch}_B11.tif", coarse, nodata=0, **bigearthnet.grid(2, "8_9"))
    reader = make_reader(BEN, tmp_path, products=("s2",))
    sample = next(read_item(reader, item) for item in reader.items() if item.group == "33UUP_8_9")
    assert sample.sensor == "sentinel2_l2a_bigearthnet"
    assert {row.id: row.nodata for row in reader.sensors}[sample.sensor] == 0
    assert set(np.unique(sample.pixels[10]).tolist()) == {0, 500}
    for path in folder.glob("*.tif"):
        tiny_archives.write(
            path,
            tiny_archives.read(path) * 0,
            nodata=0,
            **bigearthnet.grid(12 // tiny_archives.read(path).shape[1], "8_9"),
        )
    reject(BEN, tmp_path, patch, "every pixel of every band is no-data", products=("s2",))


def test_version_1(tmp_path: Path) -> None:
    bigearthnet.write_v1(tmp_path)
    samples = read_all(BEN, tmp_path, labels=("multilabel",))
    items = make_reader(BEN, tmp_path).items()
    assert [item.split for item in items] == ["train", "train", "test", "test"]
    assert [sample.group for sample in samples] == [f"{bigearthnet.V1_S2}_4_55"] * 2 + [
        f"{bigearthnet.V1_S2}_5_6"
    ] * 2
    names_19, names_43 = (
        [name for name, has in zip(names, samples[0].labels[label], strict=True) if has]
        for names, label in NAMES.items()
    )
    assert names_19 == ["Pastures", "Marine waters"]
    assert names_43 == ["Airports", "Pastures", "Sea and ocean"]
    assert samples[2].labels["multilabel"].tolist() == [0] * 19  # airports are not among the 19
    assert [sample.time for sample in samples[:2]] == [
        1497682044,
        1497699201,
    ]  # 06:47:24 of S1, 11:33:21 of S2


def test_every_class_of_43_goes_where_bigearthnet_puts_it() -> None:
    """The mapping of BigEarthNet-19, class of 43 -> class of 19."""
    published = {
        0: 0,
        1: 0,
        2: 1,
        11: 2,
        12: 2,
        13: 2,
        14: 3,
        15: 3,
        16: 3,
        18: 3,
        17: 4,
        19: 5,
        20: 6,
        21: 7,
        22: 8,
        23: 9,
        24: 10,
        25: 11,
        31: 11,
    }
    published |= {
        26: 12,
        27: 12,
        28: 13,
        29: 14,
        33: 15,
        34: 15,
        35: 16,
        36: 16,
        38: 17,
        39: 17,
        40: 18,
        41: 18,
        42: 18,
    }
    assert (len(_clc_labels.NAMES_43), len(_clc_labels.NAMES_19)) == (
        len(_corine.CODES),
        len(_corine.CLASSES_19),
    )
    for index, name in enumerate(_clc_labels.NAMES_43):
        found = np.flatnonzero(_clc_labels.labels_of_43("x", [name])["multilabel"]).tolist()
        assert found == ([published[index]] if index in published else []), name


def test_native_grids_have_the_map_on_10_m_only(tmp_path: Path) -> None:
    samples = read_all(BEN, tmp_path, resample="native", products=("s2",), **write(BEN, tmp_path))
    assert [sample.pixels.shape for sample in samples[:3]] == [(4, 12, 12), (6, 6, 6), (2, 2, 2)]
    assert [sorted(sample.labels) for sample in samples[:3]] == [
        ["landcover", "multilabel"],
        ["multilabel"],
        ["multilabel"],
    ]
    assert samples[0].sensor == "sentinel2_l2a_bigearthnet_10m"


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "Arable land;Urban fabric",
            "['Arable land' 'Urban fabric']",
            ("semicolons", "read_parquet"),
        ),
        ("Marine waters", "Marine water", ("'Marine water'", "BigEarthNet's 19")),
        ("validation", "dev", ("'dev'", "train, validation")),
        ("s1_name", "s1", ("no column s1_name",)),
        (bigearthnet.TILE + "_26_57", bigearthnet.TILE + "_75_43", ("twice",)),
        (bigearthnet.TILE + "_26_57", "../../etc_1_1", ("as the S2 patch", "'../../etc_1_1'")),
        (",train,", ',"tra\0in,', ("metadata.csv",)),
    ],
    ids=["labels of numpy", "no class", "no split", "no column", "twice", "no patch", "no csv"],
)
def test_wrong_metadata(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    write(BEN, tmp_path)
    replace(tmp_path / "metadata.csv", old, new)
    reject(BEN, tmp_path, "metadata.csv", *words)


def test_metadata_as_parquet_only(tmp_path: Path) -> None:
    options = write(BEN, tmp_path)
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.parquet")
    reject(BEN, tmp_path, "metadata.parquet", "python -c", "to_csv", "--splits none")
    reject(
        BEN,
        tmp_path,
        "metadata.csv",
        "--splits none",
        "--labels multilabel",
        splits="none",
        **options,
    )
    assert len(read_all(BEN, tmp_path, splits="none")) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("is not JSON",)),
        ("[" * 100_000, ("is not JSON",)),
        ('{"labels": []}', ("no 'corresponding_s2_patch'",)),
        ('{"labels": [], "corresponding_s2_patch": 5}', ("is '5'",)),
        ('{"labels": [], "corresponding_s2_patch": "../x"}', ("'../x'", "expected a name such as")),
        (
            '{"labels": "Pastures", "corresponding_s2_patch": "S2A_MSIL2A_20170617T113321_4_55"}',
            ("labels is 'Pastures'",),
        ),
        (
            '{"labels": ["Pasture"], "corresponding_s2_patch": "S2A_MSIL2A_20170617T113321_4_55"}',
            ("'Pasture'", "BigEarthNet's 43"),
        ),
    ],
    ids=["no json", "deep", "no pair", "a number", "a path", "no list", "no class"],
)
def test_wrong_json_of_version_1(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    bigearthnet.write_v1(tmp_path)
    name = f"{bigearthnet.V1_S1}_4_55"
    (tmp_path / "BigEarthNet-S1-v1.0" / name / f"{name}_labels_metadata.json").write_text(text)
    reject(
        BEN,
        tmp_path,
        f"{name}_labels_metadata.json",
        *words,
        labels=("multilabel",),
        products=("s1",),
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    reject(BEN, tmp_path, "BigEarthNet-S2", "no such folder", "BigEarthNet-v1.0")
    options = write(BEN, tmp_path)
    patch = f"{bigearthnet.TILE}_8_9"
    path = tmp_path / "Reference_Maps" / bigearthnet.TILE / patch / f"{patch}_reference_map.tif"
    path.unlink()
    reject(BEN, tmp_path, path.name, "no such file", "--labels landcover", **options)
    (tmp_path / "metadata.csv").unlink()
    reject(BEN, tmp_path, "has no S2 patch for it", labels=("landcover",), products=("s1",))
    bigearthnet.write_v1(tmp_path)
    reject(BEN, tmp_path, "version 2", "version 1", "convert them separately")


def test_version_1_has_no_maps_and_a_patch_is_in_one_list(tmp_path: Path) -> None:
    bigearthnet.write_v1(tmp_path)
    reject(BEN, tmp_path, "BigEarthNet-v1.0", "no reference maps", labels=("landcover",))
    (tmp_path / "val.csv").write_text((tmp_path / "train.csv").read_text())
    reject(BEN, tmp_path, "val.csv", "already in 'train'")


@pytest.mark.parametrize(
    "name",
    [
        "x.tif",
        f"{bigearthnet.TILE}/{bigearthnet.TILE}_1_1/x_B01.tif",
        f"{bigearthnet.TILE}_1_1/{bigearthnet.TILE}_1_1_B01.tif",
    ],
)
def test_file_in_another_folder(tmp_path: Path, name: str) -> None:
    write(BEN, tmp_path)
    tiny_archives.write(tmp_path / "BigEarthNet-S2" / name, np.ones((1, 2, 2), np.uint16))
    reject(BEN, tmp_path, f"BigEarthNet-S2/{name}", "is not at BigEarthNet-S2")
