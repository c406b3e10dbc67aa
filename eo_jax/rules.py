"""First-match regex tables over the paths of a tree: the one way to say which weights are sharded, decayed, scaled or renamed how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

Rules = Sequence[tuple[str, Any]]


def paths(tree: Any) -> Iterator[tuple[str, Any]]:
    """("encoder/trunk/cls_token", leaf) for every leaf, in tree order."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield path_name(keys), leaf


def path_name(keys: tuple) -> str:
    """A jax key path as "a/b/c"."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def match(rules: Rules, tree: Any, table: str) -> Any:
    """A tree of the same structure holding, for each leaf, the value of the first rule whose regex is found in its path.

    Args:
        rules: (regex, value) pairs, tried in order with `re.search`.
        tree: any pytree.
        table: the name of the rule table, for errors.

    Raises:
        ValueError: a leaf that no rule matches, or a rule that no leaf reaches: either is a typing mistake or a forgotten weight.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    used = [False] * len(compiled)

    def first(keys: tuple, _: Any) -> Any:
        path = path_name(keys)
        for i, (pattern, value) in enumerate(compiled):
            if pattern.search(path):
                used[i] = True
                return value
        raise ValueError(f"{table}: no rule matches {path!r}; add one, or end the table with ('.*', ...)")

    matched = jax.tree_util.tree_map_with_path(first, tree)
    unused = [pattern for (pattern, _), was_used in zip(rules, used, strict=True) if not was_used]
    if unused:
        raise ValueError(f"{table}: rules that match no weight, or none that an earlier rule left: {unused}; remove or reorder them")
    return matched
