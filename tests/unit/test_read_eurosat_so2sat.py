"""EuroSAT and So2Sat LCZ42: real chips as read by rasterio, patches as read by h5py, and refused
files.
"""

from __future__ import annotations

import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny_archives
from layouts import eurosat, make_reader, read_all, read_item, reject, so2sat, write

from data_prep.archive import ArchiveError
from data_prep.formats import hdf5
from data_prep.readers.eurosat import CLASSES
from eo_jax.sensors import get_sensor

B8A_AT_INDEX_8 = [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11]


# ------------------------------------------------------------------ EuroSAT


def test_real_eurosat_chips_as_rasterio_reads_them(sample_data: Path) -> None:
    root = sample_data / "sentinel" / "EuroSAT_MS"
    crop, sea = read_all("eurosat", root)
    for sample, label in ((crop, 1), (sea, 10)):
        np.testing.assert_array_equal(
            sample.pixels, tiny_archives.read(root / f"{sample.id}.tif")[B8A_AT_INDEX_8]
        )
        assert (sample.pixels.dtype, sample.pixels.shape, sample.sensor) == (
            np.uint16,
            (13, 64, 64),
            "sentinel2_l1c",
        )
        assert (
            sample.labels["class"].dtype,
            sample.labels["class"].shape,
            int(sample.labels["class"]),
        ) == (np.int64, (), label)
    assert (crop.id, crop.group, crop.crs, crop.time) == (
        "AnnualCrop/AnnualCrop_1",
        crop.id,
        "EPSG:32635",
        None,
    )
    assert crop.gsd_m == pytest.approx(10, abs=0.01)


def test_real_eurosat_spectra_show_that_B8A_is_at_index_8(sample_data: Path) -> None:
    """Properties of every L1C spectrum: near nothing in cirrus (B10), near infrared of land lowest
    in water vapour, B8A like B8.
    """
    names = [band.name for band in get_sensor("sentinel2_l1c").bands]
    assert (names[7:11], names[12]) == (["B8", "B8A", "B9", "B10"], "B12")
    crop, sea = (
        sample.pixels.mean((1, 2))
        for sample in read_all("eurosat", sample_data / "sentinel" / "EuroSAT_MS")
    )
    for mean in (crop, sea):
        assert mean.argmin() == 10
    assert abs(crop[8] - crop[7]) < 0.2 * crop[7]
    assert crop[9] < 0.6 * crop[8]
    assert sea[8] < sea[1]


def test_eurosat_file_order_is_B01_to_B12_then_B8A(tmp_path: Path) -> None:
    write("eurosat", tmp_path)
    names = [band.name for band in get_sensor("sentinel2_l1c").bands]
    for sample in read_all("eurosat", tmp_path):
        assert [eurosat.FILE_ORDER[band] for band in sample.pixels[:, 0, 0] // 1000] == names


def test_eurosat_labels_are_positions_from_1_in_the_ten_published_classes(tmp_path: Path) -> None:
    assert list(CLASSES) == sorted(CLASSES)
    assert len(CLASSES) == 10
    write("eurosat", tmp_path)
    found = {
        sample.id.split("/")[0]: int(sample.labels["class"])
        for sample in read_all("eurosat", tmp_path)
    }
    assert found == {
        "AnnualCrop": 1,
        "Highway": 4,
        "River": 9,
        "SeaLake": 10,
    }  # although only four are present; 0 would be unlabelled


def test_eurosat_fixture_zip_as_downloaded_gives_the_same_samples(
    sample_data: Path, tmp_path: Path
) -> None:
    root = sample_data / "torchgeo_fixtures_SYNTHETIC" / "eurosat"
    shutil.copy(root / "EuroSATallBands.zip", tmp_path)
    extracted, zipped = read_all("eurosat", root), read_all("eurosat", tmp_path)
    assert [sample.id for sample in zipped] == ["AnnualCrop/AnnualCrop_1", "Forest/Forest_1"]
    for one, other in zip(extracted, zipped, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.id, one.affine, int(one.labels["class"])) == (
            other.id,
            other.affine,
            int(other.labels["class"]),
        )
        np.testing.assert_array_equal(
            one.pixels, tiny_archives.read(next(root.rglob(f"{one.id}.tif")))[B8A_AT_INDEX_8]
        )


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize(("splits", "kind"), [("random", ""), ("spatial", "spatial-")])
def test_eurosat_split_lists_name_jpg_or_tif(
    tmp_path: Path, splits: str, kind: str, suffix: str
) -> None:
    write("eurosat", tmp_path)
    expected = {}
    for path in tmp_path.glob("*.txt"):
        path.write_text(path.read_text().replace(".jpg", suffix))
    for split in ("train", "val", "test"):
        lines = (tmp_path / f"eurosat-{kind}{split}.txt").read_text().split()
        expected |= {f"{line.split('_')[0]}/{line.removesuffix(suffix)}": split for line in lines}
    items = make_reader("eurosat", tmp_path, splits=splits).items()
    assert {item.id: item.split for item in items} == expected
    assert len({item.split for item in items}) == 3


def test_eurosat_without_lists(tmp_path: Path) -> None:
    write("eurosat", tmp_path)
    assert {item.split for item in make_reader("eurosat", tmp_path).items()} == {None}
    reject("eurosat", tmp_path, "eurosat-100-train.txt", "--splits 100", splits="100")
    (tmp_path / "eurosat-val.txt").unlink()
    reject("eurosat", tmp_path, "eurosat-val.txt", "no such list", splits="random")


def test_eurosat_lists_that_contradict(tmp_path: Path) -> None:
    write("eurosat", tmp_path)
    path = tmp_path / "eurosat-val.txt"
    lines = path.read_text()
    path.write_text(lines.partition("\n")[2])
    reject("eurosat", tmp_path, "in no split list", splits="random")
    path.write_text(lines + "AnnualCrop_1.jpg\n")
    reject("eurosat", tmp_path, "eurosat-val.txt", "'AnnualCrop_1.jpg'", "also in", splits="random")
    path.write_text(lines + "AnnualCrop_9.jpg\n")
    reject("eurosat", tmp_path, "eurosat-val.txt", "'AnnualCrop_9.jpg'", splits="random")


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.ones((12, 64, 64), np.uint16), ("12 bands", "13")),
        (np.ones((13, 64, 64), np.int16), ("int16", "uint16")),
        (np.ones((13, 64, 63), np.uint16), ("64 x 63", "64 x 64")),
    ],
    ids=["bands", "dtype", "shape"],
)
def test_eurosat_wrong_images(tmp_path: Path, pixels: np.ndarray, words: tuple[str, ...]) -> None:
    tiny_archives.write(tmp_path / "River" / "River_7.tif", pixels)
    reject("eurosat", tmp_path, "River/River_7.tif", *words)


