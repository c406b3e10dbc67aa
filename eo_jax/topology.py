"""How devices are connected, and the mesh that suits it: weights move within a slice or node, only
sums of gradients between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh


def lay_out(devices: Sequence[jax.Device], shape: tuple[int, int, int]) -> np.ndarray:
    """The devices as an array [data, fsdp, model].

    Where every slice or node has room for whole copies of the weights, `fsdp` and `model` stay
    within one, and `data` goes across; the order within follows the hardware. Otherwise devices are
    in order of slices.
    """
    islands = _islands(devices)
    if not _fit_within(islands, shape):
        return np.array([device for island in islands for device in island]).reshape(shape)
    within = (shape[0] // len(islands), *shape[1:])
    return np.concatenate(
        [
            mesh_utils.create_device_mesh(within, island, allow_split_physical_axes=True)
            for island in islands
        ]
    )


def described(mesh: Mesh) -> str:
    """ "data 2 x fsdp 4 x model 1", and where it lies on several slices or nodes."""
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    islands = {_island(device) for device in mesh.devices.flat}
    if len(islands) == 1:
        return sizes
    whole = all(len({_island(d) for d in copy.flat}) == 1 for copy in mesh.devices)
    where = "fsdp within, data across" if whole else "FSDP ACROSS, weights move between them"
    return f"{sizes} on {len(islands)} slices or nodes, {where}"


def _fit_within(islands: Sequence[Sequence[jax.Device]], shape: tuple[int, int, int]) -> bool:
    sizes = {len(island) for island in islands}
    return len(sizes) == 1 and sizes.pop() % math.prod(shape[1:]) == 0


def _islands(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices of each slice or node, in order of their numbers."""
    found: dict[int, list[jax.Device]] = {}
    for device in devices:
        found.setdefault(_island(device), []).append(device)
    return [found[number] for number in sorted(found)]


def _island(device: jax.Device) -> int:
    """The number of its slice (TPU) or node (GPU); the process where the platform has neither."""
    number = getattr(device, "slice_index", None)
    return device.process_index if number is None else number
