"""Writes one store with all samples of several others, bit for bit the same, store after store.

    python -m data_prep merge /data/stores/s1 /data/stores/s2 --output /data/stores/s12
    python -m data_prep merge /data/stores/oscd /data/stores/geonrw --output /data/stores/both \\
        --prefix

Equal location names mean the same location, so stores of one sensor each become one store of
several sensors. Where equal names mean different locations, or ids collide, --prefix puts the name
of the store's folder in front of both. Splits stay; statistics and label classes are computed from
all samples.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from data_prep.conversion import rewrite
from data_prep.conversion.rewrite import store_name
from data_prep.reader import Item
from eo_jax.data import Store, open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep merge`."""
    parser.description = __doc__
    parser.epilog = (
        "example: python -m data_prep merge /data/stores/s1 /data/stores/s2 --output "
        "/data/stores/s12 --format zarr"
    )
    parser.add_argument(
        "stores",
        type=Path,
        nargs="+",
        metavar="STORE",
        help="folders of two or more stores; never written to",
    )
    rewrite.add_output_arguments(parser)
    parser.add_argument(
        "--prefix",
        action="store_true",
        help="put the name of the store's folder in front of ids and locations",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Raises ValueError for stores that cannot be merged, StoreError, RecordError, OSError.
    """
    if len(args.stores) < 2:
        raise ValueError(
            "merge needs two or more stores; for a part of one, or another format, use subset"
        )
    sources = [open_store(path) for path in args.stores]
    items = [
        item for number, store in enumerate(sources) for item in _items(store, number, args.prefix)
    ]
    check(sources, items)
    name = " + ".join(dict.fromkeys(map(rewrite.archive_name, sources)))
    about = rewrite.describe_sources("merge", name, sources, {"prefix": args.prefix}, args)
    rewrite.write(sources, items, about, args)
    return 0


def _items(store: Store, number: int, prefix: bool) -> list[Item]:
    return rewrite.items_of(
        store, number, range(len(store)), f"{store_name(store)}/" if prefix else ""
    )


def check(sources: Sequence[Store], items: Sequence[Item]) -> None:
    """Raises ValueError where sensors or labels of the same name differ, an id occurs twice, or a
    location is in different splits in two stores.
    """
    for one, other in itertools.combinations(sources, 2):
        _check_alike(one, other, "sensors", "convert both archives with one version of eo_jax")
        _check_alike(
            one, other, "labels", "write the label the same way in both archives and convert again"
        )
        _check_class_names(one, other)
    _check_ids(sources, items)
    _check_locations(sources, items)


def _check_alike(one: Store, other: Store, entry: str, hint: str) -> None:
    """Sensors or labels of the same name may differ only in the classes that occur."""
    for name in one.about(entry).keys() & other.about(entry).keys():
        first, second = (
            {**store.about(entry)[name], "values": None, "classes": None} for store in (one, other)
        )
        differ = sorted(
            field for field in first.keys() | second.keys() if first.get(field) != second.get(field)
        )
        if differ:
            what = f"{entry.removesuffix('s')} {name!r} has a different {differ[0]} in the second"
            raise ValueError(f"{one.path} and {other.path}: {what}; {hint}")


def _check_class_names(one: Store, other: Store) -> None:
    """Raises ValueError where a class number means something else in the second store."""
    for label in one.about("labels").keys() & other.about("labels").keys():
        first, second = (store.about("labels")[label].get("classes", {}) for store in (one, other))
        for number in sorted(first.keys() & second.keys(), key=int):
            names = first[number].get("name"), second[number].get("name")
            if None not in names and names[0] != names[1]:
                raise ValueError(
                    f"{one.path} and {other.path}: class {number} of label {label!r} is "
                    f"{names[0]!r} in the first and {names[1]!r} in the second; number the classes "
                    "alike and convert again"
                )


def _check_ids(sources: Sequence[Store], items: Sequence[Item]) -> None:
    found: dict[str, int] = {}
    for item in items:
        if item.id in found:
            one, other = sources[found[item.id]].path, sources[item.part[0]].path
            raise ValueError(
                f"{one} and {other}: both have a sample {item.id!r}; give --prefix, or folders of "
                "different names"
            )
        found[item.id] = item.part[0]


def _check_locations(sources: Sequence[Store], items: Sequence[Item]) -> None:
    splits: dict[str, dict[int, set[str | None]]] = {}
    for item in items:
        splits.setdefault(item.group, {}).setdefault(item.part[0], set()).add(item.split)
    for group, by_store in splits.items():
        (one, first), *others = by_store.items()
        for other, second in others:
            if first != second:
                where = (
                    f"{sources[one].path} in split {_names(first)}, in {sources[other].path} in "
                    f"{_names(second)}"
                )
                hint = (
                    "split both the same way, as `convert --split blocks:KM` does, or give "
                    "--prefix where they are different locations"
                )
                raise ValueError(
                    f"location {group!r} is in {where}; training would see test data: {hint}"
                )


def _names(splits: set[str | None]) -> str:
    return " and ".join(sorted(map(str, splits)))
