"""From a config and a target to a plan: what fits, how fast it is, what it needs around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from eo_jax.experiment import sample_flops
from eo_jax.plan import activations, memory, roofline, search
from eo_jax.plan.compiling import (
    Program,
    StepPlan,
    Target,
    TooLarge,
    remat_of,
    with_settings,
)
from eo_jax.plan.memory import Memory

CHECKPOINT_RATE = 1e9  # bytes per second that a host writes to a bucket or a parallel file system


@dataclasses.dataclass(frozen=True)
class Choice:
    """A batch and what is recomputed.

    Attributes:
        bytes: on one device.
        verified: whether it was compiled, not only predicted.
    """

    batch: int
    remat: str
    bytes: float
    verified: bool


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A number of slices or nodes, each with the same batch.

    Attributes:
        samples_per_s: of all together.
        efficiency: step time of a device alone over that here.
    """

    slices: int
    batch: int
    samples_per_s: float
    efficiency: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on a topology. Batches are those of all devices.

    Attributes:
        target: what it was compiled for.
        mesh: {axis: devices}, of a slice where the target is exact.
        component: of the mixture, "all" without one.
        asked: batch and recomputation of the config.
        memory: bytes of a device by kind, as asked or, where that could not be compiled, as `used`.
        used: what FLOP, bytes, exchanges and times are of.
        largest: the largest batch with the config's recomputation.
        least_remat: what to recompute so that the config's batch fits; None where nothing helps.
        fsdp: devices over which to split weights and moments so that they take less than half of a
            device; 0 where they do as it is.
        program: of `used`.
        time: of a step on all slices.
        sample_flops: of the model, without recomputation.
        scaling: over 1, 2, 4 ... slices or nodes.
        state_bytes: of a checkpoint.
        sample_bytes: from the host.
        compiles: [(batch of a slice, recomputation, bytes, seconds)] in their order.
    """

    target: Target
    mesh: Mapping[str, int]
    component: str
    asked: Choice
    memory: Memory
    used: Choice
    largest: search.Largest
    least_remat: Choice | None
    fsdp: int
    program: Program
    time: roofline.StepTime
    sample_flops: float
    scaling: Sequence[Scaling]
    state_bytes: float
    sample_bytes: float
    compiles: Sequence[tuple[int, str, float, float]]

    @property
    def limit(self) -> float:
        """Bytes that a device has for a program."""
        return self.target.limit

    @property
    def fits(self) -> bool:
        """Whether the config does as it is."""
        return self.asked.bytes <= self.limit

    @property
    def samples_per_s(self) -> float:
        """On all devices, likely."""
        return self.used.batch / self.time.likely

    def mfu(self, seconds: float) -> float:
        """Of a step that takes so long."""
        topology = self.target.topology
        done = self.used.batch * self.sample_flops / topology.devices
        return done / (seconds * topology.chip.peak)


class _Bench:
    """Compiles and predicts one config with other batches and recomputation, each slice with its
    part of the batch.
    """

    def __init__(self, config: Mapping[str, Any], target: Target, say: Callable[[str], None]):
        self.target, self._say, self.remat = target, say, remat_of(config)
        self.batch = _of_slice(config["data"]["batch_size"], target.copies)
        self.config = config = with_settings(config, self.batch, self.remat)
        self.first = StepPlan(config, target)
        self.compiles: list[tuple[int, str, float, float]] = []
        self.programs: dict[tuple[int, str], Program] = {}
        self._kept: dict[str, activations.Kept] = {}

    def step(self, batch: int, remat: str) -> StepPlan:
        """The step with these settings."""
        if (batch, remat) == (self.batch, self.remat):
            return self.first
        return StepPlan(with_settings(self.config, batch, remat), self.target)

    def measure(self, batch: int, remat: str) -> float:
        """Bytes of a device by the compiler."""
        self._say(f"compiling batch {batch}, remat {remat or 'as it is'}")
        try:
            program = self.step(batch, remat).compile()
        except TooLarge as error:
            self.compiles.append((batch, remat, error.bytes, 0.0))
            return error.bytes
        self.programs[batch, remat] = program
        size = program.memory.total
        if not self.target.exact:
            size = self.model(batch, remat).total
        self.compiles.append((batch, remat, size, program.seconds))
        return size

    def kept(self, remat: str) -> activations.Kept:
        """What the backward pass keeps with this recomputation. Raises ValueError where the trunk
        does not know it.
        """
        if remat not in self._kept:
            plan = self.step(self.batch, remat)
            bare = StepPlan(with_settings(self.config, self.batch, "none"), self.target)
            self._kept[remat] = activations.kept(
                plan.experiment, bare.experiment, plan.recipe.train, plan.batch
            )
        return self._kept[remat]

    def slope(self, remat: str) -> float:
        """Bytes on a device per sample of the batch of all devices."""
        pixels = memory.whole_bytes(self.first.batch) / self.batch
        accum = self.first.experiment.optim.accum
        return (self.kept(remat).per_sample / accum + pixels) / self.first.rows

    def model(self, batch: int, remat: str) -> Memory:
        """Memory of a device, without a compiler."""
        state = memory.of_state(self.first.session.shapes)
        rows = batch / self.first.rows
        kept = self.kept(remat)
        running = (kept.per_sample + kept.block) * rows / self.first.experiment.optim.accum
        return dataclasses.replace(
            state,
            batch=rows * memory.whole_bytes(self.first.batch) / self.batch,
            # gradients in float32, and weights of a block as they are gathered and cast
            activations=running + state.weights + kept.fixed / 2 / _fsdp(self.first),
        )


def _of_slice(batch: int, slices: int) -> int:
    if batch % slices:
        raise ValueError(
            f"config.data.batch_size: {batch} does not divide over {slices} slices; the nearest "
            f"that does: {max(1, batch // slices) * slices}"
        )
    return batch // slices


def make_plan(
    config: Mapping[str, Any], target: Target, compiles: int, say: Callable[[str], None]
) -> Plan:
    """The plan of a config whose "auto" values are resolved; see `compiling.for_chip`.

    Args:
        compiles: of the train step at most, one at least.
        say: is told what takes long.
    """
    bench = _Bench(config, target, say)
    limit = target.limit
    size = bench.measure(bench.batch, bench.remat)
    asked = Choice(bench.batch, bench.remat, size, target.exact)
    left = compiles - 1

    least, left = _least_remat(bench, asked, limit, left)
    remat = least.remat if asked.bytes > limit and least else bench.remat
    known = {asked.batch: (least if remat != bench.remat else asked).bytes}
    largest = search.largest_batch(
        known,
        bench.slope(remat),
        limit,
        bench.first.smallest,
        lambda batch: bench.measure(batch, remat),
        left if target.exact else 0,
    )
    used, program = _used(bench, asked, least, largest, remat)
    return _plan(bench, asked, used, program, largest, least)


def _least_remat(
    bench: _Bench, asked: Choice, limit: float, left: int
) -> tuple[Choice | None, int]:
    """(the least recomputation with which the config's batch fits, compilations that are left)."""
    predicted = {}
    for remat in search.REMAT if bench.remat else ():
        try:
            more = bench.model(bench.batch, remat).total
        except ValueError:  # this trunk has no such policy
            continue
        predicted[remat] = asked.bytes + more - bench.model(bench.batch, bench.remat).total
    chosen = search.least_remat(predicted, limit)
    if not chosen:
        return (asked if asked.bytes <= limit else None), left
    if chosen == bench.remat:
        return asked, left
    if asked.bytes <= limit or not left:
        return Choice(bench.batch, chosen, predicted[chosen], False), left
    size = bench.measure(bench.batch, chosen)
    return (Choice(bench.batch, chosen, size, True) if size <= limit else None), left - 1


def _used(
    bench: _Bench, asked: Choice, least: Choice | None, largest: search.Largest, remat: str
) -> tuple[Choice, Program]:
    """What the plan's times are of: the config as it is, or else what fits."""
    most = Choice(largest.batch, remat, largest.bytes, largest.verified)
    limit = bench.target.limit
    fitting = [one for one in (asked, least, most) if one and one.batch and one.bytes <= limit]
    for choice in fitting:
        if program := bench.programs.get((choice.batch, choice.remat)):
            return choice, program
    if fitting:  # predicted
        size = bench.measure(fitting[0].batch, fitting[0].remat)
        if program := bench.programs.get((fitting[0].batch, fitting[0].remat)):
            return dataclasses.replace(fitting[0], bytes=size), program
    if not bench.programs:
        size = bench.measure(bench.first.smallest, remat)
        if not bench.programs:
            raise ValueError(
                f"config.sharding.fsdp: {_fsdp(bench.first)}; not even one sample per device "
                f"fits: {size / 2**30:.1f} GiB of "
                f"{bench.target.limit / 2**30:.1f}; split the weights over more "
                "devices"
            )
    (batch, policy), program = next(iter(bench.programs.items()))
    return Choice(batch, policy, program.memory.total, True), program


def _plan(
    bench: _Bench,
    asked: Choice,
    used: Choice,
    program: Program,
    largest: search.Largest,
    least: Choice | None,
) -> Plan:
    first, target = bench.first, bench.target
    shapes, topology = first.session.shapes, target.topology
    inside = topology.with_slices(1) if target.exact else topology
    of_one = roofline.step_time(program.cost, program.collectives, inside)
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    def on(slices: int) -> roofline.StepTime:
        return roofline.with_slices(of_one, gradients, topology.with_slices(slices))

    def of_all(choice: Any) -> Any:
        return choice and dataclasses.replace(choice, batch=choice.batch * target.copies)

    time = on(topology.slices) if target.exact else of_one
    return Plan(
        target=target,
        mesh=dict(first.mesh.shape),
        component=first.component,
        asked=of_all(asked),
        memory=program.memory if target.exact else bench.model(used.batch, used.remat),
        used=of_all(used),
        largest=of_all(largest),
        least_remat=of_all(least),
        fsdp=_wanted_fsdp(first, target),
        program=program,
        time=time,
        sample_flops=sample_flops(first.experiment, first.recipe.train, first.batch),
        scaling=_scaling(on, used.batch, topology.slices) if target.exact else (),
        state_bytes=memory.whole_bytes(shapes),
        sample_bytes=memory.whole_bytes(first.batch) / bench.batch,
        compiles=tuple(bench.compiles),
    )


def _scaling(on: Callable[[int], roofline.StepTime], batch: int, most: int) -> list[Scaling]:
    numbers = sorted({2**n for n in range(most.bit_length())} | {most})
    times = {slices: on(slices) for slices in numbers}
    return [
        Scaling(slices, batch * slices, batch * slices / time.likely, time.device / time.likely)
        for slices, time in times.items()
    ]


def _fsdp(plan: StepPlan) -> int:
    return plan.mesh.shape["fsdp"]


def _wanted_fsdp(plan: StepPlan, target: Target) -> int:
    """See `Plan.fsdp`."""
    limit, fsdp = target.limit / 2, _fsdp(plan)
    split = memory.of_state(plan.session.shapes).state * fsdp
    if split / fsdp <= limit:
        return 0
    while fsdp < target.topology.inside and split / fsdp > limit:
        fsdp *= 2
    return fsdp