@pytest.mark.parametrize(
    "name", ["Lake/Lake_1.tif", "River/SeaLake_1.tif", "River_1.tif", "River/River.tif"]
)
def test_eurosat_files_that_are_not_its_images(tmp_path: Path, name: str) -> None:
    tiny_archives.write(tmp_path / name, np.ones((13, 64, 64), np.uint16))
    reject("eurosat", tmp_path, name, "is not a EuroSAT image")


def test_eurosat_same_image_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        tiny_archives.write(
            tmp_path / folder / "River" / "River_1.tif", np.ones((13, 64, 64), np.uint16)
        )
    reject("eurosat", tmp_path, "b/River/River_1.tif", "a/River/River_1.tif")


# ------------------------------------------------------------------ So2Sat LCZ42


def test_so2sat_patches_as_h5py_reads_them(tmp_path: Path) -> None:
    write("so2sat", tmp_path)
    samples = read_all("so2sat", tmp_path)
    assert [sample.id for sample in samples] == [
        f"{part}/{n:07}" for part, count in sorted(so2sat.COUNTS.items()) for n in range(count)
    ]
    for sample in samples:
        part, number = sample.id.split("/")
        with h5py.File(tmp_path / f"{part}.h5", "r") as file:
            np.testing.assert_array_equal(
                sample.pixels, file["sen2"][int(number)].transpose(2, 0, 1)
            )
            assert (
                file["label"][int(number)][sample.labels["class"] - 1] == 1
            )  # zones count from 1: 0 would be unlabelled
        assert (sample.labels["class"].dtype, sample.labels["class"].shape) == (np.int64, ())
        assert (sample.pixels.dtype, sample.sensor, sample.group) == (
            np.float64,
            "sentinel2_so2sat_float64",
            sample.id,
        )


def test_so2sat_has_ten_bands_and_zeros_for_none(tmp_path: Path) -> None:
    """Code that needs 13 bands puts zeros at B1, B9 and B10; here they are absent."""
    write("so2sat", tmp_path)
    reader = make_reader("so2sat", tmp_path)
    assert [[band.name for band in row.bands] for row in reader.sensors] == [
        ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]
    ] * 2
    for sample in read_all("so2sat", tmp_path):
        np.testing.assert_array_equal(
            (sample.pixels * 100).astype(int),
            np.broadcast_to(np.arange(1, 11)[:, None, None], (10, 32, 32)),
        )


def test_so2sat_splits_are_the_files(tmp_path: Path) -> None:
    write("so2sat", tmp_path)
    splits = {item.id.split("/")[0]: item.split for item in make_reader("so2sat", tmp_path).items()}
    assert splits == {"training": "train", "validation": "val", "testing": "test"}
    for name in ("training.h5", "testing.h5"):
        (tmp_path / name).unlink()
    assert [item.split for item in make_reader("so2sat", tmp_path).items()] == ["val", "val"]


