"""SpectralEarth's downstream tasks and HYPERVIEW: pixels and codes as in the files, and the
published labels.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layouts import hyperview, make_reader, read_all, reject, write
from layouts.spectral_earth_downstream import BANDS, SPLITS, write_lists, write_task

from data_prep.archive import ArchiveError
from data_prep.formats import npyzip
from data_prep.formats.dtype_rows import rows_by_dtype
from data_prep.readers import _corine
from data_prep.readers.spectral_earth_downstream import TASKS
from eo_jax.sensors import ENMAP, get_sensor
from tests import tiny_archives

DOWNSTREAM = "spectral-earth-downstream"
CDL = {"task": "enmap_cdl"}


def tiff(root: Path, folder: str, sample_id: str) -> np.ndarray:
    return tiny_archives.read(root / folder / f"{sample_id}.tif")


# ------------------------------------------------------------------ SpectralEarth downstream


def test_cubes_and_codes_are_those_of_the_files(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    samples = read_all(DOWNSTREAM, tmp_path, **options)
    assert len(samples) == 5
    for sample in samples:
        np.testing.assert_array_equal(sample.pixels, tiff(tmp_path, "enmap_cdl/enmap", sample.id))
        np.testing.assert_array_equal(
            sample.labels["cdl"], tiff(tmp_path, "enmap_cdl/cdl", sample.id)[0]
        )
        assert (sample.sensor, sample.pixels.dtype, sample.group) == (
            "enmap",
            np.int16,
            sample.id.split("/")[0],
        )


def test_class_is_the_position_in_the_published_list(tmp_path: Path) -> None:
    write_task(tmp_path, "enmap_cdl", codes=(0, 1, 45, 210, 121, 255))
    sample = read_all(DOWNSTREAM, tmp_path, **CDL)[0]
    np.testing.assert_array_equal(
        sample.labels["class"].ravel()[:6], [0, 1, 7, 14, 0, 0]
    )  # 0: the background, unlabelled
    assert sample.labels["class"].dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint32", "int64", "float64"])
def test_eurocrops_codes_exceed_int32_and_stay_exact(tmp_path: Path, dtype: str) -> None:
    codes = TASKS["enmap_eurocrops"].codes
    write_task(tmp_path, "enmap_eurocrops", codes=(0, *codes), mask_dtype=dtype)
    for sample in read_all(DOWNSTREAM, tmp_path, task="enmap_eurocrops"):
        assert sample.labels["eurocrops"].ravel()[:16].tolist() == [0, *codes]
        assert sample.labels["eurocrops"].dtype == ("uint32" if dtype == "uint32" else "int64")
        assert sample.labels["class"].ravel()[:16].tolist() == [0, *range(1, 16)]


def test_eurocrops_codes_in_float32_are_an_error(tmp_path: Path) -> None:
    """float32 has 24 bits, so 3301090205 and 3301090303 would both come back as 3301090304."""
    write_task(
        tmp_path, "enmap_eurocrops", codes=TASKS["enmap_eurocrops"].codes, mask_dtype="float32"
    )
    reject(
        DOWNSTREAM,
        tmp_path,
        "enmap_eurocrops/eurocrops/0000010/00001.tif",
        "too large",
        task="enmap_eurocrops",
    )


def test_published_numbers_of_classes() -> None:
    counts = {
        "enmap_cdl": 14,
        "enmap_nlcd": 15,
        "enmap_corine": 0,
        "enmap_bdforet": 12,
        "enmap_bnetd": 10,
    }
    counts |= {"enmap_eurocrops": 15, "enmap_treemap": 24, "desis_cdl": 14, "eo1_cdl": 14}
    assert {name: len(set(task.codes)) for name, task in TASKS.items()} == counts


def test_corine_19_drops_what_has_no_class(tmp_path: Path) -> None:
    write_task(
        tmp_path, "enmap_corine", codes=(111, 112, 333, 523, 122, 335, 0), mask_dtype="uint16"
    )
    sample = read_all(DOWNSTREAM, tmp_path, task="enmap_corine")[0]
    np.testing.assert_array_equal(
        np.flatnonzero(sample.labels["multilabel"]), [0, 11, 18]
    )  # urban fabric, sparsely vegetated, marine waters
    assert (sample.labels["multilabel"].dtype, len(sample.labels["multilabel"])) == (np.uint8, 19)
    assert set(np.unique(sample.labels["corine"])) == {0, 111, 112, 122, 333, 335, 523}
    assert "class" not in sample.labels


def test_corine_43(tmp_path: Path) -> None:
    write_task(tmp_path, "enmap_corine", codes=(111, 122, 335, 523), mask_dtype="uint16")
    sample = read_all(DOWNSTREAM, tmp_path, task="enmap_corine", corine_classes="43")[0]
    np.testing.assert_array_equal(np.flatnonzero(sample.labels["multilabel"]), [0, 3, 42])
    assert len(sample.labels["multilabel"]) == 43


def test_corine_mapping_is_that_of_spectral_earth() -> None:
    """By position among the 43, as in SpectralEarth."""
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
    for position, code in enumerate(_corine.CODES):
        found = np.flatnonzero(_corine.classes_present(np.array([[code]]), "19")).tolist()
        assert found == ([published[position]] if position in published else [])
    assert len(_corine.CODES) == 43


def test_scenes_shared_between_train_and_test_are_identified_by_the_products(
    tmp_path: Path,
) -> None:
    """The published lists are random patches: no location is in two splits, but most scenes are."""
    options = write(DOWNSTREAM, tmp_path)
    splits = {item.id: item.split for item in make_reader(DOWNSTREAM, tmp_path, **options).items()}
    scenes, locations = {}, {}
    for sample in read_all(DOWNSTREAM, tmp_path, **options):
        scenes.setdefault(splits[sample.id], set()).add(sample.product)
        locations.setdefault(splits[sample.id], set()).add(sample.group)
    assert scenes["train"] & scenes["test"] == {"00001"}
    assert not locations["train"] & locations["test"]


@pytest.mark.parametrize("folder", ["splits/enmap_cdl", "enmap_cdl/splits"])
def test_split_lists_in_either_folder(tmp_path: Path, folder: str) -> None:
    options = write(DOWNSTREAM, tmp_path)
    (tmp_path / "enmap_cdl" / "here").mkdir()
    (tmp_path / "splits" / "enmap_cdl").rename(tmp_path / "enmap_cdl" / "here" / "lists")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "enmap_cdl" / "here" / "lists").rename(tmp_path / folder)
    found = {item.id: item.split for item in make_reader(DOWNSTREAM, tmp_path, **options).items()}
    assert found == {name: split for split, names in SPLITS.items() for name in names}


def test_split_lists_twice(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    write_lists(tmp_path / "enmap_cdl" / "splits")
    reject(DOWNSTREAM, tmp_path, "enmap_cdl/splits", "remove one", **options)


def test_an_image_in_no_list(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    (tmp_path / "splits" / "enmap_cdl" / "test.txt").unlink()
    reject(DOWNSTREAM, tmp_path, "0000014/00001.tif", "in no split list", **options)


def test_without_lists_there_is_no_split(tmp_path: Path) -> None:
    write(DOWNSTREAM, tmp_path)
    for file in (tmp_path / "splits" / "enmap_cdl").iterdir():
        file.unlink()
    assert {item.split for item in make_reader(DOWNSTREAM, tmp_path, **CDL).items()} == {None}


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize(("task", "sensor"), [("desis_cdl", "desis"), ("eo1_cdl", "eo1_hyperion")])
def test_desis_and_eo1_keep_the_dtype_they_are_found_in(
    tmp_path: Path, task: str, sensor: str, dtype: str
) -> None:
    write_task(tmp_path, task, codes=(0, 1), dtype=dtype)
    rows = {row.id: row for row in make_reader(DOWNSTREAM, tmp_path, task=task).sensors}
    for sample in read_all(DOWNSTREAM, tmp_path, task=task):
        folder = task.split("_")[0]
        np.testing.assert_array_equal(sample.pixels, tiff(tmp_path, f"{task}/{folder}", sample.id))
        assert sample.pixels.dtype == rows[sample.sensor].dtype == dtype
        assert sample.sensor == (
            sensor if get_sensor(sensor).dtype == dtype else f"{sensor}_{dtype}"
        )
        assert len(sample.pixels) == BANDS[folder]


def test_derived_rows_have_no_nodata_that_their_dtype_cannot_hold() -> None:
    rows = rows_by_dtype(ENMAP, "uint16", "float32")
    assert [rows[dtype].nodata for dtype in ("int16", "uint16", "float32")] == [
        -32768,
        None,
        -32768,
    ]
    assert (rows["int16"], rows["uint16"].id) == (ENMAP, "enmap_uint16")


@pytest.mark.parametrize(
    ("task", "bands"),
    [("enmap_cdl", 224), ("enmap_cdl", 201), ("desis_cdl", 202), ("eo1_cdl", 242)],
)
def test_band_count_of_another_sensor(tmp_path: Path, task: str, bands: int) -> None:
    write_task(tmp_path, task, codes=(1,))
    name = f"{task}/{task.split('_')[0]}/0000012/00002.tif"
    tiny_archives.write(tmp_path / name, np.ones((bands, 16, 16), np.int16))
    reject(DOWNSTREAM, tmp_path, name, f"{bands} bands", str(BANDS[task.split("_")[0]]), task=task)


def test_wavelengths_of_other_bands(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    path = tmp_path / "enmap_cdl" / "enmap" / "0000010" / "00001.tif"
    tiny_archives.tag(path, ENMAP.centres_nm)
    np.testing.assert_allclose(
        read_all(DOWNSTREAM, tmp_path, **options)[0].wavelengths_nm, ENMAP.centres_nm, atol=0.01
    )
    tiny_archives.tag(path, ENMAP.centres_nm[::-1])
    reject(DOWNSTREAM, tmp_path, "0000010/00001.tif", "another order", **options)


def test_enmap_is_int16_only(tmp_path: Path) -> None:
    write_task(tmp_path, "enmap_cdl", codes=(1,), dtype="float32")
    reject(DOWNSTREAM, tmp_path, "0000010/00001.tif", "float32", "expected int16", **CDL)


def test_mask_missing_or_on_another_grid(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    mask = tmp_path / "enmap_cdl" / "cdl" / "0000011" / "00001.tif"
    tiny_archives.write(mask, np.ones((1, 8, 8), np.uint8))
    reject(DOWNSTREAM, tmp_path, "enmap_cdl/cdl/0000011/00001.tif", "8 x 8", "16 x 16", **options)
    mask.unlink()
    reject(DOWNSTREAM, tmp_path, "enmap_cdl/cdl/0000011/00001.tif", "no such file", **options)


def test_task_must_be_named(tmp_path: Path) -> None:
    write(DOWNSTREAM, tmp_path)
    reject(DOWNSTREAM, tmp_path, "--task", *TASKS)
    reject(DOWNSTREAM, tmp_path, "enmap_nlcd/enmap", "no such folder", task="enmap_nlcd")


def test_image_elsewhere(tmp_path: Path) -> None:
    options = write(DOWNSTREAM, tmp_path)
    (tmp_path / "enmap_cdl" / "enmap" / "0000014" / "00001.tif").rename(
        tmp_path / "enmap_cdl" / "enmap" / "00001.tif"
    )
    (tmp_path / "splits" / "enmap_cdl" / "test.txt").write_text("00001.tif\n")
    reject(
        DOWNSTREAM, tmp_path, "enmap_cdl/enmap/00001.tif", "is not at enmap_cdl/enmap", **options
    )


# ------------------------------------------------------------------ HYPERVIEW


def test_hyperview_keeps_native_sizes_and_values(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    samples = read_all("hyperview", tmp_path)
    assert (
        len({sample.pixels.shape for sample in samples}) > 1
    )  # ragged: SpectralEarth's resizing to 128 x 128 is not done here
    for sample in samples:
        with np.load(tmp_path / "images" / f"{int(sample.id)}.npz") as file:
            np.testing.assert_array_equal(sample.pixels, file["data"])
            assert sample.pixels.dtype == file["data"].dtype


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_hyperview_keeps_the_dtype_it_is_found_in(tmp_path: Path, dtype: str) -> None:
    write("hyperview", tmp_path)
    np.savez(
        tmp_path / "images" / "0.npz",
        data=hyperview.cube(0).astype(np.dtype(dtype).newbyteorder(">")),
    )
    sample = read_all("hyperview", tmp_path)[0]
    row = next(row for row in make_reader("hyperview", tmp_path).sensors if row.id == sample.sensor)
    assert (sample.pixels.dtype, sample.pixels.dtype.byteorder) == (row.dtype, "=")
    np.testing.assert_array_equal(sample.pixels, hyperview.cube(0))


def test_hyperview_targets_are_in_published_order(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    (tmp_path / "val.csv").write_text(
        "pH,Mg,date,K,sample_index,P\n0.75,-0.5,2020-08-25,0.25,599,-1.5\n"
    )
    sample = next(sample for sample in read_all("hyperview", tmp_path) if sample.id == "00599")
    np.testing.assert_array_equal(
        sample.labels["targets"], np.array([-1.5, 0.25, -0.5, 0.75], np.float32)
    )
    assert sample.labels["targets"].dtype == np.float32


def test_hyperview_mask_is_the_outline_of_the_field(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    masks = {int(sample.id): sample.masks for sample in read_all("hyperview", tmp_path)}
    assert masks[3] == {}
    np.testing.assert_array_equal(masks[12]["outside_field"], hyperview.mask(12)[0])


@pytest.mark.parametrize("folder", [".", "splits", "splits/hyperview"])
def test_hyperview_lists_and_their_splits(tmp_path: Path, folder: str) -> None:
    write("hyperview", tmp_path)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for split in hyperview.SPLITS:
        (tmp_path / f"{split}.csv").rename(tmp_path / folder / f"{split}.csv")
    items = make_reader("hyperview", tmp_path).items()
    assert {int(item.id): item.split for item in items} == {
        index: split for split, indices in hyperview.SPLITS.items() for index in indices
    }


def test_hyperview_file_and_row_belong_together(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    rows = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(rows.replace("\n12,", "\n13,"))
    reject("hyperview", tmp_path, "images/12.npz", "in no list")
    (tmp_path / "train.csv").write_text(rows + "13,A,77,5.0,1,1,1,1,1\n")
    reject("hyperview", tmp_path, "train.csv", "images/13.npz does not exist")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("599,A,77,5.0,nan,1,1,1,1\n", ("line 6", "NaN")),
        ("599,A,77,5.0,,1,1,1,1\n", ("line 6", "expected")),
        ("599,A\n", ("line 6", "expected")),
        ("3,A,77,5.0,1,1,1,1,1\n", ("line 6", "sample_index 3 a second time")),
        ("599,A,77,5.0,1,1,1,1,1\n", ("599", "is also in")),
    ],
    ids=["nan", "empty", "short", "twice", "in two lists"],
)
def test_hyperview_rows_that_are_wrong(tmp_path: Path, row: str, words: tuple[str, ...]) -> None:
    write("hyperview", tmp_path)
    with open(tmp_path / "train.csv", "a") as file:
        file.write(row)
    reject("hyperview", tmp_path, ".csv", *words)


def test_hyperview_lists_missing_or_without_columns(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    (tmp_path / "train.csv").write_text("sample_index,P,K,pH\n")
    reject("hyperview", tmp_path, "train.csv", "no column Mg")
    for split in hyperview.SPLITS:
        (tmp_path / f"{split}.csv").unlink()
    reject("hyperview", tmp_path, "train.csv", "no such list", "splits/")


def test_hyperview_arrays_that_are_wrong(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    path, data = tmp_path / "images" / "0.npz", hyperview.cube(0)
    uneven = hyperview.mask(0)
    uneven[7, 2, 2] = True
    for arrays, words in [
        ({"data": data[:149]}, ("149", "150")),
        ({"data": data[0]}, ("shape",)),
        ({"data": data.astype(np.complex64)}, ("complex64", "numbers")),
        ({"data": data.astype(np.float64)}, ("float64", "float32")),
        ({"data": np.where(data > 1500, np.nan, data).astype(np.float32)}, ("NaN",)),
        ({"data": data, "mask": uneven}, ("mask differs",)),
        ({"data": data, "mask": hyperview.mask(0)[:, 1:]}, ("mask is",)),
        ({"cube": data}, ("cube.npy", "expected data.npy")),
        ({"data": data, "extra": data}, ("extra.npy",)),
    ]:
        np.savez(path, **arrays)
        reject("hyperview", tmp_path, "images/0.npz", *words)


def test_hyperview_files_with_other_names(tmp_path: Path) -> None:
    write("hyperview", tmp_path)
    (tmp_path / "images" / "03.npz").write_bytes((tmp_path / "images" / "3.npz").read_bytes())
    reject("hyperview", tmp_path, "images/3.npz", "images/03.npz")
    (tmp_path / "images" / "03.npz").rename(tmp_path / "images" / "three.npz")
    reject("hyperview", tmp_path, "images/three.npz", "<sample_index>.npz")


# ------------------------------------------------------------------ .npz files that are untrusted


def npz(
    header: str | None = None,
    body: bytes = b"",
    compression: int = zipfile.ZIP_DEFLATED,
    array: np.ndarray | None = None,
) -> bytes:
    """A .npz with one member `data`, with the given header or array."""
    buffer, member = io.BytesIO(), io.BytesIO()
    if array is not None:
        np.lib.format.write_array(member, array, allow_pickle=True)
    else:
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body)
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("data.npy", member.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (npz(array=np.array([{"a": 1}], object)), "never read"),
        (npz("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"), "MB"),
        (
            npz("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 10), }\n", b"\0" * 16),
            "expected",
        ),
        (
            npz("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2), }\n", b"\0" * 16),
            "cannot be read",
        ),
        (
            npz(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), 'x': "
                "__import__('os').getcwd()}\n",
                b"\0" * 16,
            ),
            "cannot be read",
        ),
        (npz("(" * 9000), "cannot be read"),
        (npz("-" * 9000 + "1"), "cannot be read"),
        (npz("{[]: 1}"), "cannot be read"),
        (npz("{'descr': '<f4',"), "cannot be read"),
        (npz(array=np.zeros(9), compression=zipfile.ZIP_LZMA), "compressed"),
        (b"", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
    ],
    ids=[
        "object",
        "bomb",
        "short",
        "negative",
        "call",
        "deep",
        "unary",
        "unhashable",
        "cut",
        "lzma",
        "empty",
        "no zip",
    ],
)
def test_npz_that_is_hostile(data: bytes, word: str) -> None:
    with pytest.raises(ArchiveError, match=word) as caught:
        npyzip.read_npz("a.npz", data, ("data",))
    assert str(caught.value).startswith("a.npz: ")
    assert "\n" not in str(caught.value)


def test_npz_flipped_bits_and_cuts_give_an_error_or_arrays() -> None:
    good = npz(array=np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    rejected = 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 16
        for data in (bytes(damaged), good[:position]):
            try:
                npyzip.read_npz("a.npz", data, ("data",))
            except ArchiveError:
                rejected += 1
    assert rejected > len(good)


def test_npz_arrays_of_either_order() -> None:
    array = np.asfortranarray(np.arange(60, dtype=">i2").reshape(3, 4, 5))
    np.testing.assert_array_equal(
        npyzip.read_npz("a.npz", npz(array=array), ("data",))["data"], array
    )
