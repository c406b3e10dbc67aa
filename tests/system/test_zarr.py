"""Zarr stores: bit-exact round trip, other Zarr readers, partial reads, damage found by name."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import struct
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorstore
import tiny_archives
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from record_samples import DTYPES, assert_equal_arrays, assert_equal_samples, cube, full
from tiny_store import (
    PER_SHARD,
    change_index,
    change_manifest,
    without_checksums,
    write_store,
)

from eo_jax.data import Store, open_store
from eo_jax.data.store import record, zarr_shards
from eo_jax.data.store.files import StoreError, sha256_file
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.writer import finish_store, index_row, write_shard
from eo_jax.data.store.zarr_shards import FORMATS as ZARR_FORMATS
from eo_jax.data.store.zarr_shards import Chunk, Kind
from eo_jax.schema import Sample

SPECIAL = {"f": [np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0], "b": [False, True]}
every_format = pytest.mark.parametrize("format", ZARR_FORMATS)


def sample(pixels: np.ndarray, number: int = 0, **fields) -> Sample:
    return Sample(
        **{"pixels": pixels, "sensor": "enmap", "id": f"s{number}", "group": "g", **fields}
    )


def ragged() -> list[Sample]:
    """Two shards and a bit in which sensors, dtypes and shapes alternate.

    70 bands are three chunks, 3 are one.
    """
    kinds = [
        ("enmap", "int16", (70, 5, 6)),
        ("enmap", "float32", (70, 5, 6)),
        ("s1", "int16", (3, 4, 4)),
        ("s1", "int16", (3, 4, 5)),
    ]
    pattern = [0, 0, 1, 2, 0, 3, 2, 2, 1, 0, 3, 0]
    rng = np.random.default_rng(0)
    samples = []
    for number, (sensor, dtype, shape) in enumerate(kinds[k] for k in pattern):
        pixels = rng.integers(-2000, 2000, shape).astype(dtype)
        samples.append(
            sample(
                pixels,
                number,
                sensor=sensor,
                labels={"map": pixels[0] > 0},
                time=number,
                lonlat=(1.0, 2.0),
            )
        )
    return samples


@pytest.fixture(scope="module", params=ZARR_FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the ragged samples that tests only read."""
    return write_store(tmp_path_factory.mktemp("zarr") / "whole", ragged(), format=request.param)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def read_all(store: Store) -> list[bytes]:
    return [one.pixels.tobytes() for one in store]


def pixel_file(path: Path) -> Path:
    """The file of the first shard that holds the cubes of 70 bands."""
    return path / "pixels/enmap-int16-70x5x6/c/0/0/0/0"


# --------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: str, format: str):
    """Random bits include NaN with payloads; the fill value must not be mistaken for absence."""
    pixels = cube(dtype, (35, 4, 5))
    special = SPECIAL.get(pixels.dtype.kind) or [np.iinfo(dtype).min, np.iinfo(dtype).max, 0]
    expected = [
        sample(pixels),
        sample(np.resize(np.array(special, dtype), (35, 4, 5)), 1),
        sample(np.zeros_like(pixels), 2),
    ]
    for found, written in zip(
        open_store(write_store(tmp_path / "store", expected, format=format)), expected, strict=True
    ):
        assert_equal_samples(found, written)


@every_format
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays_of.arrays(
            dtype, st.tuples(st.integers(1, 100), st.integers(1, 3), st.integers(1, 3))
        )
    )
)
def test_every_shape_comes_back_bit_for_bit(tmp_path: Path, format: str, array: np.ndarray):
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    store = open_store(write_store(tmp_path / "store", [sample(array)], format=format))
    assert_equal_arrays(store[0].pixels, array)


def test_ragged_samples_come_back_in_order_with_all_their_fields(whole: Path):
    store = open_store(whole)
    for found, expected in zip(store, ragged(), strict=True):
        assert_equal_samples(found, expected)
    assert len(store.manifest["arrays"]) == 4


