"""Bytes of a train step on one device, by kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

KINDS = ("weights", "moments", "teacher", "batch", "activations", "other")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
        weights: float32, as they are trained.
        moments: of the optimizer.
        teacher: with queues, centres and running statistics; all that a method carries along.
        batch: digital numbers as they come from the host.
        activations: what the step needs for a time: activations, gradients, gathered weights.
        other: code, padding, and results that do not take the place of arguments.
    """

    weights: float = 0.0
    moments: float = 0.0
    teacher: float = 0.0
    batch: float = 0.0
    activations: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(dataclasses.astuple(self))

    @property
    def state(self) -> float:
        """What is there between steps, whatever the batch."""
        return self.weights + self.moments + self.teacher


def of_state(shapes: Mapping[str, Any]) -> Memory:
    """Of a TrainState, of which shapes with shardings suffice."""
    return Memory(
        weights=_per_device(shapes["params"]),
        moments=_per_device(shapes["optimizer"]),
        teacher=_per_device(shapes["carry"]),
    )


def of_arguments(shapes: Mapping[str, Any], batch: Any) -> Memory:
    """Of a TrainState and a batch."""
    return dataclasses.replace(of_state(shapes), batch=_per_device(batch))


def of_step(shapes: Mapping[str, Any], batch: Any, compiled: jax.stages.Compiled) -> Memory:
    """Of a compiled train step (state, batch) -> (state, metrics) whose state is donated; `batch`
    has shapes with shardings.
    """
    planned, arguments = compiled.memory_analysis(), of_arguments(shapes, batch)
    results = planned.output_size_in_bytes - planned.alias_size_in_bytes
    padding = max(planned.argument_size_in_bytes - arguments.total, 0)
    return dataclasses.replace(
        arguments,
        activations=planned.temp_size_in_bytes,
        other=planned.generated_code_size_in_bytes + max(results, 0) + padding,
    )


def whole_bytes(tree: Any) -> int:
    """Of all arrays of a tree, each counted once, however it is spread over devices."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def lines(memory: Memory) -> list[str]:
    """One line per kind that is there, and their sum, in MiB."""
    named = {kind: getattr(memory, kind) for kind in KINDS} | {"together": memory.total}
    return [f"{kind:<12}{size / 2**20:10,.1f} MiB" for kind, size in named.items() if size]


def _per_device(tree: Any) -> int:
    return sum(map(_shard_bytes, jax.tree.leaves(tree)))


def _shard_bytes(leaf: Any) -> int:
    """Of an array in the device's own memory; moments may be in the host's."""
    if leaf.sharding and leaf.sharding.memory_kind == "pinned_host":
        return 0
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize
