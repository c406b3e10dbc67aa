"""Holds batches of a pool that are cut over eight devices while others are drawn, and says whether
they stayed as they were.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from eo_jax import sharding
from eo_jax.data.store.buffers import BufferPool


def host_batches(pool: BufferPool, count: int, addresses: set[int]) -> Iterator[dict]:
    """Batches n full of the number n; notes where their memory is."""
    for n in range(count):
        pixels = pool.take()
        pixels[:] = n
        addresses.add(pixels.ctypes.data)
        yield {"enmap": {"pixels": pixels, "position": np.arange(16)}}


def main() -> dict[str, bool]:
    """Whether devices read the pool's memory, unchanged, and how much of it was enough."""
    mesh = sharding.make_mesh(sharding.Config(data=4, fsdp=2))
    pool, addresses = BufferPool((16, 1, 3, 32, 32), np.int16, 4), set()
    held = list(sharding.prefetch(host_batches(pool, 6, addresses), mesh, 1))
    pointers = {
        shard.data.unsafe_buffer_pointer()
        for batch in held
        for shard in batch["enmap"]["pixels"].addressable_shards
    }
    aliased = any(
        start <= pointer < start + 16 * 3 * 32 * 32 * 2
        for start in addresses
        for pointer in pointers
    )
    for batch in sharding.prefetch(host_batches(pool, 30, addresses), mesh, 1):
        jax.block_until_ready(batch)
    same = all((np.asarray(batch["enmap"]["pixels"]) == n).all() for n, batch in enumerate(held))
    return {"aliased": aliased, "same": same, "buffers_bounded": len(addresses) < 6 + 10}
