"""Translates the weights of an encoder to its PyTorch layout.

A layout is a table with the PyTorch key and the order of axes of each of our tensors. A weight
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
from eo_jax.models.layers.position_embedding import FIXED
from eo_jax.schema import Carry, Params


def to_torch(
    encoder: Encoder, params: Params, statistics: Carry, image_size: int
) -> dict[str, np.ndarray]:
    """{PyTorch key: array} of an encoder, all float32 except the batch counters.

    Args:
        params, statistics: of the encoder, from `Objective.encoders`; any array type.
        image_size: side in pixels of the images that the position embedding is for.

    Raises:
        ValueError: no layout fits the encoder; a weight has no row in the layout, or one that it
            needs is missing or has the wrong shape.
    """
    layout = layout_of(encoder)
    _check_shapes(encoder, params, statistics)
    exported = _translate(
        layout, layout.rows(encoder), [*_unstacked(params), *_unstacked(statistics)]
    )
    if layout.positions and encoder.trunk.positions in FIXED:
        grid = image_size // encoder.patch
        positions = FIXED[encoder.trunk.positions](encoder.width, grid, grid)
        exported[layout.positions] = np.concatenate(
            [np.zeros((1, encoder.width), np.float32), positions]
        )[None]
    for key in [key for key in exported if key.endswith(".running_mean")]:
        # PyTorch uses the counter only where momentum is None, but strict loading requires it.
        exported[key.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return dict(sorted(exported.items()))


def _translate(
    layout: Layout, rows: list[Row], weights: list[tuple[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """{PyTorch key: array} by the first row that matches each path."""
    table = [(re.compile(pattern), key, reorder) for pattern, key, reorder in rows]
    exported, used = {}, set()
    for path, array in weights:
        row = next((i for i, (pattern, _, _) in enumerate(table) if pattern.fullmatch(path)), None)
        if row is None:
            raise ValueError(
                f"export: {path} {array.shape} has no row in the layout {layout.name!r}, which is "
                f"for {layout.requirements}"
            )
        used.add(row)
        pattern, key, reorder = table[row]
        name = pattern.fullmatch(path).expand(key)
        exported[name] = np.ascontiguousarray(reorder(array), np.float32)
    missing = [pattern for i, (pattern, _, _) in enumerate(rows) if i not in used]
    if missing:
        raise ValueError(
            f"export: the layout {layout.name!r} needs weights that this encoder lacks: "
            f"{', '.join(missing)}"
        )
    return exported


def _unstacked(tree: Params) -> list[tuple[str, np.ndarray]]:
    """(path, array) with stacked blocks split: "trunk/blocks/layers/3/norm1/scale"."""
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
