"""Which samples a recipe draws from: splits, groups and the endless shuffled order over them, all decided before the first read."""

from __future__ import annotations

import dataclasses

import grain
import numpy as np

from eo_jax.data.stores import PIXEL_SPLIT, Store


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The places of one split, as sample numbers: place g holds `members[starts[g]:starts[g + 1]]`.

    Attributes:
        members: int64, sample numbers of the store.
        starts: int64 [places + 1].
        dropped: places left out for want of dates.
    """

    members: np.ndarray
    starts: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def samples(self, place: int) -> np.ndarray:
        """Sample numbers of one place."""
        return self.members[self.starts[place] : self.starts[place + 1]]


def group_samples(store: Store, split: str, dates: int, missing: str, sensor: str) -> Groups:
    """The places of a split that offer what a recipe draws.

    Args:
        split: name in the manifest; "all" for every sample.
        dates: acquisitions drawn from each place.
        sensor: whose samples; a place may have been seen by others, too.
        missing: what becomes of a place with fewer: "repeat" keeps it (dates repeat), "drop" leaves it out.

    Raises:
        ValueError: no such split, or nothing left.
    """
    of_sensor = store.index["sensor"] == sensor
    if not of_sensor.any():
        names = ", ".join(sorted(set(store.index["sensor"].tolist())))
        raise ValueError(f"{store.path}: no sample of sensor {sensor!r}; the store has {names}. Set config.data.sources.*.sensor to one of them.")
    # A scene whose labels are split by pixel belongs to every split; its labels are cut down when they are read.
    in_split = np.isin(store.index["split"], (split, PIXEL_SPLIT)) | (split == "all")
    chosen = np.flatnonzero(of_sensor & in_split)
    if not len(chosen):
        names = ", ".join(sorted(set(store.index["split"].tolist())))
        raise ValueError(f"{store.path}: split {split!r} is empty; the store has {names}. Convert with --val or --val-share to make one.")
    _, place = np.unique(store.index["group"][chosen], return_inverse=True)
    by_place = np.argsort(place, kind="stable")
    counts = np.bincount(place)
    kept = counts >= dates if missing == "drop" else counts >= 1
    if not kept.any():
        raise ValueError(f"{store.path}: no place of split {split!r} has {dates} dates; use missing='repeat' or fewer dates")
    members = chosen[by_place][np.repeat(kept, counts)]
    return Groups(members, np.concatenate([[0], np.cumsum(counts[kept])]), int((~kept).sum()))


class Order:
    """Position p in an endless run over `count` places -> place: every epoch another permutation, computed in O(1) for any p."""

    def __init__(self, count: int, seed: int):
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def __getitem__(self, position: int) -> int:
        return int(self._order[position])
