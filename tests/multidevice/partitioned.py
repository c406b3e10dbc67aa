"""Compiles small programs for data 2 x fsdp 4 of eight devices, and reads their collectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eo_jax import sharding
from eo_jax.plan import collectives


def every_kind(mesh: Mesh) -> jax.stages.Compiled:
    """One collective of each kind among the four devices of `fsdp`, of an array [8, 16]."""

    def exchange(x: jax.Array) -> tuple[jax.Array, ...]:
        ring = [(i, (i + 1) % 4) for i in range(4)]
        return (
            jax.lax.all_gather(x, "fsdp", tiled=True),
            jax.lax.psum(x, "fsdp"),
            jax.lax.psum_scatter(x, "fsdp", tiled=True),
            jax.lax.all_to_all(x, "fsdp", 0, 1, tiled=True),
            jax.lax.ppermute(x, "fsdp", ring),
        )

    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        exchange, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32)).compile()


def scanned(mesh: Mesh) -> jax.stages.Compiled:
    """The gradient of three layers of weights [64, 64] that `fsdp` cuts, on 128 rows."""

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].mean()

    rows, cut = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    jitted = jax.jit(jax.grad(loss), in_shardings=(cut, rows), out_shardings=cut)
    shapes = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32), jax.ShapeDtypeStruct((128, 64), "f4")
    return jitted.lower(*shapes).compile()


PROGRAMS: dict[str, Callable[[Mesh], jax.stages.Compiled]] = {
    "every_kind": every_kind,
    "scanned": scanned,
}


def main(program: str) -> list[dict]:
    """The collectives of a program."""
    mesh = sharding.make_mesh(sharding.Config(data=2, fsdp=4))
    compiled = PROGRAMS[program](mesh)
    return [dataclasses.asdict(found) for found in collectives.read(compiled.as_text())]