@every_format
def test_a_sample_with_every_field_comes_back(tmp_path: Path, format: str):
    found = open_store(write_store(tmp_path / "store", [full()], format=format))[0]
    assert_equal_samples(found, full())
    found.pixels[:] = 0  # pixels may be changed, as of the other format


@every_format
def test_memory_order_and_byte_order_make_no_difference(tmp_path: Path, format: str):
    plain = cube("int16", (40, 4, 5))
    odd = np.asfortranarray(plain).astype(">i2", order="K")
    assert not odd.flags.c_contiguous and odd.dtype.byteorder == ">"
    one, two = (
        write_store(tmp_path / name, [sample(pixels)], format=format)
        for name, pixels in (("one", plain), ("two", odd))
    )
    assert tiny_archives.files(one) == tiny_archives.files(two)


def test_an_empty_store_opens(tmp_path: Path):
    assert list(open_store(write_store(tmp_path / "store", [], format="zarr"))) == []


# -------------------------------------------------------------------------------------------- parts

PARTS = {
    "bands": {"bands": slice(30, 34)},
    "one band": {"bands": [69]},
    "bands in any order": {"bands": [40, 3, 3, -1]},
    "every other band": {"bands": slice(None, None, 2)},
    "bands backwards": {"bands": slice(None, None, -1)},
    "no band": {"bands": []},
    "crop": {"rows": slice(1, 4), "columns": slice(2, 6)},
    "beyond the edge": {"rows": slice(3, 99), "columns": slice(-2, None)},
    "nothing of it": {"rows": slice(2, 2)},
    "all three": {
        "bands": np.array([23, 24, 47]),
        "rows": slice(0, 5, 2),
        "columns": slice(None, None, -1),
    },
    "whole": {},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_what_is_cut_from_the_whole(tmp_path: Path, format: str, part: str):
    wanted = {"bands": slice(None), "rows": slice(None), "columns": slice(None), **PARTS[part]}
    for pixels in (cube("int16", (70, 5, 6)), cube("float32", (70, 5, 6))):
        store = open_store(
            write_store(tmp_path / pixels.dtype.name, [sample(pixels)], format=format)
        )
        assert_equal_arrays(
            np.ascontiguousarray(store.pixels(0, **PARTS[part])),
            pixels[wanted["bands"]][:, wanted["rows"], wanted["columns"]].copy(),
        )


def test_a_part_reads_no_other_chunks(tmp_path: Path):
    """Damage in the chunk of bands 24 to 47 does not affect reads of bands before and after."""
    pixels = cube("int16", (70, 5, 6))
    path = write_store(tmp_path / "store", [sample(pixels)], format="zarr")
    store, file = open_store(path), pixel_file(path)
    kind = Kind("zarr", "enmap", "int16", (70, 5, 6))
    locations = zarr_shards.read_index(file, kind, PER_SHARD)[0]
    tiny_archives.flip(file, int(locations[1].sum()) - 10)
    bands = [*range(24), *range(48, 70)]
    np.testing.assert_array_equal(store.pixels(0, bands=bands), pixels[bands])
    with pytest.raises(RecordError, match="checksum"):
        store.pixels(0, bands=[24])


@pytest.mark.parametrize("format", FORMATS)
def test_a_band_that_is_not_there_is_an_index_error(tmp_path: Path, format: str):
    with pytest.raises(IndexError, match="70 is out of bounds"):
        open_store(
            write_store(tmp_path / "store", [sample(cube("int16", (70, 1, 1)))], format=format)
        ).pixels(0, bands=[70])


# ------------------------------------------------------------------------------- other Zarr readers


def undo(differences: np.ndarray, attributes: dict) -> np.ndarray:
    """Pixels [n, c, h, w], restored as the attributes of zarr.json say."""
    step = attributes["eo_jax"]["bands_a_chunk"]
    if not attributes["eo_jax"]["band_difference"]:
        return differences
    parts = [
        np.cumsum(differences[:, k : k + step], 1, differences.dtype)
        for k in range(0, differences.shape[1], step)
    ]
    return np.concatenate(parts, 1)


def expected_rows(shape: tuple[int, ...], samples: list[Sample]) -> np.ndarray:
    """The array of the cubes of 70 bands: each shard's in its first rows, 0 in the others."""
    rows = np.zeros(shape, np.int16)
    for shard in range(3):
        cubes = [
            s.pixels
            for s in samples[shard * PER_SHARD :][:PER_SHARD]
            if s.pixels.dtype == np.int16 and len(s.pixels) == 70
        ]
        rows[shard * PER_SHARD :][: len(cubes)] = cubes
    return rows


def with_tensorstore(folder: Path) -> np.ndarray:
    return (
        tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}})
        .result()
        .read()
        .result()
    )


