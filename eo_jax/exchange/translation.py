"""Translates the weights of an encoder, or of its heads, to a PyTorch layout, and back. A weight
without a row, a tensor without a row, or a row without either, is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from eo_jax import rules
from eo_jax.exchange.layout import Layout, Row, Table
from eo_jax.exchange.tensor import Tensor
from eo_jax.models.encoder import Encoder
from eo_jax.schema import Carry, Params

_COUNTER = ".num_batches_tracked"  # of BatchNorm; PyTorch uses it where momentum is None
_POSITIONS_TOLERANCE = 1e-5  # between implementations of sines and cosines
_LISTED = 5  # names in a message


class Cell(NamedTuple):
    """One PyTorch tensor and where its values are in our arrays.

    Attributes:
        path: of our array, without the axis of layers: "trunk/blocks/layers/3/norm1/scale".
        row: of the layout.
    """

    path: str
    row: Row


# ----------------------------------------------------------------------------------- to PyTorch


def to_torch(
    layout: Layout, encoder: Encoder, params: Params, statistics: Carry, image_size: int
) -> dict[str, np.ndarray]:
    """{PyTorch key: array}; see `tensors_of`."""
    tensors = tensors_of(layout, encoder, params, statistics, image_size)
    return {key: tensor.make() for key, tensor in tensors.items()}


def tensors_of(
    layout: Layout, encoder: Encoder, params: Params, statistics: Carry, image_size: int
) -> dict[str, Tensor]:
    """{PyTorch key: tensor} of an encoder, all float32 except the batch counters; each is made when
    it is asked for.

    Args:
        layout: one that fits the encoder.
        params, statistics: of the encoder, from `Objective.encoders`; any array type.
        image_size: side in pixels of the images that the position embedding is for.

    Raises:
        ValueError: a weight has no row in the layout, or one that it needs is missing or has the
            wrong shape.
    """
    _check_shapes(encoder, params, statistics)
    params = layout.folded(encoder, params)
    return tensors_by(layout.table(encoder, image_size), params, statistics)


def tensors_by(table: Table, params: Params, statistics: Carry) -> dict[str, Tensor]:
    """{PyTorch key: tensor} by a table; see `tensors_of`."""
    ours = {**unstacked(params), **unstacked(statistics)}
    cells = cells_of(table, ours)
    tensors = {key: _tensor(ours[path], row) for key, (path, row) in cells.items()}
    for key, array in table.computed.items():
        tensors[key] = Tensor(array.shape, "float32", functools.partial(np.asarray, array))
    for key, shape in table.unused.items():
        tensors[key] = Tensor(shape, "float32", functools.partial(np.zeros, shape, np.float32))
    for key in counters(tensors):
        tensors[key] = Tensor((), "int64", functools.partial(np.zeros, (), np.int64))
    return dict(sorted(tensors.items()))


def _tensor(array: np.ndarray, row: Row) -> Tensor:
    def make() -> np.ndarray:
        return np.ascontiguousarray(row.order.to_torch(array[row.part]), np.float32)

    return Tensor(_torch_shape(array[row.part].shape, row), "float32", make)


def _torch_shape(shape: tuple[int, ...], row: Row) -> tuple[int, ...]:
    return row.order.to_torch(np.broadcast_to(np.float32(0), shape)).shape


def cells_of(table: Table, paths: Mapping[str, object]) -> dict[str, Cell]:
    """{PyTorch key: Cell} for our arrays. Raises ValueError for one without a row, and for a row
    without one.
    """
    cells: dict[str, Cell] = {}
    rows = [(re.compile(_pattern(row.ours)), row) for row in table.rows]
    used: set[int] = set()
    for path in paths:
        matching = [(k, row, m) for k, (p, row) in enumerate(rows) if (m := p.fullmatch(path))]
        if not matching:
            raise ValueError(
                f"layout {table.title!r}: {path} has no row there; it is for {table.needs}"
            )
        for k, row, found in matching:
            used.add(k)
            for copy in range(max(row.copies, 1) if row.key else 0):
                key = row.key.format(**found.groupdict(), copy=copy)
                cells[key] = Cell(path, row)
    missing = [row.ours for k, (_, row) in enumerate(rows) if k not in used]
    if missing:
        raise ValueError(
            f"layout {table.title!r} needs weights that this encoder lacks: {', '.join(missing)}"
        )
    return cells


def counters(keys: Mapping[str, object]) -> list[str]:
    """The keys of BatchNorm's counters, which strict loading requires."""
    return [key.replace(".running_mean", _COUNTER) for key in keys if key.endswith(".running_mean")]


def _pattern(template: str) -> str:
    """A template as a regex: "layers/{i}" as "layers/(?P<i>\\d+)"."""
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template))


# ------------------------------------------------------------------------------------- to ours


def to_ours(
    layout: Layout, encoder: Encoder, tensors: Mapping[str, np.ndarray], image_size: int
) -> tuple[Params, Carry]:
    """(params, statistics) of an encoder from the tensors of a PyTorch network.

    Args:
        tensors: those of the encoder alone; see `prefixes` for heads and the rest.
        image_size: side in pixels of the images that the position embedding is for.

    Raises:
        ValueError: a tensor is missing, has no row, another shape or type, values that are not
            finite, or positions that the encoder does not compute.
    """
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    return to_ours_by(layout.table(encoder, image_size), shapes, tensors)


