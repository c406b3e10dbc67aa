"""The manifest of a checkpoint: everything in it that is not an array, a checksum of every array,
and a checksum of itself. It is JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from eo_jax import rules
from eo_jax.checkpoint import checksums

_FORMAT = 2
_READABLE = (1, _FORMAT)


class Leaf(NamedTuple):
    """dtype, shape and checksum (eo_jax/checkpoint/checksums.py) of an array of the state."""

    dtype: str
    shape: tuple[int, ...]
    checksum: int

    @property
    def kind(self) -> str:
        """As in "float32[3, 4]"."""
        return f"{self.dtype}{list(self.shape)}"

    def __str__(self) -> str:
        return f"{self.kind} with checksum {self.checksum:08x}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: of the state; also the number of the batch that the next step takes.
        bad_records: {source: samples skipped so far}.
        config: of the run, complete.
        scores: {"eval/<evaluator>/<metric>": value} of evaluations of these weights; finite.
        leaves: {path: Leaf} of the state.
        empty: paths of dicts of the state that have no leaf.
        origin: the step from which this config leads to the state: 0, or where the run was extended
            or its weights became a mean.
    """

    step: int
    bad_records: dict[str, list[int]]
    config: dict[str, Any]
    scores: dict[str, float]
    leaves: dict[str, Leaf]
    empty: list[str]
    origin: int = 0

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back; tuples in the config become lists."""
        content = dataclasses.asdict(self)
        content["leaves"] = {
            path: [leaf.dtype, list(leaf.shape), f"{leaf.checksum:08x}"]
            for path, leaf in self.leaves.items()
        }
        content["format"] = _FORMAT
        return {**content, "sha256": _sha256(content)}


def from_json(text: str) -> Manifest:
    """The manifest in a text. Raises ValueError where it is not what `to_json` made."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("sha256", None) != _sha256(content):
        raise ValueError("does not have the SHA-256 that it names")
    if (version := content.pop("format", None)) not in _READABLE:
        raise ValueError(f"has format {version!r}; this version reads format 1 to {_FORMAT}")
    content.pop("next_batch", None)  # of format 1: the step
    try:
        content["leaves"] = {
            path: Leaf(dtype, tuple(shape), int(checksum, 16))
            for path, (dtype, shape, checksum) in content["leaves"].items()
        }
        return Manifest(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"has an unexpected entry: {error}") from error


def _sha256(content: Mapping[str, Any]) -> str:
    """Of the content in one spelling: sorted, without spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def leaves_of(state: Any) -> dict[str, Leaf]:
    """{path: Leaf} of a tree of jax.Arrays; see `checksums.of_leaves` for several processes."""
    sums = checksums.of_leaves(state)
    return {
        path: Leaf(str(leaf.dtype), leaf.shape, sums[path]) for path, leaf in rules.paths(state)
    }


def empty_dicts(state: Any) -> list[str]:
    """The paths of dicts without entries."""

    def is_empty(node: Any) -> bool:
        return isinstance(node, dict) and not node

    found = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_empty)[0]
    return [rules.path_name(keys) for keys, node in found if is_empty(node)]


def first_difference(leaves: Mapping[str, Leaf], like: Any) -> str:
    """How the first leaf of another path, dtype or shape differs; "" where there is none.

    Args:
        leaves: as saved.
        like: a tree of arrays or ShapeDtypeStructs.
    """
    expected = {
        path: Leaf(str(leaf.dtype), tuple(leaf.shape), 0).kind for path, leaf in rules.paths(like)
    }
    for path in sorted(leaves.keys() | expected.keys()):
        saved = leaves[path].kind if path in leaves else "absent"
        if saved != expected.get(path, "absent"):
            return f"leaf {path} is {saved}, expected {expected.get(path, 'absent')}"
    return ""