@pytest.mark.parametrize(
    "read",
    [lambda folder: zarr.open_array(folder, mode="r")[:], with_tensorstore],
    ids=["zarr", "tensorstore"],
)
def test_other_libraries_read_the_same_numbers(whole: Path, read):
    folder = whole / "pixels/enmap-int16-70x5x6"
    attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
    found = read(folder)
    np.testing.assert_array_equal(
        undo(found, attributes), expected_rows((3 * PER_SHARD, 70, 5, 6), ragged())
    )


@every_format
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_libraries_read_every_dtype(tmp_path: Path, dtype: str, format: str):
    pixels = cube(dtype)
    path = write_store(tmp_path / "store", [sample(pixels)], format=format)
    folder = path / f"pixels/enmap-{dtype}-3x4x5"
    for array in (zarr.open_array(folder, mode="r")[:1], with_tensorstore(folder)[:1]):
        assert_equal_arrays(
            undo(array, json.loads((folder / "zarr.json").read_bytes())["attributes"])[0], pixels
        )


@pytest.mark.parametrize("format", ["array-record", "zarr"])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float16"])
def test_values_shuffled_one_by_one_or_sixteen_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, dtype: str
):
    """Patches of 16 x 16 are shuffled by sixteens; stores written before that, one by one."""
    pixels = np.random.default_rng(0).integers(0, 99, (58, 16, 16)).astype(dtype)
    new = write_store(tmp_path / "new", [sample(pixels)], format=format)
    with monkeypatch.context() as before:
        before.setattr(record, "shuffle_width", lambda itemsize, size: itemsize)
        old = write_store(tmp_path / "old", [sample(pixels)], format=format)
    assert open_store(new).content_hash != open_store(old).content_hash
    for path in (new, old):
        assert_equal_arrays(open_store(path)[0].pixels, pixels)
        folder = path / f"pixels/enmap-{dtype}-58x16x16"
        if format == "zarr":
            attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]
            for found in (zarr.open_array(folder, mode="r")[:1], with_tensorstore(folder)[:1]):
                assert_equal_arrays(undo(found, attributes)[0], pixels)


def test_a_shard_without_samples_leaves_its_rows_empty(tmp_path: Path):
    """Rows follow the number of the shard, not its position in the manifest."""
    samples = [sample(cube(), 0), sample(cube()[::-1], 1)]
    entries = {
        number: write_shard(tmp_path, number, "zarr-raw", 2, part)
        for number, part in ((0, samples[:1]), (1, []), (2, samples[1:]))
    }
    assert (entries[1]["samples"], entries[1]["pixels"]) == (0, [])
    rows = [[index_row(one, "train", 0.0)] for one in samples]
    finish_store(tmp_path, [entries[0], entries[2]], rows, {}, "zarr-raw", 3)
    assert [one.tobytes() for one in (s.pixels for s in samples)] == read_all(open_store(tmp_path))
    array = zarr.open_array(tmp_path / "pixels/enmap-int16-3x4x5", mode="r")
    np.testing.assert_array_equal(
        array[:], [cube(), 0 * cube(), 0 * cube(), 0 * cube(), cube()[::-1], 0 * cube()]
    )


# ------------------------------------------------------------------------------------------- damage


def assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(path)
    for part in (str(path), *parts):
        assert part in str(error.value)


@every_format
def test_every_flipped_bit_of_a_pixel_file_is_found(tmp_path: Path, format: str):
    write_shard(
        tmp_path,
        0,
        format,
        3,
        [sample(cube("int16", (40, 2, 2))[..., ::step], n) for n, step in enumerate((1, -1))],
    )
    kind = Kind(format, "enmap", "int16", (40, 2, 2))
    file = tmp_path / kind.shard_name(0)

    def read() -> list[np.ndarray]:
        locations, everything = zarr_shards.read_index(file, kind, 3), slice(None)
        return [
            zarr_shards.read_pixels(
                file,
                kind,
                [Chunk(*byte_range, None) for byte_range in locations[row].tolist()],
                everything,
                everything,
                everything,
            )
            for row in range(2)
        ]

    np.testing.assert_array_equal(read()[0], cube("int16", (40, 2, 2)))
    for position in range(file.stat().st_size):
        tiny_archives.flip(file, position, position % 8)
        with pytest.raises(ValueError):
            read()
        tiny_archives.flip(file, position, position % 8)


def test_damage_is_named_and_hurts_no_other_sample(path: Path):
    file, intact = pixel_file(path), read_all(open_store(path))
    tiny_archives.flip(file, 100)
    store = open_store(path)
    with pytest.raises(RecordError) as error:
        store[0]
    for part in (
        f"{path}/shards/00000.array_record record 0 (id s0)",
        str(file),
        "checksum",
        f"data_prep verify {path}",
    ):
        assert part in str(error.value)
    assert [store[i].pixels.tobytes() for i in range(1, 12)] == intact[1:]
    with pytest.raises(RecordError):
        list(store)  # an IndexError would end it early


@pytest.mark.parametrize("name", ["zarr.json", "c/0/0/0/0"])
def test_a_missing_file(path: Path, name: str):
    (path / "pixels/enmap-int16-70x5x6" / name).unlink()
    assert_refused(path, f"pixels/enmap-int16-70x5x6/{name}: is missing", "copy it again")


def test_a_truncated_file(path: Path):
    size = pixel_file(path).stat().st_size
    os.truncate(pixel_file(path), size - 1)
    assert_refused(path, str(pixel_file(path)), f"has {size - 1} bytes, the manifest says {size}")


@pytest.mark.parametrize("keep", [0, 100])
def test_a_file_that_shrinks_or_goes_after_opening(path: Path, keep: int):
    store = open_store(path)
    assert store[0].id == "s0"  # the shard index is known by now
    os.truncate(pixel_file(path), keep)
    with pytest.raises(RecordError, match=r"record 1 \(id s1\).*are not there"):
        store[1]
    pixel_file(path).unlink()
    with pytest.raises(RecordError, match=r"record 1 \(id s1\).*No such file"):
        store[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"int16"', '"uint16"'),
        ("70", "71"),
        ('"fill_value": 0', '"fill_value": 1'),
        ('"end"', '"end" '),
    ],
)
def test_an_edited_zarr_json(path: Path, old: str, new: str):
    file = path / "pixels/enmap-int16-70x5x6/zarr.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert_refused(path, str(file))


def test_samples_that_manifest_and_index_count_differently(path: Path):
    shards = json.loads((path / "manifest.json").read_bytes())["shards"]
    shards[1]["pixels"][0]["samples"] += 1
    change_manifest(path, shards=shards)
    assert_refused(path, "in shard 1", "in the manifest", "convert again")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
@pytest.mark.parametrize("part", ["shard", "pixels"])
def test_a_manifest_that_names_files_outside_the_store(path: Path, part: str, name: str):
    shards = json.loads((path / "manifest.json").read_bytes())["shards"]
    entry = shards[0] if part == "shard" else shards[0]["pixels"][0]
    entry["file"] = name
    change_manifest(path, shards=shards)
    assert_refused(path, name, "outside the store")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tiff"},
        {"format": 1},
        {"samples_a_shard": None},
        {"samples_a_shard": 10**12},
        {"tasks": "3"},
    ],
)
def test_a_manifest_of_something_else(path: Path, changes: dict):
    change_manifest(path, **changes)
    assert_refused(path)