@pytest.mark.parametrize(
    ("stored", "sensor"), [("<f4", "sentinel2_so2sat"), (">f8", "sentinel2_so2sat_float64")]
)
def test_so2sat_keeps_the_dtype_of_the_file(tmp_path: Path, stored: str, sensor: str) -> None:
    sen2 = so2sat.patches(1).astype(stored)
    so2sat.write_file(
        tmp_path / "testing.h5",
        sen2,
        np.eye(17)[[16]],
        compression="gzip",
        shuffle=True,
        fletcher32=True,
    )
    (sample,) = read_all("so2sat", tmp_path)
    np.testing.assert_array_equal(sample.pixels, sen2[0].transpose(2, 0, 1))
    assert (sample.pixels.dtype.name, sample.sensor) == (np.dtype(stored).name, sensor)
    assert sample.pixels.dtype.isnative


def changed(value: float) -> np.ndarray:
    sen2 = so2sat.patches(2)
    sen2[1, 3, 4, 5] = value
    return sen2


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "nan"), (np.inf, "inf"), (-0.1, "-0.1"), (1423, "1423")]
)
def test_so2sat_values_that_are_not_reflectance(tmp_path: Path, value: float, words: str) -> None:
    so2sat.write_file(tmp_path / "testing.h5", changed(value), np.eye(17)[:2])
    reject(
        "so2sat",
        tmp_path,
        "testing.h5",
        f"has {words} in patch 1, band 6, row 3, column 4",
        "6.5535",
    )


@pytest.mark.parametrize(
    "row", [np.zeros(17), np.ones(17), np.eye(17)[3] * 2, np.eye(17)[3] / 2, np.full(17, np.nan)]
)
def test_so2sat_label_that_is_not_one_hot(tmp_path: Path, row: np.ndarray) -> None:
    so2sat.write_file(tmp_path / "testing.h5", so2sat.patches(2), np.stack([np.eye(17)[0], row]))
    reject("so2sat", tmp_path, "testing.h5", "label of patch 1", "expected one 1")


@pytest.mark.parametrize(
    ("sen2", "label", "words"),
    [
        (
            so2sat.patches(2)[..., :9],
            np.eye(17)[:2],
            ("sen2", "(2, 32, 32, 9)", "n x 32 x 32 x 10"),
        ),
        (so2sat.patches(2).transpose(0, 3, 1, 2), np.eye(17)[:2], ("sen2", "(2, 10, 32, 32)")),
        (so2sat.patches(2), np.eye(17)[:2, :16], ("label", "(2, 16)", "n x 17")),
        (so2sat.patches(2), np.eye(17)[:1], ("2 patches", "label 1")),
        (so2sat.patches(2)[:0], np.eye(17)[:0], ("(0, 32, 32, 10)",)),
        (
            (so2sat.patches(2) * 10_000).astype(np.uint16),
            np.eye(17)[:2],
            ("uint16", "float32 or float64"),
        ),
        (so2sat.patches(2).astype(np.float16), np.eye(17)[:2], ("float16",)),
        (so2sat.patches(2).astype(complex), np.eye(17)[:2], ("complex128", "numbers")),
    ],
    ids=["bands", "planar", "classes", "counts", "empty", "integers", "half", "complex"],
)
def test_so2sat_wrong_datasets(
    tmp_path: Path, sen2: np.ndarray, label: np.ndarray, words: tuple[str, ...]
) -> None:
    so2sat.write_file(tmp_path / "training.h5", sen2, label)
    reject("so2sat", tmp_path, "training.h5", *words)


def _external_link(file: h5py.File) -> None:
    file["sen2"] = h5py.ExternalLink("elsewhere.h5", "/sen2")


def _soft_link(file: h5py.File) -> None:
    file["other"] = so2sat.patches(1)
    file["sen2"] = h5py.SoftLink("/other")


def _external_storage(file: h5py.File) -> None:
    file.create_dataset(
        "sen2", (1, 32, 32, 10), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1, 32, 32, 10), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "sen2", (1, 32, 32, 10))
    file.create_virtual_dataset("sen2", layout)


def _objects(file: h5py.File) -> None:
    file.create_dataset("sen2", (1, 32, 32, 10), h5py.string_dtype())


def _group(file: h5py.File) -> None:
    file.create_group("sen2")


def _too_many(file: h5py.File) -> None:
    file.create_dataset("sen2", (10**9, 32, 32, 10), "f8", chunks=(1, 32, 32, 10))


def _large_chunks(file: h5py.File) -> None:
    file.create_dataset(
        "sen2", (10_000, 32, 32, 10), "f8", chunks=(10_000, 32, 32, 10), compression="gzip"
    )


def _lzf(file: h5py.File) -> None:
    file.create_dataset("sen2", (1, 32, 32, 10), "f8", compression="lzf")


