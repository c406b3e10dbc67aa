"""Placement of arrays: mesh, rule table from weights to mesh axes, global batches, prefetch."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eo_jax import rules, topology
from eo_jax.schema import Batch, Metrics, TrainState

T = TypeVar("T")
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

AXES = ("data", "fsdp", "model")
Axis = str | tuple[str, ...] | None  # the mesh axes that split one axis of a weight
_ROWS = ("data", "fsdp")  # the axes that split a batch
_MOMENTS = ("as_weights", "over_data")
_MEMORIES = {"device": None, "host": "pinned_host"}  # JAX' names; None for the default
# Right-aligned: a spec covers the last axes, so stacked and plain weights, and moments of both,
# share a row. `fsdp` splits the axis that a matrix product sums over, or the largest; `model` what
# a block computes: heads, and hidden channels of the MLP (see `models.layers.product`).
_RULES = (
    (r"attention/qkv$", ("fsdp", None, "model", None)),
    (r"(attention/out|mlp/fc2)/kernel$", (("model", "fsdp"), None)),
    (r"mlp/fc1/kernel$", ("fsdp", "model")),
    (r"attention/kv$", ("fsdp", None, None, None)),
    (r"attention/q$", ("fsdp", None, None)),
    (
        r"(embed|predict|hidden/\d+|last|last_layer|fc\d|linear|attention\d*/(q|k|v|out))/kernel$",
        ("fsdp", None),
    ),
    (r".*", ()),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A mesh of `data` x `fsdp` x `model` devices.

    Attributes:
        data: replicas; -1 for all devices that the other axes leave.
        fsdp: devices that share one copy of weights and moments. The batch is split over `data` and
            `fsdp`.
        model: devices that share the heads and hidden channels of every block of a ViT, and compute
            the same samples. For models whose blocks are too large for one device; it exchanges
            tokens in every block.
        prefetch: batches placed on the device ahead of the step.
        moments: where the optimizer's moments are: "as_weights", or "over_data", which splits them
            over `data` too (ZeRO-1; Rajbhandari et al. 2020, arXiv 1910.02054).
        moments_memory: "device", or "host" for the memory of the host, from which every step
            fetches them.
        rules: regex -> axes of the last dimensions; () for the table of this module, without the
            rows that no weight of the model needs.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1
    prefetch: int = 1
    moments: str = "as_weights"
    moments_memory: str = "device"
    rules: tuple[tuple[str, tuple[Axis, ...]], ...] = ()

    def __post_init__(self):
        for axis in ("fsdp", "model"):
            if getattr(self, axis) < 1:
                raise ValueError(
                    f"config.sharding.{axis}: {getattr(self, axis)}; expected at least 1"
                )
        for field, allowed in (("moments", _MOMENTS), ("moments_memory", tuple(_MEMORIES))):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.sharding.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )


def make_mesh(config: Config) -> Mesh:
    """The mesh over all devices.

    Raises ValueError where the product of the axes is not the number of devices, or where these
    lack the memory that moments are to be in.
    """
    devices = jax.devices()
    _check_memory(config, devices[0])
    return mesh_of(config, devices)


def mesh_of(config: Config, devices: Sequence[Any]) -> Mesh:
    """The mesh over some devices, which need not be here; see `topology.lay_out`.

    Raises ValueError where the product of the axes is not their number.
    """
    copy = config.fsdp * config.model
    data = len(devices) // copy if config.data == -1 else config.data
    if data * copy != len(devices):
        raise ValueError(
            f"config.sharding: data {data} x fsdp {config.fsdp} x model {config.model} is not "
            f"{len(devices)}, the number of devices; change them, or set data to -1"
        )
    grid = topology.lay_out(devices, (data, config.fsdp, config.model))
    # Auto: XLA propagates shardings. Under Explicit axes a plain model fails.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _check_memory(config: Config, device: jax.Device) -> None:
    wanted = _MEMORIES[config.moments_memory]
    kinds = {memory.kind for memory in device.addressable_memories()}
    if wanted and wanted not in kinds:
        raise ValueError(
            f"config.sharding.moments_memory: 'host', but {device.device_kind} has no memory of "
            f"kind {wanted}, only {', '.join(sorted(kinds))}; use 'device'"
        )


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
        _placement(config, mesh, path, leaf.shape, axes)
        for (path, leaf), axes in zip(
            rules.paths(state), structure.flatten_up_to(specs), strict=True
        )
    ]
    return jax.tree.unflatten(structure, shardings)


def _placement(
    config: Config, mesh: Mesh, path: str, shape: tuple[int, ...], axes: tuple[Axis, ...]
) -> NamedSharding:
    spec = _right_align(axes, shape, path, mesh)
    if not path.startswith("optimizer/") or not shape:
        return NamedSharding(mesh, PartitionSpec(*spec))
    if config.moments == "over_data":
        spec = _over_data(spec, shape, mesh)
    return NamedSharding(mesh, PartitionSpec(*spec), memory_kind=_MEMORIES[config.moments_memory])


def fetching_moments(config: Config, placement: Any, step: Step) -> Step:
    """The step on moments that it fetches from where `placement` has them, and puts back."""
    if config.moments_memory == "device":
        return step
    on_devices = jax.tree.map(lambda at: NamedSharding(at.mesh, at.spec), placement["optimizer"])

    def moved(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        fetched = jax.device_put(state["optimizer"], on_devices)
        state, metrics = step({**state, "optimizer": fetched}, batch)
        kept = jax.device_put(state["optimizer"], placement["optimizer"])
        return {**state, "optimizer": kept}, metrics

    return moved


def with_sharding(shapes: Any, shardings: Any) -> Any:
    """The tree of shapes, each with its sharding, as `Checkpoints.restore` needs it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _right_align(
    axes: tuple[Axis, ...], shape: tuple[int, ...], path: str, mesh: Mesh
) -> tuple[Axis, ...]:
    """The mesh axes of each axis of the weight; () where it is not split."""
    if len(axes) > len(shape):
        raise ValueError(
            f"config.sharding.rules: {path} has shape {shape}, its rule names {len(axes)} axes"
        )
    padded = (None,) * (len(shape) - len(axes)) + tuple(axes)
    spec = tuple(_on_mesh(axis, path, mesh) for axis in padded)
    for size, axis in zip(shape, spec, strict=True):
        if size % _parts(axis, mesh):
            raise ValueError(
                f"config.sharding.rules: {path} has shape {shape}; {size} does not divide over "
                f"{' x '.join(_names(axis))} = {_parts(axis, mesh)}"
            )
    return spec if any(spec) else ()


