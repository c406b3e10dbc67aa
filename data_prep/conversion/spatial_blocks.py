"""Splits by spatial block: whole squares on the ground go to one split.

Most archives publish random splits, which put patches of one scene or field into both training and
test, so scores on them are optimistic.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from data_prep.archive import ArchiveError
from data_prep.conversion.shard_task import read_item
from data_prep.conversion.splits import assign_fractions
from data_prep.jobs import executors, progress
from data_prep.reader import Files, Item, Reader, SkipSample
from eo_jax.data.store.files import write_atomically

KM_PER_DEGREE = 111.195  # of latitude, on a sphere of 6371 km
_LOCATIONS_PER_TASK = 64

LonLat: TypeAlias = tuple[float, float]


def side_km(rule: str) -> float:
    """The block side in "blocks:KM". Raises ValueError for anything else."""
    kind, _, side = rule.partition(":")
    try:
        km = float(side)
    except ValueError:
        km = math.nan
    if kind != "blocks" or not 0 < km <= 5000:
        raise ValueError(
            f"--split {rule!r}; expected archive, or blocks:KM with the side of a block in km, "
            "such as blocks:50"
        )
    return km


def assign(
    reader: Reader,
    items: Sequence[Item],
    km: float,
    fractions: Mapping[str, float],
    workers: int,
    cache: Path | None,
    ground: Callable[[], Mapping[str, str]],
) -> list[Item]:
    """The items with their `split`: all dates of a location and all locations of a block in one.

    Args:
        km: side of a block.
        fractions: {split: fraction of the blocks}; the rest is "train".
        cache: file for the coordinates of the locations, so that a resumed run need not read them
            again.
        ground: gives {location: a location of the same ground} where footprints overlap; they all
            go where that one is, also across the edge of a block.

    The coordinates are those of the first readable date. A location that cannot be read at all is
    in "train": reading it again leaves it out, or ends the conversion. Raises ArchiveError for a
    readable location without coordinates, ValueError where there are fewer blocks than splits.
    """
    locations: dict[str, list[Item]] = {}
    for item in items:
        locations.setdefault(item.group, []).append(item)
    block = {
        group: block_of(*lonlat, km)
        for group, lonlat in _cached_locations(reader, locations, workers, cache).items()
        if lonlat is not None
    }
    same_ground = ground()
    first: dict[str, str] = {}  # of each ground, the first location that has a block
    for group in sorted(block):
        first.setdefault(same_ground.get(group, group), group)
    block = {group: block[first[same_ground.get(group, group)]] for group in block}
    split_of = assign_fractions(block.values(), fractions)
    empty = [split for split in ("train", *fractions) if split not in split_of.values()]
    if empty:
        raise ValueError(
            f"--split blocks:{km:g}: nothing is left for {empty[0]!r}, because all locations are "
            f"in {len(set(block.values()))} blocks; choose smaller blocks, or --allow-overlap if "
            "their footprints overlap"
        )
    split_of_group = {group: split_of[own] for group, own in block.items()}
    return [
        dataclasses.replace(item, split=split_of_group.get(item.group, "train")) for item in items
    ]


def block_of(longitude: float, latitude: float, km: float) -> str:
    """Name of the block with a side of `km`: rows of equal height in latitude, each divided into
    columns of that width.
    """
    row = math.floor(latitude * KM_PER_DEGREE / km)
    middle = math.radians(min(max((row + 0.5) * km / KM_PER_DEGREE, -89.9), 89.9))
    return f"{row}_{math.floor(longitude * KM_PER_DEGREE * math.cos(middle) / km)}"


def _cached_locations(
    reader: Reader, locations: dict[str, list[Item]], workers: int, cache: Path | None
) -> dict[str, LonLat | None]:
    if cache and cache.exists():
        found = json.loads(cache.read_bytes())
        if found.keys() == locations.keys():
            return found
    found = _locate(reader, locations, workers)
    if cache:
        write_atomically(cache, json.dumps(found).encode())
    return found


def _locate(
    reader: Reader, locations: dict[str, list[Item]], workers: int
) -> dict[str, LonLat | None]:
    """{location: lonlat}, read from the samples in worker processes."""
    work = list(locations.values())
    tasks = [
        work[start : start + _LOCATIONS_PER_TASK]
        for start in range(0, len(work), _LOCATIONS_PER_TASK)
    ]
    found: dict[str, LonLat | None] = {}
    with progress.show("locate", len(work), "locations") as advance:
        for located in executors.run(functools.partial(locate, reader), tasks, workers):
            found |= located
            advance(len(located), 0)
    return found


def locate(reader: Reader, locations: Sequence[Sequence[Item]]) -> dict[str, LonLat | None]:
    """{location: lonlat} of some locations, each given as its items; None where none is readable.

    Raises ArchiveError for a readable one without coordinates.
    """
    return {items[0].group: _lonlat(reader, items) for items in locations}


def _lonlat(reader: Reader, items: Sequence[Item]) -> LonLat | None:
    readable = False
    for item in items:
        try:
            lonlat = read_item(reader, item, Files(reader.archive, item), None).lonlat
        except (ArchiveError, SkipSample):
            continue
        if lonlat is not None:
            return lonlat
        readable = True
    if not readable:
        return None
    raise ArchiveError(
        items[0].files[0].name,
        "--split blocks needs its coordinates, but it has none; use --val-fraction without "
        "--split, or remove the file",
    )
