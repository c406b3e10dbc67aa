"""Bytes of a device by kind, on a mesh of two."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from eo_jax.plan import memory

MESH = AbstractMesh((2,), ("fsdp",))


def array(rows, *, split):
    placed = NamedSharding(MESH, PartitionSpec("fsdp") if split else PartitionSpec())
    return jax.ShapeDtypeStruct((rows, 256), jnp.float32, sharding=placed)


STATE = {
    "params": {"kernel": array(8, split=True), "bias": array(1, split=False)},
    "optimizer": (array(8, split=True), array(8, split=True)),
    "carry": {"teacher": array(8, split=False)},
}


def test_a_state_by_kind_on_one_device():
    found = memory.of_state(STATE)
    assert (found.weights, found.moments, found.teacher) == (5 * 1024, 8 * 1024, 8 * 1024)
    assert found.state == found.total == 21 * 1024
    assert memory.whole_bytes(STATE) == (9 + 16 + 8) * 1024


def test_a_compiled_step_has_all_that_the_compiler_plans():
    """Padding of arguments, code, and results beyond the donated state are "other"."""
    planned = SimpleNamespace(
        argument_size_in_bytes=(21 + 2 + 3) * 1024,
        output_size_in_bytes=22 * 1024,
        alias_size_in_bytes=21 * 1024,
        temp_size_in_bytes=50 * 1024,
        generated_code_size_in_bytes=4 * 1024,
    )
    compiled = SimpleNamespace(memory_analysis=lambda: planned)
    found = memory.of_step(STATE, {"enmap": {"pixels": array(4, split=True)}}, compiled)
    assert (found.batch, found.activations) == (2 * 1024, 50 * 1024)
    assert found.other == (3 + 1 + 4) * 1024
    assert found.total == (26 + 50 + 1 + 4) * 1024


def test_moments_in_the_host_take_nothing_of_the_device():
    placed = NamedSharding(MESH, PartitionSpec("fsdp"), memory_kind="pinned_host")
    moment = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=placed)
    assert memory.of_state({**STATE, "optimizer": (moment, moment)}).moments == 0


def test_lines_leave_out_what_is_not_there():
    found = memory.lines(memory.Memory(weights=3 * 2**20, activations=2**29))
    assert [line.split() for line in found] == [
        ["weights", "3.0", "MiB"],
        ["activations", "512.0", "MiB"],
        ["together", "515.0", "MiB"],
    ]


def test_an_array_of_a_device_counts_as_it_lies():
    assert memory.whole_bytes({"x": jnp.zeros((4, 4))}) == 64
    host = {"params": jnp.zeros(16), "optimizer": (), "carry": {"queue": jnp.zeros(4)}}
    assert memory.of_state(host) == memory.Memory(weights=64, teacher=16)
    assert np.isclose(memory.of_state(host).total, 80)
