"""Placement of arrays: mesh, rule table from weights to mesh axes, global batches, prefetch."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eo_jax import rules
from eo_jax.schema import Batch

T = TypeVar("T")

# Right-aligned: a spec covers the last axes, so stacked and plain weights, and the moments of both,
# share a row. `fsdp` splits the axis that a matrix product sums over, or the largest.
_RULES = (
    (r"attention/qkv$", ("fsdp", None, None, None)),
    (
        r"(attention/out|mlp/fc1|mlp/fc2|embed|predict|hidden/\d+|last|last_layer)/kernel$",
        ("fsdp", None),
    ),
    (r".*", ()),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A mesh of `data` x `fsdp` devices.

    Attributes:
        data: replicas; -1 for all devices that `fsdp` leaves.
        fsdp: devices that share one copy of weights and moments. The batch is split over both axes.
        prefetch: batches placed on the device ahead of the step.
        rules: regex -> axes of the last dimensions; () for the table of this module, without the
            rows that no weight of the model needs.
    """

    data: int = -1
    fsdp: int = 1
    prefetch: int = 1
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def __post_init__(self):
        if self.fsdp < 1:
            raise ValueError(f"config.sharding.fsdp: {self.fsdp}; expected at least 1")


def make_mesh(config: Config) -> Mesh:
    """The mesh over all devices.

    Raises ValueError where the product of the axes is not the number of devices.
    """
    devices = jax.device_count()
    data = devices // config.fsdp if config.data == -1 else config.data
    if data * config.fsdp != devices:
        raise ValueError(
            f"config.sharding: data {data} x fsdp {config.fsdp} is not {devices}, the number of "
            "devices; change them, or set data to -1"
        )
    # Auto: XLA propagates shardings. make_mesh's own default is Explicit, under which a plain model
    # fails.
    return jax.make_mesh((data, config.fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def on_mesh(mesh: Mesh, function: Callable[..., T]) -> Callable[..., T]:
    """The function, traced where layers see the axes of the mesh; see `models.layers.product`."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def state_sharding(config: Config, state: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of a train state (shapes suffice)."""
    specs = rules.match(config.rules or rules.needed(_RULES, state), state, "config.sharding.rules")
    structure = jax.tree.structure(state)
    shardings = [
        NamedSharding(mesh, _right_align(spec, leaf.shape, path, mesh))
        for (path, leaf), spec in zip(
            rules.paths(state), structure.flatten_up_to(specs), strict=True
        )
    ]
    return jax.tree.unflatten(structure, shardings)


def with_sharding(shapes: Any, shardings: Any) -> Any:
    """The tree of shapes, each with its sharding, as `Checkpoints.restore` needs it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _right_align(
    axes: tuple[str | None, ...], shape: tuple[int, ...], path: str, mesh: Mesh
) -> PartitionSpec:
    if len(axes) > len(shape):
        raise ValueError(
            f"config.sharding.rules: {path} has shape {shape}, its rule names {len(axes)} axes"
        )
    padded = (None,) * (len(shape) - len(axes)) + tuple(axes)
    for size, axis in zip(shape, padded, strict=True):
        if axis and size % mesh.shape[axis]:
            raise ValueError(
                f"config.sharding.rules: {path} has shape {shape}; {size} does not divide over "
                f"{axis} = {mesh.shape[axis]}"
            )
    return PartitionSpec(*padded) if any(padded) else PartitionSpec()


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over every device, in mesh order.

    The devices of a process need not be neighbours in a mesh, which is laid out for the hardware:
    see `local_rows`.
    """
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that this process's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted(row for (rows,) in slices for row in range(*rows.indices(batch_size)))


def check_batch(batch_size: int, accum: int, mesh: Mesh) -> None:
    """Raises ValueError where a batch or its microbatches cannot be divided over the mesh."""
    if batch_size % (mesh.size * accum):
        raise ValueError(
            f"config.data.batch_size: {batch_size} does not divide over {mesh.size} devices x "
            f"{accum} microbatches (config.optim.accum); the nearest that does: "
            f"{max(1, batch_size // (mesh.size * accum)) * mesh.size * accum}"
        )


def to_global(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows (see `local_rows`) as global arrays; `position` stays on the host."""
    place = functools.partial(place_rows, mesh=mesh)
    return {
        source: {
            key: jax.tree.map(place, value) for key, value in fields.items() if key != "position"
        }
        for source, fields in batch.items()
    }


def place_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """The global array of which this process has `rows`, those of `local_rows`."""
    rows, sharding = np.asarray(rows), batch_sharding(mesh)
    count = len(rows) * mesh.size // len(mesh.local_devices)
    at = {row: here for here, row in enumerate(local_rows(mesh, count))}

    def of_device(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(count)
        return rows[at[first] : at[first] + last - first]

    return jax.make_array_from_callback((count, *rows.shape[1:]), sharding, of_device)


def whole(rows: np.ndarray, mesh: Mesh) -> np.ndarray:
    """All rows of a global batch, of which each process has its own, in every process."""
    if len(mesh.local_devices) == mesh.size:
        return rows
    gathered = _replicate(mesh)(place_rows(rows, mesh))
    return np.asarray(gathered).astype(rows.dtype)  # int64 is int32 on devices


@functools.cache
def _replicate(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _same(array: jax.Array) -> jax.Array:
    return array


def raise_error(error: Exception) -> None:
    """Raises it: what one process does with an error that is met ahead of its step."""
    raise error


def prefetch(
    batches: Iterator[Batch],
    mesh: Mesh,
    depth: int,
    announce: Callable[[Exception], None] = raise_error,
) -> Iterator[Batch]:
    """Global batches, `depth` of them placed ahead.

    An error of `batches` is given to `announce`, whose default raises it. If that returns, the
    batches that are placed follow, and then the error.

    Transfers are asynchronous, so they overlap the step, and send the archive's dtype. Nothing here
    refers to a host batch once it is placed, so that its memory is free as soon as the device no
    longer needs it.
    """
    ahead: collections.deque[Batch] = collections.deque()
    try:
        for batch in map(functools.partial(to_global, mesh=mesh), batches):
            ahead.append(batch)
            del batch
            if len(ahead) > depth:
                yield ahead.popleft()
    except (ValueError, OSError) as error:
        announce(error)
        yield from ahead
        raise
    yield from ahead