def _on_mesh(axis: Axis, path: str, mesh: Mesh) -> Axis:
    """The axes that the mesh has, of those that a rule names."""
    for name in _names(axis):
        if name not in AXES:
            raise ValueError(
                f"config.sharding.rules: the rule of {path} names the axis {name!r}; expected one "
                f"of {', '.join(AXES)}, or None"
            )
    return _joined(tuple(name for name in _names(axis) if name in mesh.shape))


def _over_data(spec: tuple[Axis, ...], shape: tuple[int, ...], mesh: Mesh) -> tuple[Axis, ...]:
    """The spec with `data` on an axis that divides, one that is split already or else the largest;
    as it is where none does.
    """
    spec = spec or (None,) * len(shape)
    order = sorted(range(len(shape)), key=lambda i: (spec[i] is None, -shape[i]))
    for i in order:
        cut = (*_names(spec[i]), "data")
        if shape[i] % _parts(cut, mesh) == 0:
            return (*spec[:i], _joined(cut), *spec[i + 1 :])
    return spec


def _names(axis: Axis) -> tuple[str, ...]:
    return (axis,) if isinstance(axis, str) else tuple(axis or ())


def _joined(names: tuple[str, ...]) -> Axis:
    return names if len(names) > 1 else names[0] if names else None


def _parts(axis: Axis, mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in _names(axis))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` x `fsdp`, in mesh order; devices along `model` have the same.

    The devices of a process need not be neighbours in a mesh, which is laid out for the hardware:
    see `local_rows`.
    """
    return NamedSharding(mesh, PartitionSpec(_ROWS))


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that this process's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in slices for row in range(*rows.indices(batch_size))})


def check_batch(batch_size: int, accum: int, mesh: Mesh) -> None:
    """Raises ValueError where a batch or its microbatches cannot be divided over the mesh."""
    parts = _parts(_ROWS, mesh)
    if batch_size % (parts * accum):
        raise ValueError(
            f"config.data.batch_size: {batch_size} does not divide over data x fsdp = {parts} "
            f"devices x {accum} microbatches (config.optim.accum); the nearest that does: "
            f"{max(1, batch_size // (parts * accum)) * parts * accum}"
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
    parts = _parts(_ROWS, mesh)
    count = len(rows) * parts // len(local_rows(mesh, parts))
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
