"""Which sources are read together at a step: one component of a mixture.

It is a function of (seed, step) alone, and so the same on all hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

_BLOCK = 1000  # steps in which every component has exactly its fraction, to the nearest step


@dataclasses.dataclass(frozen=True)
class ComponentConfig:
    """One component: sources that are read together.

    Attributes:
        sources: their names.
        weight: how often the component is drawn, relative to the weights of all components.
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
                f"config.data.mixture.*.sources: {self.sources!r}; expected different names of "
                "sources, as in ('s1', 's2')"
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"config.data.mixture.*.weight: {self.weight}; expected a finite number above 0"
            )


def check_mixture(components: Mapping[str, ComponentConfig], sources: Iterable[str]) -> None:
    """Raises ValueError for components with an unknown source, a missing one or too small a weight.

    A component's weight has to give it at least one step of a block.
    """
    names = set(sources)
    for name, component in components.items():
        if unknown := sorted(set(component.sources) - names):
            raise ValueError(
                f"config.data.mixture.{name}.sources: {unknown[0]!r} is not a source; there are "
                f"{', '.join(sorted(names)) or 'none'}"
            )
    unused = names.difference(*(component.sources for component in components.values()))
    if unused:
        raise ValueError(
            f"config.data.mixture: source {min(unused)!r} is in no component, so it would not be "
            "read; add it to one or remove it"
        )
    _steps_per_block(components)


class Mixture:
    """Draws one component per step.

    Each block of 1000 steps has every component exactly in proportion to its weight, to the nearest
    step, in an order of its own. So the component of any step, and the counts before it, are known
    without the steps before it; nothing is remembered.
    """

    def __init__(self, components: Mapping[str, ComponentConfig], seed: int):
        """Raises ValueError where a component's weight is less than one step of a block."""
        # By name: a config that was saved and loaded may have another order.
        self.components = dict(sorted(components.items()))
        self._seed = seed
        self._names = list(self.components)
        self._steps = list(_steps_per_block(self.components).values())
        self._sorted_block = np.repeat(np.arange(len(self._names)), self._steps)
        self._block = functools.lru_cache(16)(self._permute)

    @property
    def fractions(self) -> dict[str, float]:
        """{component: its fraction of the steps}."""
        return {
            name: steps / len(self._sorted_block)
            for name, steps in zip(self._names, self._steps, strict=True)
        }

    def component(self, n: int) -> str:
        """The name of the component of step n, counted from 0."""
        block, within = divmod(n, len(self._sorted_block))
        return self._names[self._block(block)[within]]

    def counts_before(self, n: int) -> dict[str, int]:
        """{component: its number of steps before step n}."""
        blocks, within = divmod(n, len(self._sorted_block))
        counts = np.bincount(self._block(blocks)[:within], minlength=len(self._names)).tolist()
        return {
            name: blocks * steps + count
            for name, steps, count in zip(self._names, self._steps, counts, strict=True)
        }

    def occurrences(self, source: str, n: int) -> int:
        """The number of steps before step n with this source, in any component."""
        return sum(
            count
            for name, count in self.counts_before(n).items()
            if source in self.components[name].sources
        )

    def _permute(self, block: int) -> np.ndarray:
        """int [steps per block], the number of the component of each step."""
        # A spawn key separates this stream from those of rows, which are seeded with (seed, n, r).
        sequence = np.random.SeedSequence(self._seed, spawn_key=(block,))
        return np.random.default_rng(sequence).permutation(self._sorted_block)


def _steps_per_block(components: Mapping[str, ComponentConfig]) -> dict[str, int]:
    """Steps of each component in a block, by largest remainder, ties by name.

    Raises ValueError where one is 0.
    """
    block = _BLOCK if len(components) > 1 else 1
    total = math.fsum(component.weight for component in components.values())
    exact = {name: block * components[name].weight / total for name in sorted(components)}
    steps = {name: math.floor(number) for name, number in exact.items()}
    by_remainder = sorted(exact, key=lambda name: steps[name] - exact[name])
    for name in by_remainder[: block - sum(steps.values())]:
        steps[name] += 1
    for name, count in steps.items():
        if not count:
            smallest = (total - components[name].weight) / (block - 1)
            raise ValueError(
                f"config.data.mixture.{name}.weight: {components[name].weight:g} is less than one "
                f"of {block} steps; with the other weights, the smallest that is certainly drawn "
                f"is {smallest:.4g}"
            )
    return steps
