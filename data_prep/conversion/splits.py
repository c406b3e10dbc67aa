"""Assigns splits: by the archive's own lists, by name, or by fractions of the locations."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from data_prep.reader import Item


def assign(
    items: Sequence[Item],
    patterns: Sequence[str],
    val: float | None,
    test: float | None = None,
    ground: Callable[[], Mapping[str, str]] = dict,
) -> list[Item]:
    """The items with their `split`.

    `ground` gives {location: name of its ground}: locations of one ground are drawn together. It is
    called only where locations are drawn.

    Raises ValueError where the options contradict the archive or each other, or leave a split
    empty.
    """
    listed = any(item.split for item in items)
    drawn = {
        split: fraction
        for split, fraction in (("val", val), ("test", test))
        if fraction is not None
    }
    check_fractions(drawn)
    if listed and (patterns or drawn):
        raise ValueError(
            "the archive has its own split; leave --val, --val-fraction and --test-fraction out, "
            "or use --split blocks:KM"
        )
    if patterns and drawn:
        raise ValueError("--val was given with --val-fraction or --test-fraction; give one of them")
    if listed:
        return list(items)
    if patterns:
        matched = _matching(items, patterns)
        chosen = [
            dataclasses.replace(item, split="val" if item.id in matched else "train")
            for item in items
        ]
    else:
        place = {item.group: item.group for item in items} | dict(ground())
        split_of = assign_fractions(place.values(), drawn)
        chosen = [dataclasses.replace(item, split=split_of[place[item.group]]) for item in items]
    _check(chosen, {*drawn, *(["val"] if patterns else [])})
    return chosen


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises ValueError where nothing would be left for training."""
    if sum(fractions.values()) >= 1:
        given = " and ".join(
            f"--{split}-fraction {fraction:g}" for split, fraction in fractions.items()
        )
        raise ValueError(f"{given} leave nothing for training; their sum must be less than 1")


def assign_fractions(names: Iterable[str], fractions: Mapping[str, float]) -> dict[str, str]:
    """{name: split}: each split of `fractions` gets its fraction of the names, "train" the rest.

    A name is drawn by its hash alone, so new names do not move others. Each split with a fraction
    above 0 gets at least one name and train keeps one.
    """
    order = sorted(set(names), key=_position)
    split_of, taken, edge = dict.fromkeys(order, "train"), 0, 0.0
    for split, fraction in fractions.items():
        edge += fraction
        count = sum(_position(name) < edge for name in order[taken:]) if fraction else 0
        count = min(max(count, 1 if fraction else 0), max(len(order) - 1 - taken, 0))
        split_of.update(dict.fromkeys(order[taken : taken + count], split))
        taken += count
    return split_of


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
    """A location's position in [0, 1), by its name alone: all its dates stay in one split, and new
    locations do not move others.
    """
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6]) / 2**48


def _check(items: Sequence[Item], wanted: set[str]) -> None:
    splits_of = collections.defaultdict(set)
    for item in items:
        splits_of[item.group].add(item.split)
    divided = [group for group, splits in splits_of.items() if len(splits) > 1]
    if divided:
        hint = f"match all dates of a location, as {divided[0] + '/*'!r} does"
        raise ValueError(
            f"--val puts {len(divided)} locations in both splits, such as {divided[0]!r}; {hint}"
        )
    counts = collections.Counter(item.split for item in items)
    if wanted - set(counts) or (wanted and "train" not in counts):
        raise ValueError(
            f"all {len(splits_of)} locations go to {next(iter(counts))!r}; name those for "
            "validation with --val, or draw overlapping ones separately with --allow-overlap"
        )
