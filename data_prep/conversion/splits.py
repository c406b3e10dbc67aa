"""Decides which samples are for validation and test: by the archive's own lists, by name, or by a
share of the locations.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from data_prep.reader import Item


def assign(
    items: Sequence[Item], patterns: Sequence[str], val: float | None, test: float | None = None
) -> list[Item]:
    """The items with their `split`. Raises ValueError where the options contradict the archive,
    each other, or leave a side empty.
    """
    listed = any(item.split for item in items)
    drawn = {split: share for split, share in (("val", val), ("test", test)) if share is not None}
    check_fractions(drawn)
    if listed and (patterns or drawn):
        raise ValueError(
            "the archive has its own split; leave --val, --val-fraction and --test-fraction out, "
            "or use "
            "--split blocks:KM"
        )
    if patterns and drawn:
        raise ValueError("--val and --val-fraction or --test-fraction were given; keep one of them")
    if listed:
        return list(items)
    if patterns:
        matched = _matching(items, patterns)
        chosen = [
            dataclasses.replace(item, split="val" if item.id in matched else "train")
            for item in items
        ]
    else:
        side = assign_fractions({item.group for item in items}, drawn)
        chosen = [dataclasses.replace(item, split=side[item.group]) for item in items]
    _check(chosen, {*drawn, *(["val"] if patterns else [])})
    return chosen


def check_fractions(wanted: Mapping[str, float]) -> None:
    """Raises ValueError where nothing would be left for training."""
    if sum(wanted.values()) >= 1:
        given = " and ".join(f"--{split}-share {share:g}" for split, share in wanted.items())
        raise ValueError(f"{given} leave nothing for training; their sum has to be less than 1")


def assign_fractions(names: Iterable[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """{name: split} that gives each split of `wanted` its share of the names, by a hash of the
    name, and "train" the rest.

    The hash depends on the name alone, so new names move no other. Each split of a share above 0
    gets at least one name and train keeps one.
    """
    order = sorted(set(names), key=_position)
    side, taken, edge = dict.fromkeys(order, "train"), 0, 0.0
    for split, share in wanted.items():
        edge += share
        count = sum(_position(name) < edge for name in order[taken:]) if share else 0
        count = min(max(count, 1 if share else 0), max(len(order) - 1 - taken, 0))
        side.update(dict.fromkeys(order[taken : taken + count], split))
        taken += count
    return side


def _matching(items: Sequence[Item], patterns: Sequence[str]) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        found = {item.id for item in items if fnmatch.fnmatchcase(item.id, pattern)}
        if not found:
            raise ValueError(
                f"--val {pattern!r} matches none of the {len(items)} ids; the first is "
                f"{items[0].id!r}"
            )
        matched |= found
    return matched


def _position(group: str) -> float:
    """Where a location lies in [0, 1). It depends on its name alone: all its dates stay on one
    side, and new locations move no other.
    """
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6]) / 2**48


def _check(items: Sequence[Item], wanted: set[str]) -> None:
    sides = collections.defaultdict(set)
    for item in items:
        sides[item.group].add(item.split)
    torn = [group for group, splits in sides.items() if len(splits) > 1]
    if torn:
        cure = f"match all dates of a location, as {torn[0] + '/*'!r} does"
        raise ValueError(
            f"--val puts {len(torn)} locations on both sides, such as {torn[0]!r}; {cure}"
        )
    counts = collections.Counter(item.split for item in items)
    if wanted - set(counts) or (wanted and "train" not in counts):
        raise ValueError(
            f"every one of the {len(sides)} locations goes to {next(iter(counts))!r}; name those "
            "for "
            "validation with --val"
        )
