"""One of two processes with two devices each: places a batch on meshes whose devices take turns,
and prints the SHA-256 of what the whole global batch then holds.

    python -m multidevice.interleaved PORT PROCESS STORE
"""

from __future__ import annotations

import hashlib
import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh
from tiny_run import config_of

from eo_jax import sharding
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment
from eo_jax.schema import Batch

ROWS = 8
# Numbers of devices in mesh order; processes have 0 and 1, and 2 and 3.
ORDERS = ([0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 2, 0])
SHAPES = ((4, 1), (2, 2))


def digest(batch: Batch) -> str:
    """The SHA-256 of pixels, times and places of a batch in host memory."""
    fields = batch["enmap"]
    whole = b"".join(np.ascontiguousarray(fields[name]).tobytes() for name in sorted(fields))
    return hashlib.sha256(whole).hexdigest()


def rows_of(store: str, rows: list[int] | None) -> Batch:
    """Those rows of global batch 1, without what stays on the host."""
    data = make_experiment(config_of(store, **{"data.batch_size": ROWS})).data
    fields = Pipeline(data, 0, rows).batch(1)["enmap"]
    return {"enmap": {name: array for name, array in fields.items() if name != "position"}}


def placed(store: str, mesh: Mesh) -> str:
    """The digest of the global batch on a mesh, of which each process reads its own rows."""
    batch = rows_of(store, sharding.local_rows(mesh, ROWS))
    whole = {name: sharding.whole(rows, mesh) for name, rows in batch["enmap"].items()}
    for name, array in sharding.to_global(batch, mesh)["enmap"].items():
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), whole[name][shard.index])
    return digest({"enmap": whole})


if __name__ == "__main__":
    port, process, store = sys.argv[1:]
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    devices = np.array(jax.devices())
    meshes = [
        Mesh(devices[order].reshape(shape), ("data", "fsdp"))
        for order in ORDERS
        for shape in SHAPES
    ]
    print(json.dumps([placed(store, mesh) for mesh in meshes]))
    jax.distributed.shutdown()
