"""Weights of an encoder in the PyTorch layout that it belongs to.

A layout is a table: for each tensor of ours, its PyTorch key and how its axes are turned. A weight
without a row, or a row without a weight, is an error.
"""

from __future__ import annotations

import re

import jax
import numpy as np

from eo_jax import rules
from eo_jax.export.layouts import layout_of
from eo_jax.export.layouts.base import Layout, Row
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import sincos_2d
from eo_jax.schema import Carry, Params


def to_torch(
    encoder: Encoder, params: Params, statistics: Carry, image_size: int
) -> dict[str, np.ndarray]:
    """{PyTorch key: array} of an encoder, float32 but for the batch counters.

    Args:
        params, statistics: of the encoder, as its objective's `encoders` gives them; any array
            type.
        image_size: side in pixels of the images that a position embedding is written for.

    Raises:
        ValueError: an encoder without a layout; a weight that its layout has no location for, or
            one that it needs and is missing or of the wrong shape.
    """
    layout = layout_of(encoder)
    _check_shapes(encoder, params, statistics)
    exported = _translate(
        layout, layout.rows(encoder), [*_unstacked(params), *_unstacked(statistics)]
    )
    if layout.positions:
        grid = image_size // encoder.patch
        positions = sincos_2d(encoder.width, grid, grid)
        exported[layout.positions] = np.concatenate(
            [np.zeros((1, encoder.width), np.float32), positions]
        )[None]
    for key in [key for key in exported if key.endswith(".running_mean")]:
        # PyTorch only uses the counter when momentum is None, which it is not here; strict loading
        # asks for it all the same.
        exported[key.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return dict(sorted(exported.items()))


def _translate(
    layout: Layout, rows: list[Row], weights: list[tuple[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """{PyTorch key: array} by the first row that matches each path."""
    table = [(re.compile(pattern), key, turn) for pattern, key, turn in rows]
    exported, used = {}, set()
    for path, array in weights:
        row = next((i for i, (pattern, _, _) in enumerate(table) if pattern.fullmatch(path)), None)
        if row is None:
            raise ValueError(
                f"export: {path} {array.shape} has no location in the layout {layout.name!r}; it "
                "is "
                f"for {layout.requirements}"
            )
        used.add(row)
        pattern, key, turn = table[row]
        exported[pattern.fullmatch(path).expand(key)] = np.ascontiguousarray(
            turn(array), np.float32
        )
    missing = [pattern for i, (pattern, _, _) in enumerate(rows) if i not in used]
    if missing:
        raise ValueError(
            f"export: the layout {layout.name!r} needs weights that this encoder does not have: "
            f"{', '.join(missing)}"
        )
    return exported


def _unstacked(tree: Params) -> list[tuple[str, np.ndarray]]:
    """(path, array) with stacked blocks taken apart: "trunk/blocks/layers/3/norm1/scale"."""
    flat = []
    for path, leaf in rules.paths(tree):
        array = np.asarray(leaf)
        stacked, _, rest = path.partition("/layers/")
        flat += (
            [(f"{stacked}/layers/{i}/{rest}", array[i]) for i in range(len(array))]
            if rest
            else [(path, array)]
        )
    return flat


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
