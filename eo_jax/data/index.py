"""Which samples a recipe draws from: splits, groups and the endless shuffled order over them, all
decided before the first read.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import grain
import numpy as np

from eo_jax.data.store.manifest import group_codes
from eo_jax.data.store.reader import Store


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The locations of one split, as sample numbers: location g holds `members[starts[g]:starts[g +
    1]]`.

    Attributes:
        members: int64, sample numbers of the store.
        starts: int64 [locations + 1].
        dropped: locations left out for want of dates, or of samples in a source that follows or is
            followed.
    """

    members: np.ndarray
    starts: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def samples(self, location: int) -> np.ndarray:
        """Sample numbers of one location."""
        return self.members[self.starts[location] : self.starts[location + 1]]

    def first(self) -> np.ndarray:
        """int64 [locations], one sample of each."""
        return self.members[self.starts[:-1]]

    def short_of(self, dates: int) -> int:
        """How many locations have fewer acquisitions than that, so that some are drawn twice."""
        return int((np.diff(self.starts) < dates).sum())

    def only(self, kept: np.ndarray) -> Groups:
        """The locations where `kept`, bool [locations], is true; the others count as dropped."""
        counts = np.diff(self.starts)
        members = self.members[np.repeat(kept, counts)]
        return Groups(
            members,
            np.concatenate([[0], np.cumsum(counts[kept])]),
            self.dropped + int((~kept).sum()),
        )


def group_samples(store: Store, split: str, dates: int, missing: str, sensor: str) -> Groups:
    """The locations of a split that offer what a recipe draws.

    Args:
        split: name in the manifest; "all" for every sample.
        dates: acquisitions drawn from each location.
        sensor: whose samples; a location may have been seen by others, too.
        missing: what becomes of a location with fewer: "repeat" keeps it (dates repeat), "drop"
            leaves it out.

    Raises:
        ValueError: no such split, or nothing left.
    """
    of_sensor = store.index["sensor"] == sensor
    if not of_sensor.any():
        names = ", ".join(sorted(set(store.index["sensor"].tolist())))
        raise ValueError(
            f"{store.path}: no sample of sensor {sensor!r}; the store has {names}. Set "
            "config.data.sources.*.sensor to one of them."
        )
    chosen = np.flatnonzero(of_sensor & store.in_split(split))
    if not len(chosen):
        raise ValueError(
            f"{store.path}: split {split!r} has no sample of sensor {sensor!r}. Convert with --val "
            "or --val-fraction to put some there."
        )
    codes = group_codes(store.index)[chosen]
    by_place = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    counts = counts[counts > 0]  # of locations that this split and sensor have
    kept = counts >= dates if missing == "drop" else counts >= 1
    if not kept.any():
        raise ValueError(
            f"{store.path}: no location of split {split!r} has {dates} dates; use missing='repeat' "
            "or "
            "fewer dates"
        )
    return Groups(chosen[by_place], np.concatenate([[0], np.cumsum(counts)]), 0).only(kept)


def common_locations(seen: Sequence[tuple[Store, Groups]]) -> list[Groups]:
    """What several sources have of the locations that all of them have seen: location k is the same
    in each. Stores may differ; groups go by their name.

    Raises ValueError where there is no such location, or one is not of the same size everywhere.
    """
    names = [
        store.index["group"][groups.first()] for store, groups in seen
    ]  # sorted, as group_samples leaves them
    common = functools.reduce(_common, names)
    if not len(common):
        found = "; ".join(
            f"{store.path} has {own[0]}, ..." for (store, _), own in zip(seen, names, strict=True)
        )
        raise ValueError(
            "no location (column `group` of the index) is in all of these, in the split that is "
            f"drawn: {found}. Convert them with equal groups"
        )
    paired = [
        groups.only(_is_among(own, common)) for (_, groups), own in zip(seen, names, strict=True)
    ]
    _check_sides([(store, groups) for (store, _), groups in zip(seen, paired, strict=True)])
    return paired


def _common(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What is in both, each sorted and without repeats. Mostly they are equal, and nothing has to
    be sorted.
    """
    return (
        names
        if np.array_equal(names, others)
        else np.intersect1d(names, others, assume_unique=True)
    )


def _is_among(names: np.ndarray, common: np.ndarray) -> np.ndarray:
    """bool [locations], whether each name is among those that are common."""
    return (
        np.ones(len(names), bool)
        if len(names) == len(common)
        else np.isin(names, common, assume_unique=True)
    )


def _check_sides(seen: Sequence[tuple[Store, Groups]]) -> None:
    leader, groups = seen[0]
    expected = leader.index["shape"][groups.first(), 1:]
    for store, groups in seen:
        found = store.index["shape"][groups.members, 1:]
        location = np.repeat(np.arange(len(groups)), np.diff(groups.starts))
        wrong = found != expected[location]
        if wrong.any():
            at = np.flatnonzero(wrong.any(1))[0]
            sides = [" x ".join(map(str, shape)) for shape in (found[at], expected[location[at]])]
            raise ValueError(
                f"{store.path}: {store.index['id'][groups.members[at]]} is {sides[0]} pixels, the "
                f"same location in {leader.path} is {sides[1]}; "
                "sources that follow one another show one window of one grid: convert both to one "
                "grid"
            )


class Order:
    """Position p in an endless run over `count` locations -> location: every epoch another
    permutation, computed in O(1) for any p.
    """

    def __init__(self, count: int, seed: int):
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def __getitem__(self, position: int) -> int:
        return int(self._order[position])
