"""Finds the tensors of an encoder among those of a file: under which prefix, and what is left."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np

from eo_jax.exchange.layout import Layout

# Where a file has several encoders, the first of these that is there is taken, also inside another
# dict: teachers, but the student of MoCo, as in the evaluations of those projects.
_PREFERRED = (
    "module.encoder_q.",
    "module.base_encoder.",
    "encoder_q.",
    "base_encoder.",
    "teacher.module.backbone.",
    "teacher.backbone.",
    "teacher.",
    "teacher_backbone.",
    "backbone.",
)


def find_prefix(keys: Iterable[str], needed: Iterable[str], asked: str | None = None) -> str:
    """The prefix under which a file has the needed keys, or most of them.

    Args:
        asked: the prefix that the user names; None to look for it.

    Raises:
        ValueError: there is none, or there are several and none is known to be the usual one.
    """
    keys, needed = set(keys), list(needed)
    candidates = {
        key[: -len(name)]
        for name in needed
        for key in keys
        if key.endswith(name) and (key == name or key[-len(name) - 1] == ".")
    }
    counts = {prefix: sum(prefix + name in keys for name in needed) for prefix in candidates}
    if asked is not None:
        if not counts.get(asked):
            raise ValueError(f"--prefix: {asked!r}; no key of the layout is under it")
        return asked
    most = max(counts.values(), default=0)
    if most * 2 <= len(needed):
        raise ValueError(
            f"the file has {most} of the {len(needed)} keys of the layout under any prefix; its "
            f"first keys: {', '.join(sorted(keys)[:5])}; give another --config or layout"
        )
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    if len(best) == 1:
        return best[0]
    for wanted in _PREFERRED:
        usual = [prefix for prefix in best if f".{prefix}".endswith(f".{wanted}")]
        if len(usual) == 1:
            return usual[0]
    raise ValueError(
        f"the file has several encoders: {', '.join(map(repr, best))}; choose one with --prefix "
        "of eo_jax.import_torch"
    )


def under_prefix(
    layout: Layout, tensors: Mapping[str, np.ndarray], prefix: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(tensors under a prefix, without it and without what the layout ignores; keys left out)."""
    ignored = re.compile("|".join(layout.ignored) or "(?!)")
    taken, left = {}, []
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or ignored.fullmatch(name):
            left.append(key)
        else:
            taken[name] = tensor
    return taken, left


def summary(keys: Iterable[str], prefix: str) -> list[str]:
    """Keys up to the part that is not the prefix's, with their numbers: "module.encoder_k.* (161
    tensors)" beside "module.encoder_q.".
    """
    counts = collections.Counter(_group(key, prefix) for key in keys)
    return [
        f"{name} ({count} tensor{'s' if count > 1 else ''})"
        for name, count in sorted(counts.items())
    ]


def _group(key: str, prefix: str) -> str:
    parts, of_prefix = key.split("."), prefix.split(".")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, of_prefix, strict=False))
    length = sum(1 for _ in same) + 1
    return key if len(parts) <= length else ".".join([*parts[:length], "*"])
