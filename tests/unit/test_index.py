"""Which locations a config draws from, and the endless order over them."""

from __future__ import annotations

import shutil
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
