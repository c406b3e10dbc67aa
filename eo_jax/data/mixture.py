"""Which sources are read together at a step: one entry of a mixture, a function of (seed, step)
alone and so the same on all hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

_BLOCK = 1000  # steps in which every entry has exactly its share, to the nearest step


@dataclasses.dataclass(frozen=True)
class EntryConfig:
    """One entry: sources that are read together.

    Attributes:
        sources: their names.
        weight: how often the entry is drawn, in proportion to the weights of all.
    """

    sources: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self):
        if (
            isinstance(self.sources, str)
            or not self.sources
            or len(set(self.sources)) < len(self.sources)
        ):
            raise ValueError(
                f"config.data.entries.*.sources: {self.sources!r}; expected different names of "
                "sources, as in ('s1', 's2')"
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"config.data.entries.*.weight: {self.weight}; expected a finite number above 0"
            )


def check_entries(entries: Mapping[str, EntryConfig], sources: Iterable[str]) -> None:
    """Raises ValueError where entries name other sources than there are, leave one out, or have a
    share that is less than a step.
    """
    names = set(sources)
    for name, entry in entries.items():
        if unknown := sorted(set(entry.sources) - names):
            raise ValueError(
                f"config.data.entries.{name}.sources: {unknown[0]!r} is no source; there are "
                f"{', '.join(sorted(names)) or 'none'}"
            )
    if forgotten := sorted(names.difference(*(entry.sources for entry in entries.values()))):
        raise ValueError(
            f"config.data.entries: source {forgotten[0]!r} is in no entry, so nothing would be "
            "read of it; add it to one or remove it"
        )
    _steps_a_block(entries)


class Mixture:
    """Entries, one a step. Each block of 1000 steps has every entry exactly in proportion to its
    weight, in an order of its own.

    So any step, and how often an entry came before it, is known without the steps before; nothing
    is drawn, and nothing is remembered.
    """

    def __init__(self, entries: Mapping[str, EntryConfig], seed: int):
        """Raises ValueError where an entry's share is less than a step of a block."""
        self.entries = dict(
            sorted(entries.items())
        )  # by name: a config that was saved and loaded may have another order
        self._seed = seed
        self._names, self._steps = list(self.entries), list(_steps_a_block(self.entries).values())
        self._sorted_block = np.repeat(np.arange(len(self._names)), self._steps)
        self._block = functools.lru_cache(16)(self._permuted)

    @property
    def shares(self) -> dict[str, float]:
        """{entry: its share of the steps}."""
        return {
            name: steps / len(self._sorted_block)
            for name, steps in zip(self._names, self._steps, strict=True)
        }

    def entry(self, n: int) -> str:
        """The entry of step n, counted from 0."""
        block, within = divmod(n, len(self._sorted_block))
        return self._names[self._block(block)[within]]

    def before(self, n: int) -> dict[str, int]:
        """{entry: how many of the steps before n are its own}."""
        blocks, within = divmod(n, len(self._sorted_block))
        begun = np.bincount(self._block(blocks)[:within], minlength=len(self._names)).tolist()
        return {
            name: blocks * steps + more
            for name, steps, more in zip(self._names, self._steps, begun, strict=True)
        }

    def occurrences(self, source: str, n: int) -> int:
        """How many of the steps before n show a source, in whatever entry."""
        return sum(
            count for name, count in self.before(n).items() if source in self.entries[name].sources
        )

    def _permuted(self, block: int) -> np.ndarray:
        """int [steps of a block], the number of the entry at each."""
        # A spawn key sets this stream apart from those of rows, which are seeded with (seed, n, r).
        return np.random.default_rng(
            np.random.SeedSequence(self._seed, spawn_key=(block,))
        ).permutation(self._sorted_block)


def _steps_a_block(entries: Mapping[str, EntryConfig]) -> dict[str, int]:
    """Steps of each entry in a block: shares of it by largest remainder, the first by name where
    remainders are equal. ValueError where one is 0.
    """
    block = _BLOCK if len(entries) > 1 else 1
    total = math.fsum(entry.weight for entry in entries.values())
    shares = {name: block * entries[name].weight / total for name in sorted(entries)}
    steps = {name: math.floor(share) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: steps[name] - shares[name])[
        : block - sum(steps.values())
    ]:
        steps[name] += 1
    for name, count in steps.items():
        if not count:
            least = (total - entries[name].weight) / (block - 1)
            raise ValueError(
                f"config.data.entries.{name}.weight: {entries[name].weight:g} is less than one of "
                f"{block} steps; beside the other weights "
                f"the smallest that is drawn for certain is {least:.4g}"
            )
    return steps