def _deflate_twice(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((1, 32, 32, 10))
    created.set_deflate(9)
    created.set_deflate(9)
    h5py.h5d.create(
        file.id, b"sen2", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((1, 32, 32, 10)), created
    )


def _filter(file: h5py.File) -> None:
    file.create_dataset("sen2", (1, 32, 32, 10), "f8", scaleoffset=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_external_link, ("no dataset 'sen2' of its own",)),
        (_soft_link, ("no dataset 'sen2' of its own",)),
        (_external_storage, ("sen2 has its data in other files",)),
        (_virtual, ("sen2 has its data in other files",)),
        (_objects, ("sen2 is object",)),
        (_group, ("sen2",)),
        (_too_many, ("(1000000000, 32, 32, 10)",)),
        (_large_chunks, ("chunks of 819 MB",)),
        (_filter, ("HDF5 filters [6]",)),
        (_lzf, ("HDF5 filters [32000]",)),
        (_deflate_twice, ("HDF5 filters [1, 1]",)),
        (lambda file: None, ("no dataset 'sen2'",)),
    ],
)
def test_so2sat_file_that_reaches_out_or_claims_too_much(
    tmp_path: Path, make: Callable[[h5py.File], None], words: tuple[str, ...]
) -> None:
    with h5py.File(tmp_path / "training.h5", "w") as file:
        file["label"] = np.eye(17)[:1]
        make(file)
    reject("so2sat", tmp_path, "training.h5", *words)


@pytest.mark.parametrize("key", ["sen2", "label"])
def test_so2sat_bomb_in_a_chunk(tmp_path: Path, key: str) -> None:
    """Patches in other chunks can still be read."""
    shapes = {"sen2": (2, 32, 32, 10), "label": (2, 17)}
    so2sat.write_file(tmp_path / "testing.h5", so2sat.patches(4), np.eye(17)[:4])
    with h5py.File(tmp_path / "testing.h5", "r+") as file:
        data = file[key][()]
        del file[key]
        file.create_dataset(key, data=data, compression="gzip", chunks=shapes[key])
        file[key].id.write_direct_chunk(
            (2, *[0] * (data.ndim - 1)), zlib.compress(bytes(100_000_000), 9)
        )
    reader = make_reader("so2sat", tmp_path)
    good, other, *bad = reader.items()
    np.testing.assert_array_equal(
        read_item(reader, good).pixels, so2sat.patches(4)[0].transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(
        read_item(reader, other).pixels, so2sat.patches(4)[1].transpose(2, 0, 1)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for item in bad:
        with pytest.raises(
            ArchiveError, match=rf"testing.h5: the chunk of {key} at \[2, 0.*expected"
        ):
            read_item(reader, item)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_so2sat_chunks_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of the same file are checked once; a file replaced under its name is checked again."""
    checked, check = [], hdf5.check_chunks
    monkeypatch.setattr(
        hdf5,
        "check_chunks",
        lambda name, dataset, rows: (
            checked.append((dataset.name, rows.start)),
            check(name, dataset, rows),
        ),
    )
    for seed in (6, 5):
        so2sat.write_file(
            tmp_path / "testing.h5", so2sat.patches(seed), np.eye(17)[:seed], chunks=True
        )
        with h5py.File(tmp_path / "testing.h5", "r+") as file:
            for key, chunks in (("sen2", (3, 32, 32, 10)), ("label", (3, 17))):
                data = file[key][()]
                del file[key]
                file.create_dataset(key, data=data, compression="gzip", chunks=chunks)
        read_all("so2sat", tmp_path)
        assert sorted(checked) == [("/label", 0), ("/label", 3), ("/sen2", 0), ("/sen2", 3)]
        checked.clear()


def test_so2sat_truncated_anywhere(tmp_path: Path) -> None:
    so2sat.write_file(tmp_path / "whole", so2sat.patches(3), np.eye(17)[:3])
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    for size in (0, 8, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "training.h5").write_bytes(data[:size])
        reject("so2sat", tmp_path, "training.h5", "cannot be read as HDF5")


def test_so2sat_other_files(tmp_path: Path) -> None:
    reject("so2sat", tmp_path, "training.h5, validation.h5, testing.h5")
    so2sat.write_file(tmp_path / "training_geo.h5", so2sat.patches(1), np.eye(17)[:1])
    reject("so2sat", tmp_path, "training_geo.h5", "is not a file of So2Sat")


def test_so2sat_same_split_twice(tmp_path: Path) -> None:
    for folder in ("v2", "v3"):
        (tmp_path / folder).mkdir()
        so2sat.write_file(tmp_path / folder / "testing.h5", so2sat.patches(1), np.eye(17)[:1])
    reject("so2sat", tmp_path, "v3/testing.h5", "v2/testing.h5")
