"""A head: the table between the weights of an objective's heads and the keys that a published class
has for them beside those of its encoder, read in both directions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eo_jax import rules
from eo_jax.exchange.layout import Row, Table, Tensors
from eo_jax.objectives.base import HeadWeights

Shapes = Mapping[str, tuple[int, ...]]
_REMEDY = "give the config of the run that it is from, or leave out --with-head"


@dataclasses.dataclass(frozen=True)
class Head:
    """The published head of one objective.

    Attributes:
        network: the class that has encoder and head, in words.
        layouts: of the encoder in that class.
        plain: whether that class has neither registers nor layer scale.
        parts: the objective's heads that it has; others stay behind.
        keys: what the head's keys start with.
        rows: {our path: shape} -> its table.
        constructor: (the contract of the encoder, {our path: shape}) -> the call that makes the
            class.
        architecture: the objective's section -> what a state dict does not say of the head, by the
            names of the contract's `architecture`.
        prefix: of the encoder's keys in that class.
        positions: key of the positions of its tokens; "" where it has none.
        computed: ({our path: shape}, tokens along a side) -> {key: tensor} that it keeps as weights
            and ours computes.
        computed_as: what those are, in words.
        renamed: {end of a key in some files: its usual end}.
    """

    network: str
    layouts: tuple[str, ...]
    plain: bool
    parts: tuple[str, ...]
    keys: tuple[str, ...]
    rows: Callable[[Shapes], list[Row]]
    constructor: Callable[[Mapping[str, Any], Shapes], str]
    architecture: Callable[[Mapping[str, Any]], dict[str, int]] = lambda objective: {}
    prefix: str = ""
    positions: str = ""
    computed: Callable[[Shapes, int], dict[str, np.ndarray]] = lambda shapes, side: {}
    computed_as: str = ""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def table(self, heads: HeadWeights, side: int) -> Table:
        """The table of an objective's heads, or of their shapes.

        Args:
            side: tokens along a side of a view.
        """
        shapes = shapes_of(heads)
        return Table(
            title=self.network,
            needs=f"the heads {', '.join(self.parts)}",
            rows=self.rows(shapes),
            computed=self.computed(shapes, side),
            computed_as=self.computed_as,
            unused={},
            remedy=_REMEDY,
            remedy_computed=_REMEDY,
        )

    def section(self, name: str, contract: Mapping[str, Any], heads: HeadWeights) -> dict[str, Any]:
        """What the contract of a file says of the head in it.

        Args:
            name: of the objective.
            contract: of the encoder.
        """
        architecture = self.architecture(contract["objective"])
        return {
            "name": name,
            "network": self.network,
            "constructor": self.constructor(contract, shapes_of(heads)),
            "architecture": architecture,
            "with_encoder": _joined(contract["architecture"], architecture),
            "keys": list(self.keys),
            "encoder_prefix": self.prefix,
        }

    def taken(self, heads: HeadWeights) -> HeadWeights:
        """Those of an objective's heads that the published class has.

        Raises ValueError where the encoder has no heads of its own.
        """
        if missing := [part for part in self.parts if part not in heads["params"]]:
            raise ValueError(
                f"--with-head: the encoder has no {', '.join(missing)} of its own in this run; "
                "leave out --with-head"
            )
        return {kind: {part: heads[kind][part] for part in self.parts} for kind in heads}

    def split(self, tensors: Tensors, prefix: str) -> tuple[Tensors, Tensors]:
        """(the head's tensors by their usual keys, the others), of those beside an encoder.

        Args:
            prefix: of the encoder's keys in the file.

        Raises ValueError where the file has none of the head.
        """
        root = prefix.removesuffix(self.prefix)
        starts = tuple(f"{root}{key}" for key in self.keys)
        theirs = [key for key in tensors if key.startswith(starts)]
        if not theirs or not prefix.endswith(self.prefix):
            raise ValueError(
                f"--with-head: beside the encoder's keys, under {prefix!r}, the file lacks "
                f"{root}{self.keys[0]}* of {self.network}; leave out --with-head"
            )
        own = {self._usual(key.removeprefix(root)): tensors[key] for key in theirs}
        return own, {key: tensor for key, tensor in tensors.items() if key not in theirs}

    def table_of(self, tensors: Tensors, heads: HeadWeights, side: int) -> Table:
        """The table for a file, whose positions may be for views of another size.

        Args:
            side: tokens along a side of a view here.
        """
        table = self.table(heads, side)
        found, ours = tensors.get(self.positions), table.computed.get(self.positions)
        if found is None or found.ndim != 3 or found.shape[2] != ours.shape[2]:
            return table  # the comparison of shapes refuses others
        return self.table(heads, math.isqrt(max(found.shape[1] - 1, 0)) or side)

    def _usual(self, key: str) -> str:
        for end, usual in self.renamed.items():
            if key.endswith(end):
                return key.removesuffix(end) + usual
        return key


def shapes_of(heads: HeadWeights) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the weights of heads; blocks are stacked."""
    return {path: tuple(leaf.shape) for path, leaf in rules.paths(heads["params"])}


def _joined(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of the class with both: values of the encoder, then those of the head, as a
    list; one that stays the same from one module to the next is there once.
    """
    found = dict(encoder)
    for name, value in head.items():
        before = found.get(name, [])
        before = before if isinstance(before, list) else [before]
        found[name] = before if before[-1:] == [value] else [*before, value]
    return found
