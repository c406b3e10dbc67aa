"""A state whose checkpoint is saved and restored by turns, on one mesh after the other.

As a command, one turn in a process with devices of its own, of several processes if need be:

    python checkpoint_moves.py WORKDIR MESH [COORDINATOR PROCESSES PROCESS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from eo_jax import sharding
from eo_jax.checkpoint import Checkpoints, leaf_hashes, set_damaged_aside


def initial() -> dict[str, np.ndarray]:
    """Leaves that `fsdp` splits along different axes, and leaves that every device holds."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "params": {
            "layers": {
                "attention": {"qkv": normal(2, 8, 3, 2, 4), "out": {"kernel": normal(8, 6)}}
            },
            "bias": normal(7),
        },
        "moment": normal(8, 6).astype(jax.numpy.bfloat16),
        "step": np.int32(2**24 + 1),
    }


def mesh_of(name: str) -> Mesh:
    """The mesh "2x4" (data x fsdp) or "2x2x2" (and model) of the first devices."""
    data, fsdp, model = (*map(int, name.split("x")), 1)[:3]
    devices = np.array(jax.devices()[: data * fsdp * model]).reshape(data, fsdp, model)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def turn(workdir: Path, mesh: Mesh) -> list[int]:
    """Restores the newest checkpoint on a mesh, or begins, and saves the next; the shape of what
    one device holds of a weight.
    """
    state = initial()
    placement = sharding.state_sharding(sharding.Config(), state, mesh)
    checkpoints = Checkpoints(workdir)
    set_damaged_aside(checkpoints)
    step = checkpoints.latest() or 0
    if step:
        state = checkpoints.newest().restore(sharding.with_sharding(state, placement))
    else:
        state = jax.tree.map(
            lambda leaf, where: jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__),
            jax.tree.map(np.asarray, state),
            placement,
        )
    checkpoints.save(step + 1, state, {})
    checkpoints.wait()
    return list(state["params"]["layers"]["attention"]["qkv"].addressable_shards[0].data.shape)


def same(workdir: Path) -> bool:
    """Whether the newest checkpoint is the initial state, bit for bit."""
    return leaf_hashes(Checkpoints(workdir).newest().arrays()) == leaf_hashes(initial())


def main(*meshes: str) -> dict:
    """Turns on these meshes."""
    with tempfile.TemporaryDirectory() as folder:
        held = [turn(Path(folder), mesh_of(name)) for name in meshes]
        return {
            "held": held,
            "same": same(Path(folder)),
            "steps": Checkpoints(Path(folder)).steps(),
        }


if __name__ == "__main__":
    folder, name, *address = sys.argv[1:]
    if address:
        jax.distributed.initialize(address[0], int(address[1]), int(address[2]))
    print(turn(Path(folder), mesh_of(name)))
