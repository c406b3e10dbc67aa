"""Which samples a config draws from: splits, groups and the endless shuffled order over locations.

All of it is decided before the first read.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import grain
import numpy as np

from eo_jax.data.store.index_file import group_codes, kind_codes, kinds
from eo_jax.data.store.reader import Store


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The locations of one split, as sample numbers.

    Location g has the samples `members[starts[g]:starts[g + 1]]`.

    Attributes:
        members: int64, sample numbers of the store.
        starts: int64 [locations + 1].
        dropped: the number of locations left out for lack of dates, or of samples in a paired
            source.
    """

    members: np.ndarray
    starts: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def samples(self, location: int) -> np.ndarray:
        """Sample numbers of one location."""
        return self.members[self.starts[location] : self.starts[location + 1]]

    def first_samples(self) -> np.ndarray:
        """int64 [locations], the first sample of each."""
        return self.members[self.starts[:-1]]

    def count_short_of(self, dates: int) -> int:
        """The number of locations with fewer acquisitions, some of which are drawn repeatedly."""
        return int((np.diff(self.starts) < dates).sum())

    def select(self, kept: np.ndarray) -> Groups:
        """The locations where `kept`, bool [locations], is True; the others count as dropped."""
        counts = np.diff(self.starts)
        members = self.members[np.repeat(kept, counts)]
        return Groups(
            members,
            np.concatenate([[0], np.cumsum(counts[kept])]),
            self.dropped + int((~kept).sum()),
        )


def group_samples(store: Store, split: str, dates: int, missing: str, sensor: str) -> Groups:
    """The locations of a split that have what a source draws.

    Args:
        split: name in the manifest; "all" for every sample.
        dates: acquisitions drawn from each location.
        missing: "repeat" keeps locations with fewer (dates repeat), "drop" leaves them out.
        sensor: id of the sensor whose samples are drawn; others at a location are ignored.

    Raises:
        ValueError: no such split, or no location left.
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
    by_location = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    counts = counts[counts > 0]  # without locations that this split and sensor lack
    kept = counts >= dates if missing == "drop" else counts >= 1
    if not kept.any():
        raise ValueError(
            f"{store.path}: no location of split {split!r} has {dates} dates; use missing='repeat' "
            "or fewer dates"
        )
    return Groups(chosen[by_location], np.concatenate([[0], np.cumsum(counts)]), 0).select(kept)


def common_locations(sources: Sequence[tuple[Store, Groups]]) -> list[Groups]:
    """The Groups of several sources, restricted to the locations that all of them have.

    Location k is the same in each result. Stores may differ; groups are matched by name. Raises
    ValueError where there is no common location, or one that differs in size between sources.
    """
    stores, all_groups = zip(*sources, strict=True)
    # Sorted, as group_samples leaves them.
    names = [store.index["group"][groups.first_samples()] for store, groups in sources]
    common = functools.reduce(_common, names)
    if not len(common):
        examples = "; ".join(
            f"{store.path} has {own[0]}, ..." for store, own in zip(stores, names, strict=True)
        )
        raise ValueError(
            "no location (column `group` of the index) is in all of these, in the split that is "
            f"drawn: {examples}. Convert them with equal groups"
        )
    shared = [
        groups.select(_is_among(own, common)) for groups, own in zip(all_groups, names, strict=True)
    ]
    _check_sides(list(zip(stores, shared, strict=True)))
    return shared


def _common(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The names in both, each sorted and without repeats; mostly they are equal: no sort."""
    if np.array_equal(names, others):
        return names
    return np.intersect1d(names, others, assume_unique=True)


def _is_among(names: np.ndarray, common: np.ndarray) -> np.ndarray:
    """bool [locations], whether each name is one of the common ones."""
    if len(names) == len(common):
        return np.ones(len(names), bool)
    return np.isin(names, common, assume_unique=True)


def _check_sides(sources: Sequence[tuple[Store, Groups]]) -> None:
    """Raises ValueError where the height or width of a location differs between sources."""
    leader, groups = sources[0]
    expected = _sides(leader, groups.first_samples())
    for store, groups in sources:
        found = _sides(store, groups.members)
        location = np.repeat(np.arange(len(groups)), np.diff(groups.starts))
        wrong = found != expected[location]
        if wrong.any():
            at = np.flatnonzero(wrong.any(1))[0]
            sides = [" x ".join(map(str, shape)) for shape in (found[at], expected[location[at]])]
            raise ValueError(
                f"{store.path}: {store.index['id'][groups.members[at]]} is {sides[0]} pixels, the "
                f"same location in {leader.path} is {sides[1]}; paired sources show the same "
                "window of one grid: convert both to one grid"
            )


def _sides(store: Store, samples: np.ndarray) -> np.ndarray:
    """int64 [samples, 2], rows and columns."""
    of_kinds = np.array([shape[1:] for *_, shape in kinds(store.index)])
    return of_kinds[kind_codes(store.index)[samples]]


class Order:
    """Position p of an endless sequence over `count` locations -> location.

    Every epoch is another permutation, computed in O(1) for any p.
    """

    def __init__(self, count: int, seed: int):
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def __getitem__(self, position: int) -> int:
        return int(self._order[position])
