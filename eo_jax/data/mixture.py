"""Which sources are read together at a step: one component of a mixture, a function of (seed, step)
alone and so the same on all hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

_BLOCK = 1000  # steps in which every component has exactly its share, to the nearest step


@dataclasses.dataclass(frozen=True)
class ComponentConfig:
    """One component: sources that are read together.

    Attributes:
        sources: their names.
        weight: how often the component is drawn, in proportion to the weights of all.
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
    """Raises ValueError where components name other sources than there are, leave one out, or have
    a share that is less than a step.
    """
    names = set(sources)
    for name, component in components.items():
        if unknown := sorted(set(component.sources) - names):
            raise ValueError(
                f"config.data.mixture.{name}.sources: {unknown[0]!r} is no source; there are "
                f"{', '.join(sorted(names)) or 'none'}"
            )
    if forgotten := sorted(
        names.difference(*(component.sources for component in components.values()))
    ):
        raise ValueError(
            f"config.data.mixture: source {forgotten[0]!r} is in no component, so nothing would be "
            "read of it; add it to one or remove it"
        )
    _steps_per_block(components)


class Mixture:
    """Components, one a step. Each block of 1000 steps has every component exactly in proportion to
    its weight, in an order of its own.

    So any step, and how often a component came before it, is known without the steps before;
    nothing is drawn, and nothing is remembered.
    """

    def __init__(self, components: Mapping[str, ComponentConfig], seed: int):
        """Raises ValueError where a component's share is less than a step of a block."""
        self.components = dict(
            sorted(components.items())
        )  # by name: a config that was saved and loaded may have another order
        self._seed = seed
        self._names, self._steps = (
            list(self.components),
            list(_steps_per_block(self.components).values()),
        )
        self._sorted_block = np.repeat(np.arange(len(self._names)), self._steps)
        self._block = functools.lru_cache(16)(self._permuted)

    @property
    def fractions(self) -> dict[str, float]:
        """{component: its share of the steps}."""
        return {
            name: steps / len(self._sorted_block)
            for name, steps in zip(self._names, self._steps, strict=True)
        }

    def component(self, n: int) -> str:
        """The component of step n, counted from 0."""
        block, within = divmod(n, len(self._sorted_block))
        return self._names[self._block(block)[within]]

    def counts_before(self, n: int) -> dict[str, int]:
        """{component: how many of the steps before n are its own}."""
        blocks, within = divmod(n, len(self._sorted_block))
        begun = np.bincount(self._block(blocks)[:within], minlength=len(self._names)).tolist()
        return {
            name: blocks * steps + more
            for name, steps, more in zip(self._names, self._steps, begun, strict=True)
        }

    def occurrences(self, source: str, n: int) -> int:
        """How many of the steps before n show a source, in whatever component."""
        return sum(
            count
            for name, count in self.counts_before(n).items()
            if source in self.components[name].sources
        )

    def _permuted(self, block: int) -> np.ndarray:
        """int [steps of a block], the number of the component at each."""
        # A spawn key sets this stream apart from those of rows, which are seeded with (seed, n, r).
        return np.random.default_rng(
            np.random.SeedSequence(self._seed, spawn_key=(block,))
        ).permutation(self._sorted_block)


def _steps_per_block(components: Mapping[str, ComponentConfig]) -> dict[str, int]:
    """Steps of each component in a block: fractions of it by largest remainder, the first by name
    where remainders are equal. ValueError where one is 0.
    """
    block = _BLOCK if len(components) > 1 else 1
    total = math.fsum(component.weight for component in components.values())
    fractions = {name: block * components[name].weight / total for name in sorted(components)}
    steps = {name: math.floor(share) for name, share in fractions.items()}
    for name in sorted(fractions, key=lambda name: steps[name] - fractions[name])[
        : block - sum(steps.values())
    ]:
        steps[name] += 1
    for name, count in steps.items():
        if not count:
            least = (total - components[name].weight) / (block - 1)
            raise ValueError(
                f"config.data.mixture.{name}.weight: {components[name].weight:g} is less than one "
                "of "
                f"{block} steps; beside the other weights "
                f"the smallest that is drawn for certain is {least:.4g}"
            )
    return steps
