"""Which places a recipe draws from, and the endless order over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_store import write_store

from eo_jax.data import Store, open_store
from eo_jax.data.index import Order, group_samples
from eo_jax.schema import Sample

# Group and split of each sample, in store order; the dates of a place need not be neighbours.
LISTING = (("b", "train"), ("a", "train"), ("b", "train"), ("c", "val"), ("d", "train"), ("b", "train"), ("d", "train"), ("c", "val"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    pixels = np.zeros((1, 1, 1), np.int16)
    samples = [Sample(pixels=pixels, sensor="enmap", id=f"{i}", group=group) for i, (group, _) in enumerate(LISTING)]
    return open_store(write_store(tmp_path_factory.mktemp("index") / "store", samples, [split for _, split in LISTING]))


def members(store: Store, split: str, dates: int = 1, missing: str = "repeat") -> tuple[list[list[int]], int]:
    """Sample numbers of each place, and how many places were dropped."""
    groups = group_samples(store, split, dates, missing, "enmap")
    return [groups.samples(place).tolist() for place in range(len(groups))], groups.dropped


def test_places_hold_the_samples_of_their_group_in_store_order(store: Store):
    assert members(store, "train") == ([[1], [0, 2, 5], [4, 6]], 0)
    assert members(store, "val") == ([[3, 7]], 0)
    assert members(store, "all") == ([[1], [0, 2, 5], [3, 7], [4, 6]], 0)


@pytest.mark.parametrize(
    ("dates", "kept", "dropped"),
    [(1, [[1], [0, 2, 5], [4, 6]], 0), (2, [[0, 2, 5], [4, 6]], 1), (3, [[0, 2, 5]], 2)],
)
def test_drop_leaves_out_places_with_too_few_dates_and_counts_them(store: Store, dates: int, kept: list, dropped: int):
    assert members(store, "train", dates, "drop") == (kept, dropped)
    assert members(store, "train", dates, "repeat") == ([[1], [0, 2, 5], [4, 6]], 0)


def test_many_dates_keep_store_order_too(tmp_path: Path):
    """An unstable sort would only show where there are many."""
    pixels = np.zeros((1, 1, 1), np.int16)
    samples = [Sample(pixels=pixels, sensor="enmap", id=f"{i}", group=str(i * i % 3)) for i in range(300)]
    groups, _ = members(open_store(write_store(tmp_path / "store", samples)), "train")
    assert groups == [list(range(0, 300, 3)), [i for i in range(300) if i % 3]]


def test_nothing_left_after_dropping(store: Store):
    with pytest.raises(ValueError, match=rf"{store.path}: no place of split 'val' has 3 dates; use missing='repeat' or fewer dates"):
        group_samples(store, "val", 3, "drop", "enmap")


def test_an_empty_split_names_the_store_and_the_splits_it_has(store: Store):
    with pytest.raises(ValueError, match=rf"{store.path}: split 'test' is empty; the store has train, val\..*--val"):
        group_samples(store, "test", 1, "repeat", "enmap")


def test_an_empty_store_has_no_sensor(tmp_path: Path):
    with pytest.raises(ValueError, match="no sample of sensor 'enmap'"):
        group_samples(open_store(write_store(tmp_path / "store", [])), "all", 1, "repeat", "enmap")


# -------------------------------------------------------------------------------------------------------------------------- order


def epoch(count: int, seed: int, number: int) -> list[int]:
    order = Order(count, seed)
    return [order[position] for position in range(number * count, (number + 1) * count)]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_epoch_visits_every_place_once(count: int):
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
