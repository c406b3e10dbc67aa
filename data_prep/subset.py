"""Writes a store with the samples of another that match all given options, bit for bit the same.

    python -m data_prep subset /data/stores/s12 --output /data/stores/alps --bbox 5 44 17 48.5 \\
        --since 2020-05-01 --until 2020-09-30
    python -m data_prep subset /data/stores/s12 --output /data/stores/small --split train \\
        --groups 1000
    python -m data_prep subset /data/stores/s12 --output /data/stores/s12_zarr --format zarr

Without any of them it copies the whole store, for another --format. Statistics and label classes
are computed from the chosen samples; splits stay. A sample without coordinates matches no --bbox,
a sample without time no --since or --until. --groups draws by a hash of the name, so a smaller
number draws a subset of the locations of a larger one.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion import rewrite
from eo_jax.data import Store, open_store
from eo_jax.data.store.manifest import PIXEL_SPLIT

_DAY = 86_400
_NO_TIME = np.iinfo(np.int64).min


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep subset`."""
    parser.description = __doc__
    parser.epilog = (
        "example: python -m data_prep subset /data/stores/s12 --output /data/stores/clear "
        "--max-nodata 0.1 --split train val"
    )
    add = parser.add_argument
    add("store", type=Path, metavar="STORE", help="folder of the store; never written to")
    rewrite.add_output_arguments(parser)
    add("--split", nargs="+", default=[], metavar="NAME", help="samples of these splits")
    add("--sensor", nargs="+", default=[], metavar="ID", help="samples of these sensors")
    add("--ids", type=Path, metavar="FILE", help="samples in this text file, one id per line")
    add(
        "--match",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="samples whose id matches one of these patterns, such as 'north/*'",
    )
    add(
        "--bbox",
        nargs=4,
        type=float,
        metavar=("W", "S", "E", "N"),
        help="samples with their centre in this box, in degrees; W > E crosses 180 degrees",
    )
    add(
        "--since",
        type=datetime.date.fromisoformat,
        metavar="DATE",
        help="samples of this day (UTC) or later, such as 2020-05-01",
    )
    add(
        "--until",
        type=datetime.date.fromisoformat,
        metavar="DATE",
        help="samples of this day (UTC) or earlier",
    )
    add(
        "--max-nodata",
        type=float,
        metavar="F",
        help="samples with at most this fraction of no-data values, from 0 to 1",
    )
    add("--groups", type=int, metavar="N", help="all samples of N of the remaining locations")


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Raises ValueError where no sample matches, StoreError, RecordError, OSError.
    """
    store = open_store(args.store)
    chosen = choose(store, args)
    name = f"subset of {rewrite.archive_name(store)}"
    about = rewrite.describe_sources("subset", name, [store], _options(args), args)
    rewrite.write([store], rewrite.items_of(store, 0, chosen.tolist()), about, args)
    return 0


def choose(store: Store, args: argparse.Namespace) -> np.ndarray:
    """Numbers of the samples that match every option, ascending.

    Raises ValueError where an option leaves none.
    """
    kept = np.ones(len(store), bool)
    for option, mask in _masks(store, args):
        before = int(kept.sum())
        kept &= mask
        if not kept.any():
            raise ValueError(
                f"{store.path}: {option} leaves none of {before} samples; `python -m data_prep "
                f"inspect {store.path}` shows the contents"
            )
    chosen = np.flatnonzero(kept)
    return (
        chosen
        if args.groups is None
        else chosen[_in_groups(store.index["group"][chosen], args.groups)]
    )


def _masks(store: Store, args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """The options that were given, each with its mask, bool [samples]."""
    index = store.index
    for column in ("split", "sensor"):
        wanted = getattr(args, column)
        if wanted:
            yield f"--{column}", _one_of(store, column, wanted)
    if args.ids:
        yield "--ids", np.isin(index["id"], _ids(args.ids, store))
    if args.match:
        yield (
            "--match",
            np.array(
                [
                    any(fnmatch.fnmatchcase(name, pattern) for pattern in args.match)
                    for name in index["id"].tolist()
                ],
                bool,
            ),
        )
    if args.bbox:
        yield "--bbox", _inside(index["lonlat"], *args.bbox)
    if args.since:
        yield "--since", index["time"] >= _seconds(args.since)
    if args.until:
        yield "--until", (index["time"] < _seconds(args.until) + _DAY) & (index["time"] != _NO_TIME)
    if args.max_nodata is not None:
        yield "--max-nodata", index["nodata_share"] <= args.max_nodata


def _one_of(store: Store, column: str, wanted: list[str]) -> np.ndarray:
    present = set(store.index[column].tolist())
    # A scene that is split by pixel belongs to every split.
    everywhere = {PIXEL_SPLIT} & present if column == "split" else set()
    unknown = [] if everywhere else sorted(set(wanted) - present)
    if unknown:
        raise ValueError(
            f"{store.path}: no sample has --{column} {unknown[0]!r}; expected one of "
            f"{', '.join(sorted(present))}"
        )
    return np.isin(store.index[column], [*wanted, *everywhere])


def _ids(file: Path, store: Store) -> list[str]:
    try:
        wanted = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: is not UTF-8 text ({error.reason} at byte {error.start}); write one id per "
            "line"
        ) from error
    wanted = [line.strip() for line in wanted if line.strip()]
    unknown = sorted(set(wanted) - set(store.index["id"].tolist()))
    if unknown:
        raise ValueError(
            f"{file}: {len(unknown)} ids are not in {store.path}, such as {unknown[0]!r}; remove "
            "them"
        )
    return wanted


def _inside(lonlat: np.ndarray, west: float, south: float, east: float, north: float) -> np.ndarray:
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise ValueError(
            f"--bbox {west:g} {south:g} {east:g} {north:g}; expected west, south, east and north "
            "in degrees"
        )
    longitude, latitude = lonlat.T  # NaN is in no interval
    between = (
        (west <= longitude) & (longitude <= east)
        if west <= east
        else (west <= longitude) | (longitude <= east)
    )
    return between & (south <= latitude) & (latitude <= north)


def _seconds(day: datetime.date) -> int:
    return (day - datetime.date(1970, 1, 1)).days * _DAY


def _in_groups(groups: np.ndarray, count: int) -> np.ndarray:
    """bool [samples]: whether a sample's location is among the first `count` by hash of name."""
    if count < 1:
        raise ValueError(f"--groups {count}; expected 1 or more")
    order = sorted(set(groups.tolist()), key=lambda name: hashlib.sha256(name.encode()).digest())
    return np.isin(groups, order[:count])


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The options for the manifest; a list of ids as its hash, since paths differ by machine."""
    days = {name: str(getattr(args, name)) for name in ("since", "until") if getattr(args, name)}
    ids = {"ids_sha256": hashlib.sha256(args.ids.read_bytes()).hexdigest()} if args.ids else {}
    plain = {
        name: getattr(args, name)
        for name in ("split", "sensor", "match", "bbox", "max_nodata", "groups")
    }
    return {
        **{name: value for name, value in plain.items() if value not in (None, [])},
        **days,
        **ids,
    }
