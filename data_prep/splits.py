"""Decides which samples are for validation: by the archive's own lists, by name, or by a share of the places."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import hashlib
from collections.abc import Sequence

from data_prep.readers import Item


def assign(items: Sequence[Item], patterns: Sequence[str], share: float | None) -> list[Item]:
    """The items with their `split`. Raises ValueError where the options contradict the archive, each other, or leave a side empty."""
    listed = any(item.split for item in items)
    if listed and (patterns or share is not None):
        raise ValueError("the archive has its own lists in splits/; leave --val and --val-share out, or remove the lists")
    if patterns and share is not None:
        raise ValueError("--val and --val-share were both given; keep one of them")
    if listed:
        return list(items)
    val = _matching(items, patterns) if patterns else _drawn(items, share or 0.0)
    chosen = [dataclasses.replace(item, split="val" if item.id in val else "train") for item in items]
    _check(chosen, wanted=bool(patterns) or share is not None)
    return chosen


def _matching(items: Sequence[Item], patterns: Sequence[str]) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        found = {item.id for item in items if fnmatch.fnmatchcase(item.id, pattern)}
        if not found:
            raise ValueError(f"--val {pattern!r} matches none of the {len(items)} ids; the first is {items[0].id!r}")
        matched |= found
    return matched


def _drawn(items: Sequence[Item], share: float) -> set[str]:
    """Ids of a share of the places: at least one place where the share is not 0, and never all, so that ten tiles always give a validation set."""
    order = sorted({item.group for item in items}, key=_position)
    wanted = sum(_position(group) < share for group in order)
    places = set(order[: min(max(wanted, 1), len(order) - 1) if share else 0])
    return {item.id for item in items if item.group in places}


def _position(group: str) -> float:
    """Where a place lies in [0, 1). It depends on its name alone: all its dates stay on one side, and new places move no other."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6]) / 2**48


def _check(items: Sequence[Item], wanted: bool) -> None:
    sides = collections.defaultdict(set)
    for item in items:
        sides[item.group].add(item.split)
    torn = [group for group, splits in sides.items() if len(splits) > 1]
    if torn:
        cure = f"match all dates of a place, as {torn[0] + '/*'!r} does"
        raise ValueError(f"--val puts {len(torn)} places on both sides, such as {torn[0]!r}; {cure}")
    counts = collections.Counter(item.split for item in items)
    if wanted and len(counts) < 2:
        raise ValueError(f"every one of the {len(sides)} places goes to {next(iter(counts))!r}; name those for validation with --val")
