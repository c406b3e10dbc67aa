"""A plan as text and as JSON."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eo_jax.plan import collectives, memory
from eo_jax.plan.planning import CHECKPOINT_RATE, Choice, Plan
from eo_jax.plan.roofline import PRODUCTS, RATES

GIB = 2**30
_ROWS = 10  # of the table of collectives
_ESTIMATED = (
    "ESTIMATE: partitioned for CPU devices in place of {kind}; memory is a model of what the "
    "backward pass keeps, and a fifth of the device's is left free; kernels and fusions are not "
    "the chip's"
)


def text(plan: Plan, run: Sequence[str], doctor: Mapping[str, Any] | None) -> str:
    """The plan for people.

    Args:
        run: arguments of `python -m eo_jax.train` for this config.
        doctor: what `python -m eo_jax.doctor --json` measured, if given.
    """
    parts = [_head(plan), _verdict(plan), _memory(plan), _step(plan), _exchanges(plan)]
    parts += [_scaling(plan), _around(plan, doctor), _command(plan, run)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def _head(plan: Plan) -> Iterator[str]:
    topology = plan.target.topology
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    slices = f" on each of {topology.slices} {topology.unit}s" if _many(plan) else ""
    yield (
        f"{topology.devices} x {topology.chip.kind} ({topology.name}), {topology.hosts} hosts; "
        f"mesh {mesh}{slices}"
    )
    if not plan.target.exact:
        yield _ESTIMATED.format(kind=topology.chip.kind)
    if plan.component != "all":
        yield f"mixture component {plan.component}, the one with the largest batch"


def _many(plan: Plan) -> bool:
    return plan.target.exact and plan.target.topology.slices > 1


def _verdict(plan: Plan) -> Iterator[str]:
    asked = plan.asked
    fits = "FITS" if plan.fits else "DOES NOT FIT"
    yield (
        f"{fits}: batch {asked.batch}{_recomputed(asked.remat)} takes {asked.bytes / GIB:.1f} of "
        f"{plan.limit / GIB:.1f} GiB per device"
    )
    largest = plan.largest
    remat = plan.used.remat if not plan.fits else asked.remat
    yield (
        f"largest batch{_recomputed(remat)}: {largest.batch}, {largest.bytes / GIB:.1f} GiB"
        f"{_how(plan, largest.verified)}"
    )
    if plan.least_remat:
        least = plan.least_remat
        if least.remat:
            yield (
                f"least recomputation for batch {asked.batch}: remat={least.remat}, "
                f"{least.bytes / GIB:.1f} GiB{_how(plan, least.verified)}"
            )
    else:
        yield f"no recomputation makes batch {asked.batch} fit; take fewer samples or more devices"
    if plan.fsdp:
        yield (
            f"weights, moments and teacher take {plan.memory.state / GIB:.1f} GiB of each device: "
            f"--config.sharding.fsdp={plan.fsdp} splits them"
        )


def _recomputed(remat: str) -> str:
    return f" with remat={remat}" if remat else ""


def _how(plan: Plan, verified: bool) -> str:
    return " (compiled)" if verified and plan.target.exact else " (predicted)"


def _memory(plan: Plan) -> Iterator[str]:
    yield f"memory of a device, batch {plan.used.batch}{_recomputed(plan.used.remat)}"
    yield from (f"  {line}" for line in memory.lines(plan.memory))


def _step(plan: Plan) -> Iterator[str]:
    cost, time, chip = plan.program.cost, plan.time, plan.target.topology.chip
    yield (
        f"a step of {plan.used.batch} samples: {cost.flops / 1e12:.3f} TFLOP and "
        f"{cost.bytes / 1e9:.1f} GB per device, {cost.main_bytes / 1e9:.1f} GB of them in its "
        f"main memory; of the model {plan.sample_flops / 1e9:.1f} GFLOP per sample"
    )
    for name, seconds, rate in (
        ("products", time.products, f"{PRODUCTS:.0%} of {chip.peak / 1e12:.0f} TFLOP/s"),
        ("memory", time.memory, f"{RATES:.0%} of {chip.bandwidth / 1e12:.2f} TB/s"),
        ("links", time.links, f"{RATES:.0%} of {chip.link / 1e9:.0f} GB/s per link and way"),
        ("network", time.network, f"{RATES:.0%} of {chip.network / 1e9:.1f} GB/s per device"),
    ):
        reached = seconds / (PRODUCTS if name == "products" else RATES)
        yield f"  {name:<10}{1e3 * reached:10.1f} ms at {rate}"
    yield (
        f"  likely {1e3 * time.likely:.1f} ms ({time.bound_by} first, no exchange hidden): "
        f"{plan.samples_per_s:,.0f} samples/s, MFU {plan.mfu(time.likely):.1%}"
    )
    yield (
        f"  at best {1e3 * time.best:.1f} ms (all at its peak, all at once): "
        f"{plan.used.batch / time.best:,.0f} samples/s, MFU {plan.mfu(time.best):.1%}"
    )


def _exchanges(plan: Plan) -> Iterator[str]:
    rows = collectives.table(plan.program.collectives)
    if not rows:
        yield "collectives: none"
        return
    total = sum(row.total for row in rows)
    yield f"collectives of a step, {total / 2**20:,.0f} MiB of whole arrays, the largest first"
    for row in rows[:_ROWS]:
        turns = "?" if row.times is None else row.count * row.times
        shape = ",".join(map(str, row.shape))
        yield (
            f"  {row.kind:<19}{row.total / 2**20:10,.1f} MiB = {turns} x {row.dtype}[{shape}] "
            f"among {row.group}"
        )
    if len(rows) > _ROWS:
        rest = sum(row.total for row in rows[_ROWS:])
        yield f"  {len(rows) - _ROWS} more kinds{rest / 2**20:15,.1f} MiB"


def _scaling(plan: Plan) -> Iterator[str]:
    if not plan.scaling:
        return
    unit = plan.target.topology.unit
    yield f"scaling over {unit}s, the same batch on each"
    for row in plan.scaling:
        yield (
            f"  {row.slices:>4} {unit}(s){row.batch:>10,} samples{row.samples_per_s:>14,.0f} "
            f"samples/s, {row.efficiency:.1%} of what devices alone would reach"
        )


def _around(plan: Plan, doctor: Mapping[str, Any] | None) -> Iterator[str]:
    hosts = plan.target.topology.hosts
    seconds = plan.state_bytes / hosts / CHECKPOINT_RATE
    yield (
        f"checkpoint: {plan.state_bytes / 1e9:.1f} GB, {plan.state_bytes / hosts / 1e9:.2f} GB per "
        f"host, {seconds:.0f} s at {CHECKPOINT_RATE / 1e9:.0f} GB/s per host, beside the steps"
    )
    needed = plan.samples_per_s / hosts
    yield (
        f"input: {needed:,.0f} samples/s per host, {needed * plan.sample_bytes / 1e6:,.0f} MB/s of "
        "pixels"
    )
    if doctor:
        found = doctor["loader_samples_per_s"]
        verdict = "enough" if found >= needed else "NOT ENOUGH"
        yield (
            f"  doctor measured {found:,.0f} samples/s on one host: {verdict}, "
            f"{found / needed:.1f} times what is needed"
        )


def _command(plan: Plan, run: Sequence[str]) -> Iterator[str]:
    yield "to run, on every host:"
    yield f"  {shlex.join(['python', '-m', 'eo_jax.train', '--distributed=auto', *run])}"


def as_json(plan: Plan, run: Sequence[str], doctor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The plan for programs; bytes, seconds and FLOP."""
    topology, chip, program = plan.target.topology, plan.target.topology.chip, plan.program
    return {
        "topology": {
            "name": topology.name,
            "slices": topology.slices,
            "devices": topology.devices,
            "hosts": topology.hosts,
            "chip": dataclasses.asdict(chip),
        },
        "exact": plan.target.exact,
        "mesh": dict(plan.mesh),
        "component": plan.component,
        "fits": plan.fits,
        "limit": plan.limit,
        "asked": dataclasses.asdict(plan.asked),
        "used": dataclasses.asdict(plan.used),
        "largest": dataclasses.asdict(plan.largest),
        "least_remat": _maybe(plan.least_remat),
        "fsdp": plan.fsdp,
        "memory": dataclasses.asdict(plan.memory),
        "flops": program.cost.flops,
        "bytes": program.cost.bytes,
        "main_bytes": program.cost.main_bytes,
        "counted": dataclasses.asdict(program.counted),
        "xla": dict(program.xla),
        "sample_flops": plan.sample_flops,
        "seconds": dataclasses.asdict(plan.time)
        | {"likely": plan.time.likely, "best": plan.time.best},
        "bound_by": plan.time.bound_by,
        "samples_per_s": plan.samples_per_s,
        "mfu": {"likely": plan.mfu(plan.time.likely), "best": plan.mfu(plan.time.best)},
        "collectives": list(map(dataclasses.asdict, collectives.table(program.collectives))),
        "scaling": list(map(dataclasses.asdict, plan.scaling)),
        "checkpoint_bytes": plan.state_bytes,
        "sample_bytes": plan.sample_bytes,
        "doctor": doctor,
        "compiles": [list(one) for one in plan.compiles],
        "run": ["python", "-m", "eo_jax.train", "--distributed=auto", *run],
    }


def _maybe(choice: Choice | None) -> dict[str, Any] | None:
    return dataclasses.asdict(choice) if choice else None
