"""First-match regex tables over the paths of a tree.

This is the only way to select weights for sharding, decay, freezing, scaling or renaming.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

Rules = Sequence[tuple[str, Any]]

# The key of Params and Carry for {source: leaves that belong to its sensor alone}.
PER_SENSOR = "own"
# Keys of the parts of a network that come before its blocks: layer 0 of layer-wise decay.
EMBEDDINGS = ("stem", "cls_token", "registers", "mask_token", "position_embedding")


def paths(tree: Any) -> Iterator[tuple[str, Any]]:
    """("encoder/trunk/cls_token", leaf) for every leaf, in tree order."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield path_name(keys), leaf


def path_name(keys: tuple) -> str:
    """A jax key path as "a/b/c"."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def is_stacked(path: str) -> bool:
    """Whether the first axis of the weight at this path is that of layers.

    Blocks are stacked below "layers/".
    """
    return "/layers/" in f"/{path}"


def is_per_sensor(path: str) -> bool:
    """Whether the weight at this path belongs to one sensor among several."""
    return path.startswith(f"{PER_SENSOR}/")


def is_embedding(path: str) -> bool:
    """Whether the weight at this path embeds patches or is a learned token."""
    return not set(EMBEDDINGS).isdisjoint(path.split("/"))


def match(rules: Rules, tree: Any, table: str) -> Any:
    """A tree of the same structure: for each leaf, the value of the first rule that matches it.

    Args:
        rules: (regex, value) pairs, tried in order with `re.search`.
        tree: any pytree.
        table: the name of the rule table, for errors.

    Raises:
        ValueError: a leaf that no rule matches, or a rule that no leaf reaches: a typing mistake or
            a forgotten weight.
    """

    def refuse(path: str) -> Any:
        raise ValueError(
            f"{table}: no rule matches {path!r}; add one, or end the table with ('.*', ...)"
        )

    return _first_match(rules, tree, table, refuse)


def match_some(rules: Rules, tree: Any, table: str, otherwise: Any) -> Any:
    """As `match`, but a leaf that no rule matches gets `otherwise`.

    A rule that no leaf reaches is a ValueError here too.
    """
    return _first_match(rules, tree, table, lambda _: otherwise)


def needed(rules: Rules, tree: Any) -> Rules:
    """The rules that some leaf reaches, of a table that is made for many trees."""
    first = [
        next((i for i, (pattern, _) in enumerate(rules) if re.search(pattern, path)), None)
        for path, _ in paths(tree)
    ]
    return tuple(rule for i, rule in enumerate(rules) if i in first)


def _first_match(rules: Rules, tree: Any, table: str, unmatched: Callable[[str], Any]) -> Any:
    compiled = [(_compile(pattern, table), value) for pattern, value in rules]
    used = [False] * len(compiled)

    def first(keys: tuple, _: Any) -> Any:
        path = path_name(keys)
        for i, (pattern, value) in enumerate(compiled):
            if pattern.search(path):
                used[i] = True
                return value
        return unmatched(path)

    matched = jax.tree_util.tree_map_with_path(first, tree)
    unused = [pattern for (pattern, _), was_used in zip(rules, used, strict=True) if not was_used]
    if unused:
        raise ValueError(
            f"{table}: rules that match no weight, or only weights of earlier rules: {unused}; "
            "remove or reorder them"
        )
    return matched


def _compile(pattern: str, table: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{table}: {pattern!r} is not a regular expression: {error}") from error
