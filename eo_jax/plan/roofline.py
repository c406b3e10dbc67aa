"""How long a step takes: from its FLOP, its bytes and what its devices exchange.

The model. Products run at half of the peak, as vision transformers reach where they are well
compiled, memory and connections at four fifths of their rates. Products and memory overlap, so the
slower one counts; what devices exchange comes on top of it, as if none of it were hidden, which the
compilers' schedulers partly do. So `likely` is on the safe side; `best` has everything at its peak,
and everything hidden.

An exchange of B bytes among n devices moves (n - 1) / n B out of each device in an all-gather,
reduce-scatter or all-to-all, twice that in an all-reduce, B in a permutation. Within a slice it
goes both ways round the rings of the torus that the group spans; an axis that is not closed has
half of that. Across slices or nodes, a device carries its part of what its slice has reduced
inside: B over the group's devices per slice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from eo_jax.plan.collectives import Collective
from eo_jax.plan.costs import Cost
from eo_jax.plan.topologies import Topology

PRODUCTS, RATES = 0.5, 0.8
_PASSES = {"all-reduce": 2.0}


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step at the peak rates.

    Attributes:
        products: of its FLOP.
        memory: of its bytes in the main memory.
        links: of what is exchanged within a slice or node.
        network: of what is exchanged between them.
    """

    products: float
    memory: float
    links: float
    network: float

    @property
    def best(self) -> float:
        """Everything at its peak, and all at the same time."""
        return max(dataclasses.astuple(self))

    @property
    def device(self) -> float:
        """What a device alone would take, likely."""
        return max(self.products / PRODUCTS, self.memory / RATES)

    @property
    def likely(self) -> float:
        """At the rates that are reached, nothing hidden."""
        return self.device + (self.links + self.network) / RATES

    @property
    def bound_by(self) -> str:
        """What takes longest."""
        parts = {
            "products": self.products / PRODUCTS,
            "memory": self.memory / RATES,
            "links": self.links / RATES,
            "network": self.network / RATES,
        }
        return max(parts, key=parts.__getitem__)


def step_time(cost: Cost, exchanged: Iterable[Collective], topology: Topology) -> StepTime:
    """Of a program compiled for the devices of this topology."""
    seconds = [exchange_seconds(one, topology) for one in exchanged]
    return StepTime(
        cost.flops / topology.chip.peak,
        cost.main_bytes / topology.chip.bandwidth,
        sum(links for links, _ in seconds),
        sum(network for _, network in seconds),
    )


def with_slices(of_one: StepTime, gradient_bytes: float, topology: Topology) -> StepTime:
    """Of the same step on every slice of a topology; the mean gradient is taken over all.

    Args:
        of_one: compiled for one slice.
        gradient_bytes: float32, of all weights.
    """
    share = gradient_bytes / topology.inside
    moved = 2 * share * (topology.slices - 1) / topology.slices
    return dataclasses.replace(of_one, network=of_one.network + moved / topology.chip.network)


def exchange_seconds(one: Collective, topology: Topology) -> tuple[float, float]:
    """(within slices, between them), at the peak rates, of all its times in a step."""
    slices = len({member // topology.inside for member in one.members})
    within = one.group / slices
    times, passes = one.times or 1, _PASSES.get(one.kind, 1.0)
    links = _moved(one.kind, passes, one.bytes, within) / _link_rate(within, topology)
    network = _moved(one.kind, passes, one.bytes / within, slices) / topology.chip.network
    return times * links, times * network


def _moved(kind: str, passes: float, size: float, devices: float) -> float:
    if devices <= 1:
        return 0.0
    return size if kind == "collective-permute" else passes * size * (devices - 1) / devices


def _link_rate(group: float, topology: Topology) -> float:
    """Bytes per second out of a device for a group of a slice."""
    chip = topology.chip
    if not chip.axes:
        return chip.link
    sides = sorted(topology.shape, reverse=True)
    spanned = next(n for n in range(1, len(sides) + 1) if math.prod(sides[:n]) >= group)
    closed = all(side % chip.wraps == 0 for side in sides[:spanned])
    return chip.link * 2 * spanned * (1.0 if closed else 0.5)