def forge(path: Path, chunk: bytes, byte_range: tuple[int, int] | None = None) -> RecordError:
    """The error of reading a "zarr" store with another first chunk, all checksums right.

    The index of the store lists none.
    """
    change_index(path, without_checksums)
    file = pixel_file(path)
    data, length = bytearray(file.read_bytes()), PER_SHARD * 3 * 16 + 4
    chunk = chunk + struct.pack("<I", google_crc32c.value(chunk))
    data[: len(chunk)] = chunk
    struct.pack_into("<2Q", data, len(data) - length, *(byte_range or (0, len(chunk))))
    struct.pack_into("<I", data, len(data) - 4, google_crc32c.value(bytes(data[-length:-4])))
    file.write_bytes(data)
    with pytest.raises(RecordError) as error:
        open_store(path)[0]
    return error.value


@pytest.mark.parametrize("before", [0, 1439, 2**31, 2**32 - 1])
@pytest.mark.parametrize("after", [0, 16, 20, 2**32 - 1])
def test_a_blosc_header_that_lies_is_not_believed(tmp_path: Path, before: int, after: int):
    path = write_store(tmp_path / "store", [sample(cube("int16", (70, 5, 6)))], format="zarr")
    assert "expected 1440" in str(
        forge(path, struct.pack("<4B3I", 2, 1, 1, 2, before, 1440, after) + bytes(4))
    )


@pytest.mark.parametrize(
    "byte_range",
    [
        (0, 2**40),
        (2**64 - 2, 100),
        (2**63, 100),
        (10**6, 100),
        (0, 0),
        (0, 3),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_a_shard_index_that_lies_is_not_believed(tmp_path: Path, byte_range: tuple[int, int]):
    path = write_store(tmp_path / "store", [sample(cube("int16", (70, 5, 6)))], format="zarr")
    assert "(id s0)" in str(forge(path, b"", byte_range))


@pytest.mark.parametrize(
    ("version", "flags"),
    [(5, 0x24), (2, 0x04), (2, 0x64), (2, 0x25), (2, 0x2C), (2, 0x21)],
    ids=["Blosc2", "BloscLZ", "another codec", "filters of Blosc2", "delta", "byte shuffle"],
)
def test_a_chunk_of_another_kind_is_not_decompressed(tmp_path: Path, version: int, flags: int):
    path = write_store(tmp_path / "store", [sample(cube("int16", (70, 5, 6)))], format="zarr")
    chunk = struct.pack("<4B3I", version, 1, flags, 2, 1440, 1440, 100) + bytes(84)
    assert "expected Blosc with bitshuffle and LZ4" in str(forge(path, chunk))


def test_a_chunk_that_blosc_cannot_read(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(cube("int16", (70, 5, 6)))], format="zarr")
    assert "cannot be read" in str(
        forge(path, struct.pack("<4B3I", 2, 1, 0x24, 2, 1440, 1440, 100) + b"\xff" * 84)
    )


@pytest.mark.parametrize(
    "pixels",
    [None, cube("uint16"), cube("int16", (3, 4, 4))],
    ids=["none", "another dtype", "another shape"],
)
def test_a_record_takes_only_its_own_pixels(pixels: np.ndarray | None):
    data = record.encode_without_pixels(sample(cube()))
    with pytest.raises(
        RecordError, match=r"this one: pixels .*: expected int16 \[3, 4, 5\] by the record"
    ):
        record.decode(data, "this one", pixels)


def test_a_record_with_pixels_takes_no_others():
    with pytest.raises(RecordError, match="expected none by the record's header, found int16"):
        record.decode(record.encode(sample(cube())), "this one", cube())


# ------------------------------------------------------------------------------- processes, threads


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_the_same_bytes(whole: Path, method: str):
    store = open_store(whole)
    expected = read_all(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries in this process warn of their own threads
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(read_all, store).result(60) == expected


def test_four_threads_read_the_same_bytes(whole: Path):
    expected = read_all(open_store(whole))
    store = open_store(whole)
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(lambda i: store[i].pixels.tobytes(), list(range(12)) * 10))
            == expected * 10
        )