def to_ours_by(
    table: Table, shapes: tuple[Params, Carry], tensors: Mapping[str, np.ndarray]
) -> tuple[Params, Carry]:
    """(params, statistics) by a table; see `to_ours`.

    Args:
        shapes: of params and statistics, as of `jax.eval_shape`.
    """
    ours = {path: leaf.shape for tree in shapes for path, leaf in unstacked_shapes(tree)}
    cells = cells_of(table, ours)
    tensors = {key: tensor for key, tensor in tensors.items() if key not in table.unused}
    _check_keys(table, [*cells, *table.computed], tensors)
    for key, expected in table.computed.items():
        _check_computed(table, key, tensors[key], expected)
    # 0 where the network has no key for a part; every other part is written.
    filled = {path: np.zeros(shape, np.float32) for path, shape in ours.items()}
    first: dict[str, np.ndarray] = {}
    for key, (path, row) in cells.items():
        _fill(filled[path], key, tensors[key], row)
        if row.copies and not np.array_equal(tensors[key], first.setdefault(path, tensors[key])):
            raise ValueError(
                f"{key}: differs from the same table of another block; expected one for all"
            )
    return tuple(_stacked(tree, filled) for tree in shapes)


def _check_keys(table: Table, needed: list[str], tensors: Mapping[str, np.ndarray]) -> None:
    allowed = {*needed, *counters(dict.fromkeys(needed))}
    if "fc_norm.weight" in tensors:
        raise ValueError(
            f"layout {table.title!r}: the file has fc_norm, which normalises the mean of the "
            "tokens; this encoder normalises tokens before their mean, which is another network. "
            "Take weights from before such fine-tuning, with norm"
        )
    missing = [key for key in needed if key not in tensors]
    unknown = [key for key in tensors if key not in allowed]
    for what, keys in (("lacks", missing), ("has, without a row in the layout,", unknown)):
        if keys:
            more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
            raise ValueError(
                f"layout {table.title!r}: the file {what} {', '.join(keys[:_LISTED])}{more}; "
                f"{table.remedy}"
            )


def _check_computed(table: Table, key: str, found: np.ndarray, expected: np.ndarray) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"{key}: has shape {found.shape}, expected {expected.shape}, "
            f"{table.computed_as}; {table.remedy}"
        )
    difference = float(np.abs(found.astype(np.float32) - expected).max())
    if not difference <= _rounding(found):
        raise ValueError(
            f"{key}: differs from {table.computed_as} by up to {difference:.3g}; "
            f"{table.remedy_computed}"
        )


def _rounding(array: np.ndarray) -> float:
    """The tolerance for numbers in [-1, 1], by the type that they were rounded to: a float32 of a
    bfloat16 ends with 16 bits that are 0, that of a float16 with 13.
    """
    bits = array.astype(np.float32).view(np.uint32)
    if not (bits & 0xFFFF).any():
        return 2.0**-8
    return _POSITIONS_TOLERANCE if (bits & 0x1FFF).any() else 2.0**-11


def _fill(array: np.ndarray, key: str, tensor: np.ndarray, row: Row) -> None:
    """Writes a tensor into its part of our array."""
    part = array[row.part]
    expected = _torch_shape(part.shape, row)
    if tensor.shape != expected:
        raise ValueError(f"{key}: has shape {tensor.shape}, expected {expected}")
    if not np.issubdtype(tensor.dtype, np.floating):
        raise ValueError(f"{key}: has type {tensor.dtype}, expected floating-point numbers")
    values = row.order.to_ours(np.asarray(tensor, np.float32), part.shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{key}: has values that are not finite")
    array[row.part] = values


# ---------------------------------------------------------------------------------------- layers


def unstacked(tree: Params) -> dict[str, np.ndarray]:
    """{path: array} with stacked blocks split: "trunk/blocks/layers/3/norm1/scale"."""
    flat: dict[str, np.ndarray] = {}
    for path, leaf in rules.paths(tree):
        array = np.asarray(leaf)
        if "/layers/" in path:
            flat |= {_of_layer(path, i): array[i] for i in range(len(array))}
        else:
            flat[path] = array
    return flat


def _of_layer(path: str, layer: int) -> str:
    return path.replace("/layers/", f"/layers/{layer}/", 1)


def unstacked_shapes(tree: Params) -> Iterator[tuple[str, jax.ShapeDtypeStruct]]:
    for path, leaf in rules.paths(tree):
        if "/layers/" in path:
            for layer in range(leaf.shape[0]):
                yield _of_layer(path, layer), jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        else:
            yield path, leaf


def _stacked(shapes: Params, arrays: Mapping[str, np.ndarray]) -> Params:
    """A tree like `shapes`, from the arrays of single layers."""

    def take(keys: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        path = rules.path_name(keys)
        if "/layers/" not in path:
            return arrays[path]
        return np.stack([arrays[_of_layer(path, layer)] for layer in range(leaf.shape[0])])

    return jax.tree_util.tree_map_with_path(take, shapes)


def _check_shapes(encoder: Encoder, params: Params, statistics: Carry) -> None:
    expected_params, expected_statistics = jax.eval_shape(encoder.network.init, jax.random.key(0))
    for name, found, expected in (
        ("weights", params, expected_params),
        ("running statistics", statistics, expected_statistics),
    ):
        shapes = {path: tuple(leaf.shape) for path, leaf in rules.paths(found)}
        needed = {path: tuple(leaf.shape) for path, leaf in rules.paths(expected)}
        for path in sorted(shapes | needed):
            if shapes.get(path) != needed.get(path):
                raise ValueError(
                    f"export: {name}: {path} has shape {shapes.get(path, 'absent')}, the config "
                    f"needs {needed.get(path, 'absent')}"
                )
