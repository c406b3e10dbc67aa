"""Splits by place on the ground: whole square blocks go to one side, so that no scene or field is
on both.

Random splits, as most archives publish them, put patches of one scene into training and test;
scores on them are optimistic.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.archive import ArchiveError
from data_prep.conversion.splits import shares
from data_prep.jobs import executors, progress
from data_prep.reader import Files, Item, LeftOut, Reader
from eo_jax.data.store.files import write_atomically

KM_A_DEGREE = 111.195  # of latitude, on a sphere of 6371 km
_PLACES_A_TASK = 64


def side_km(rule: str) -> float:
    """The side in "blocks:KM". Raises ValueError for anything else."""
    kind, _, side = rule.partition(":")
    try:
        km = float(side)
    except ValueError:
        km = math.nan
    if kind != "blocks" or not 0 < km <= 5000:
        raise ValueError(
            f"--split {rule!r}; expected archive, or blocks:KM with the side of a block, such as "
            "blocks:50"
        )
    return km


def assign(
    reader: Reader,
    items: Sequence[Item],
    km: float,
    wanted: Mapping[str, float],
    workers: int,
    kept: Path | None,
) -> list[Item]:
    """The items with their `split`, all dates of a place and all places of a block on one side.

    Args:
        km: side of a block.
        wanted: {split: share of the blocks}; the rest is "train".
        kept: file that keeps where the places are, so that a run that is resumed need not read them
            again.

    The first readable date of each place says where the place is. Raises ArchiveError for a place
    that has no coordinates, ValueError where there are fewer blocks than splits.
    """
    places: dict[str, list[Item]] = {}
    for item in items:
        places.setdefault(item.group, []).append(item)
    block = {
        group: block_of(*lonlat, km)
        for group, lonlat in _kept_places(reader, places, workers, kept).items()
    }
    side = shares(block.values(), wanted)
    empty = [split for split in ("train", *wanted) if split not in side.values()]
    if empty:
        found = len(set(block.values()))
        raise ValueError(
            f"--split blocks:{km:g}: nothing is left for {empty[0]!r}, because all places lie in "
            f"{found} blocks; take smaller ones"
        )
    return [dataclasses.replace(item, split=side[block[item.group]]) for item in items]


def block_of(longitude: float, latitude: float, km: float) -> str:
    """Name of the block of `km` a side; rows of equal latitude, in each the columns that keep the
    width.
    """
    row = math.floor(latitude * KM_A_DEGREE / km)
    middle = math.radians(min(max((row + 0.5) * km / KM_A_DEGREE, -89.9), 89.9))
    return f"{row}_{math.floor(longitude * KM_A_DEGREE * math.cos(middle) / km)}"


def _kept_places(
    reader: Reader, places: dict[str, list[Item]], workers: int, kept: Path | None
) -> dict[str, tuple[float, float]]:
    if kept and kept.exists():
        found = json.loads(kept.read_bytes())
        if found.keys() == places.keys():
            return found
    found = _locate(reader, places, workers)
    if kept:
        write_atomically(kept, json.dumps(found).encode())
    return found


def _locate(
    reader: Reader, places: dict[str, list[Item]], workers: int
) -> dict[str, tuple[float, float]]:
    """{place: lonlat}, read from the samples in worker processes."""
    work = list(places.values())
    tasks = [work[start : start + _PLACES_A_TASK] for start in range(0, len(work), _PLACES_A_TASK)]
    found: dict[str, tuple[float, float]] = {}
    with progress.show("locate", len(work), "places") as advance:
        for located in executors.run(functools.partial(locate, reader), tasks, workers):
            found |= located
            advance(len(located), 0)
    return found


def locate(reader: Reader, places: Sequence[Sequence[Item]]) -> dict[str, tuple[float, float]]:
    """{place: lonlat} of some places, each given as its items."""
    return {items[0].group: _lonlat(reader, items) for items in places}


def _lonlat(reader: Reader, items: Sequence[Item]) -> tuple[float, float]:
    reason = "no sample of the place can be read"
    for item in items:
        try:
            lonlat = reader.read(item, Files(reader.archive, item)).lonlat
        except (ArchiveError, LeftOut) as error:
            reason = str(error)
            continue
        if lonlat is not None:
            return lonlat
        reason = "it has no coordinates"
    raise ArchiveError(
        items[0].files[0].name,
        f"--split blocks needs to know where it is, but {reason}; use --val-share, or leave the "
        "file out",
    )
