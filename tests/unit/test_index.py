"""Which locations a config draws from, and the endless order over them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import PER_SHARD, change_index, sign_index, write_store

from eo_jax.data import Store, open_store
from eo_jax.data.index import Order, common_locations, group_samples
from eo_jax.data.store.files import StoreError
from eo_jax.schema import Sample

# Group and split of each sample, in store order; the dates of a location need not be neighbours.
LISTING = (
    ("b", "train"),
    ("a", "train"),
    ("b", "train"),
    ("c", "val"),
    ("d", "train"),
    ("b", "train"),
    ("d", "train"),
    ("c", "val"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    pixels = np.zeros((1, 1, 1), np.int16)
    samples = [
        Sample(pixels=pixels, sensor="enmap", id=f"{i}", group=group)
        for i, (group, _) in enumerate(LISTING)
    ]
    return open_store(
        write_store(
            tmp_path_factory.mktemp("index") / "store", samples, [split for _, split in LISTING]
        )
    )


def members(
    store: Store, split: str, dates: int = 1, missing: str = "repeat"
) -> tuple[list[list[int]], int]:
    """Sample numbers of each location, and how many locations were dropped."""
    groups = group_samples(store, split, dates, missing, "enmap")
    return [groups.samples(location).tolist() for location in range(len(groups))], groups.dropped


def test_locations_hold_the_samples_of_their_group_in_store_order(store: Store):
    assert members(store, "train") == ([[1], [0, 2, 5], [4, 6]], 0)
    assert members(store, "val") == ([[3, 7]], 0)
    assert members(store, "all") == ([[1], [0, 2, 5], [3, 7], [4, 6]], 0)


@pytest.mark.parametrize(
    ("dates", "kept", "dropped"),
    [(1, [[1], [0, 2, 5], [4, 6]], 0), (2, [[0, 2, 5], [4, 6]], 1), (3, [[0, 2, 5]], 2)],
)
def test_drop_leaves_out_locations_with_too_few_dates_and_counts_them(
    store: Store, dates: int, kept: list, dropped: int
):
    assert members(store, "train", dates, "drop") == (kept, dropped)
    assert members(store, "train", dates, "repeat") == ([[1], [0, 2, 5], [4, 6]], 0)
    assert group_samples(store, "train", dates, "drop", "enmap").count_short_of(dates) == 0
    # The same locations repeat dates.
    assert group_samples(store, "train", dates, "repeat", "enmap").count_short_of(dates) == dropped


def test_many_dates_keep_store_order_too(tmp_path: Path):
    """An unstable sort would show only with many dates."""
    pixels = np.zeros((1, 1, 1), np.int16)
    samples = [
        Sample(pixels=pixels, sensor="enmap", id=f"{i}", group=str(i * i % 3)) for i in range(300)
    ]
    groups, _ = members(open_store(write_store(tmp_path / "store", samples)), "train")
    assert groups == [list(range(0, 300, 3)), [i for i in range(300) if i % 3]]


def test_nothing_left_after_dropping(store: Store):
    with pytest.raises(
        ValueError,
        match=rf"{store.path}: no location of split 'val' has 3 dates; use missing='repeat' or "
        r"fewer dates",
    ):
        group_samples(store, "val", 3, "drop", "enmap")


def test_an_empty_split_names_the_store_and_the_splits_it_has(store: Store):
    with pytest.raises(
        ValueError, match=rf"{store.path}: split 'test' is empty; the store has train, val\..*--val"
    ):
        group_samples(store, "test", 1, "repeat", "enmap")


def test_an_empty_store_has_no_sensor(tmp_path: Path):
    with pytest.raises(ValueError, match="no sample of sensor 'enmap'"):
        group_samples(open_store(write_store(tmp_path / "store", [])), "all", 1, "repeat", "enmap")


# -------------------------------------------------------------------------------------------- codes


def without_codes(columns: dict[str, np.ndarray]) -> None:
    """Turns the index into one of an older version, without codes."""
    del columns["group_code"], columns["kind_code"]


SEEN = st.tuples(
    st.sampled_from(["b", "a", "", "ä", "aa", "B"]),
    st.sampled_from(["train", "val", "pixel"]),
    st.sampled_from(["s1", "s2"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(SEEN, min_size=1, max_size=14), st.integers(1, 3))
def test_an_index_without_codes_gives_the_same_groups(
    tmp_path_factory: pytest.TempPathFactory, listing: list[tuple[str, str, str]], dates: int
):
    pixels = np.zeros((1, 1, 1), np.int16)
    samples = [
        Sample(pixels=pixels, sensor=sensor, id=f"{i}", group=group)
        for i, (group, _, sensor) in enumerate(listing)
    ]
    path = write_store(
        tmp_path_factory.mktemp("codes") / "store", samples, [split for _, split, _ in listing]
    )
    new = open_store(path)
    change_index(path, without_codes)
    old = open_store(path)
    assert "group_code" in new.index and "group_code" not in old.index
    found = [all_groups(store, dates) for store in (new, old)]
    assert found[0] == found[1]


def all_groups(store: Store, dates: int) -> list:
    """The groups of every split and sensor, and those common to both; or the error message."""
    found = []
    for split in ("train", "val", "all"):
        try:
            one, other = (
                group_samples(store, split, dates, "drop", sensor) for sensor in ("s1", "s2")
            )
            both = common_locations([(store, one), (store, other)])
        except ValueError as error:
            found.append(str(error))
            continue
        found += [
            (groups.members.tolist(), groups.starts.tolist(), groups.dropped)
            for groups in (one, other, *both)
        ]
    return found


@pytest.mark.parametrize("format", ["zarr", "zarr-raw"])
def test_a_zarr_store_without_codes_gives_the_same_pixels(tmp_path: Path, format: str):
    kinds = [
        ("enmap", np.int16, 2),
        ("s1", np.float32, 1),
        ("enmap", np.int16, 3),
        ("enmap", np.uint8, 2),
    ]
    order = [0, 1, 0, 2, 0, 3, 1, 1, 0, 2, 3, 0]
    samples = [
        Sample(np.full((c, 2, 2), i, dtype), sensor, f"{i}", "g")
        for i, (sensor, dtype, c) in enumerate(kinds[k] for k in order)
    ]
    path = write_store(tmp_path / "store", samples, format=format)
    new = open_store(path)
    assert new.index["kind_code"].tolist() == order
    change_index(path, without_codes)
    for store in (new, open_store(path)):
        assert [store[i].pixels[0, 0, 0] for i in range(12)] == list(range(12))
        for i, sample in enumerate(samples):
            out = np.empty_like(sample.pixels)
            for _ in range(2):  # read and verified, then out of the memory map
                store.read_into(i, out)
                np.testing.assert_array_equal(out, sample.pixels)
    assert len(new) > 2 * PER_SHARD


@pytest.mark.parametrize("column", ["group_code", "kind_code"])
@pytest.mark.parametrize(
    "wrong",
    [np.arange(8) - 1, np.arange(8) + 1, np.arange(7), np.zeros((8, 1)), np.full(8, 2**31 - 1)],
    ids=str,
)
def test_codes_that_cannot_be_are_refused(
    store: Store, tmp_path: Path, column: str, wrong: np.ndarray
):
    path = shutil.copytree(store.path, tmp_path / "store")
    change_index(path, lambda columns: columns.update({column: wrong.astype(np.int32)}))
    with pytest.raises(
        StoreError,
        match=rf"index.npz: not an index \({column}: .*expected int32 \[8\]( from 0 to 7)?\); "
        r"convert the archive again",
    ):
        open_store(path)


def test_codes_of_another_dtype_are_refused(store: Store, tmp_path: Path):
    path = shutil.copytree(store.path, tmp_path / "store")
    change_index(path, lambda columns: columns.update(group_code=np.zeros(8)))
    with pytest.raises(StoreError, match="group_code: <f8"):
        open_store(path)


def test_an_index_that_numpy_would_not_have_written_is_refused(store: Store, tmp_path: Path):
    """Its SHA-256 is right, as a hostile manifest has it. Nothing is unpickled or unpacked."""
    for number, (change, save, message) in enumerate(
        (
            (lambda columns: None, np.savez_compressed, "is compressed"),
            (
                lambda columns: columns.update(shape=np.asfortranarray(columns["shape"])),
                np.savez,
                "Fortran order",
            ),
            (lambda columns: columns.update(id=columns["id"].astype(object)), np.savez, r"id: \|O"),
            (lambda columns: columns.pop("time"), np.savez, "time"),
        )
    ):
        path = shutil.copytree(store.path, tmp_path / f"{number}")
        change_index(path, change, save)
        with pytest.raises(
            StoreError, match=rf"index.npz: not an index \(.*{message}.*convert the archive again"
        ):
            open_store(path)


def put(name: str, value: object, at: object = 3) -> Callable[[dict[str, np.ndarray]], None]:
    def change(columns: dict[str, np.ndarray]) -> None:
        dtype = "U9" if isinstance(value, str) else columns[name].dtype
        columns[name] = columns[name].astype(dtype)
        columns[name][at] = value

    return change


def astype(name: str, dtype: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda columns: columns.update({name: columns[name].astype(dtype)})


WRONG = {
    "id: <i8 [8]; expected U": lambda columns: columns.update(id=np.arange(8)),
    "split: a value is not text": lambda columns: columns["split"].view(np.uint32).fill(2**32 - 1),
    "samples of one kind differ in sensor": put("sensor", "s1"),
    "samples of one kind differ in dtype": put("dtype", "int8"),
    "pixels of enmap has dtype object": put("dtype", "object", slice(None)),
    "samples of one kind differ in shape": put("shape", [1, 2, 3]),
    "shape: [-1, 4, 4]; expected [c, h, w], each at least 1": put("shape", [-1, 4, 4], slice(None)),
    "pixels of enmap has 79456894976 bytes": put("shape", [37, 2**15, 2**15], slice(None)),
    "shape: int64 [8, 2]; expected int64 [8, 3]": lambda columns: columns.update(
        shape=columns["shape"][:, :2].copy()
    ),
    "shape: <f4 [8, 3]; expected <i8 or <i4": astype("shape", "float32"),
    "time: a value is not in the years 1 to 9999": put("time", 2**62),
    "time has a header that numpy does not write": astype("time", ">i8"),
    "lonlat: float64 [8, 1]; expected float64 [8, 2]": lambda columns: columns.update(
        lonlat=columns["lonlat"][:, :1].copy()
    ),
    "nodata_share: a value is not in 0 to 1": put("nodata_share", np.nan),
    "shard: expected shard after shard": put("shard", 7),
    "row: expected shard after shard": put("row", -1),
    "kind_code skips a number": put("kind_code", 2),
    "record_crc32c: <i8 [8]; expected <u4": astype("record_crc32c", "int64"),
    "record_crc32c: uint32 [7]; expected uint32 [8]": lambda columns: columns.update(
        record_crc32c=columns["record_crc32c"][:7]
    ),
    "chunk_crc32c: uint32 [8]; expected uint32 [8, 8]": lambda columns: columns.update(
        chunk_crc32c=columns["record_crc32c"]
    ),
    "it has more than 100 columns": lambda columns: columns.update(
        {f"more{n}": np.zeros(1) for n in range(100)}
    ),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_column_that_no_index_has_is_named(store: Store, tmp_path: Path, says: str):
    path = shutil.copytree(store.path, tmp_path / "store")
    change_index(path, WRONG[says])
    with pytest.raises(StoreError, match=rf"index.npz: not an index \(.*{re.escape(says)}"):
        open_store(path)


@pytest.mark.parametrize(
    "new", [b"(" * 60, b"{'descr': '<U99999', ", b"{'descr': [('a', '<i4')], ", b"[" * 60]
)
def test_a_header_that_numpy_does_not_write(store: Store, tmp_path: Path, new: bytes):
    path = shutil.copytree(store.path, tmp_path / "store")
    data = bytearray((path / "index.npz").read_bytes())
    start = data.index(b"{'descr'")
    data[start : start + len(new)] = new
    sign_index(path, bytes(data))
    with pytest.raises(StoreError, match=r"index.npz: not an index \(id"):
        open_store(path)


def test_an_index_larger_than_one_of_so_many_samples(store: Store, tmp_path: Path):
    """It is not read, or hashed, at all."""
    path = shutil.copytree(store.path, tmp_path / "store")
    os.truncate(path / "index.npz", 2**40)
    with pytest.raises(StoreError, match=r"index.npz: has 1099511627776 bytes, expected at most"):
        open_store(path)


def test_a_column_that_claims_more_than_the_file_has_is_refused(store: Store, tmp_path: Path):
    path = shutil.copytree(store.path, tmp_path / "store")
    data = (path / "index.npz").read_bytes()
    header = b"(8, 3), }" + b" " * 20
    assert data.count(header) == 1
    for shape in (b"(8, 10**9)", b"(8, -3)", b"(9000000, 3)", b"(8, 99999999999999999999)"):
        sign_index(path, data.replace(header, (shape + b", }").ljust(len(header))))
        with pytest.raises(StoreError, match="not an index"):
            open_store(path)
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        sign_index(path, data[:cut])
        with pytest.raises(StoreError, match="not an index"):
            open_store(path)


# -------------------------------------------------------------------------------------------- order


def epoch(count: int, seed: int, number: int) -> list[int]:
    order = Order(count, seed)
    return [order[position] for position in range(number * count, (number + 1) * count)]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_epoch_visits_every_location_once(count: int):
    for number in (0, 1, 2, 1000):
        assert sorted(epoch(count, 5, number)) == list(range(count))


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch(50, seed, number)) for seed in range(3) for number in range(3)}
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


def test_the_order_needs_no_state():
    forward, backward = Order(50, 3), Order(50, 3)
    positions = range(0, 200, 7)
    assert [forward[p] for p in positions] == [backward[p] for p in reversed(positions)][::-1]


def test_a_position_far_away_costs_nothing():
    assert 0 <= Order(400_000, 0)[10**12] < 400_000