def test_a_pickled_store_reads_the_same_bytes(whole: Path):
    store = open_store(whole)
    expected = read_all(store)
    assert read_all(pickle.loads(pickle.dumps(store))) == expected


# ------------------------------------------------------------------------------------------ writing


def test_equal_samples_give_equal_files(whole: Path, tmp_path: Path):
    again = write_store(tmp_path / "again", ragged(), format=open_store(whole).format)
    assert tiny_archives.files(again) == tiny_archives.files(whole)


@every_format
def test_a_shard_written_by_several_at_once_is_whole_and_leaves_no_litter(
    tmp_path: Path, format: str
):
    samples = ragged()[:PER_SHARD]
    with ThreadPoolExecutor(4) as pool:
        entries = list(
            pool.map(
                lambda _: write_shard(tmp_path / "many", 7, format, PER_SHARD, samples),
                range(8),
            )
        )
    once = write_shard(tmp_path / "once", 7, format, PER_SHARD, samples)
    assert entries == [once] * 8
    assert tiny_archives.files(tmp_path / "many") == tiny_archives.files(tmp_path / "once")


def test_manifest_has_the_size_and_hash_of_every_file(whole: Path):
    manifest = open_store(whole).manifest
    entries = [
        *manifest["shards"],
        *(entry for shard in manifest["shards"] for entry in shard["pixels"]),
        *manifest["arrays"].values(),
    ]
    assert {entry["file"] for entry in entries} | {
        "manifest.json",
        "index.npz",
    } == tiny_archives.files(whole).keys()
    for entry in entries:
        assert (whole / entry["file"]).stat().st_size == entry["bytes"]
        assert sha256_file(whole / entry["file"]) == entry["sha256"]


@every_format
def test_one_sample_too_many(tmp_path: Path, format: str):
    with pytest.raises(ValueError, match="sample s2: shard 0 already has 2 samples"):
        write_shard(tmp_path, 0, format, 2, [sample(cube(), number) for number in range(3)])
    assert tiny_archives.files(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensor": "../up"}, "cannot name a folder"),
        ({"sensor": ""}, "cannot name a folder"),
        ({"pixels": np.zeros((0, 4, 5), np.int16)}, r"expected \[c, h, w\], each at least 1"),
        ({"pixels": np.zeros((4, 5), np.int16)}, r"shape \[4, 5\]"),
        ({"pixels": np.zeros((1, 4, 5), complex)}, "dtype complex128"),
    ],
)
def test_samples_that_no_zarr_array_holds(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=f"sample s0: .*{message}"):
        write_shard(tmp_path, 0, "zarr", 2, [dataclasses.replace(sample(cube()), **changes)])


def test_shards_of_different_sizes_are_refused(tmp_path: Path):
    shards = [
        write_shard(tmp_path, number, "zarr", number + 1, [sample(cube(), number)])
        for number in range(2)
    ]
    rows = [[index_row(sample(cube(), number), "train", 0.0)] for number in range(2)]
    with pytest.raises(ValueError, match="shards of 1 and 2 samples"):
        finish_store(tmp_path, shards, rows, {}, "zarr", 2)


@every_format
def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, format: str):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            OSError, match=r"cannot be written.*run the same command again.*/c/0/0/0/0"
        ):
            write_shard(
                tmp_path,
                0,
                format,
                1,
                [
                    sample(
                        np.random.default_rng(0).integers(0, 2**15, (70, 20, 20)).astype(np.int16)
                    )
                ],
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tiny_archives.files(tmp_path) == {}
