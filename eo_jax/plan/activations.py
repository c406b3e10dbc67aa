"""What the backward pass keeps of a sample, from the traced loss: a model of a device's memory
where no compiler for it is at hand, and the slope along which a search looks for the largest batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from eo_jax import rules
from eo_jax.experiment import Experiment
from eo_jax.schema import Batch, Views

_ROWS = (31, 62)  # no axis of a network has these lengths; kept bytes are linear in rows


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes that the forward pass keeps.

    Attributes:
        per_sample: of each sample, in whichever order devices have them.
        fixed: of weights, cast or stacked, whatever the batch.
        block: of a sample in the largest block, if nothing is recomputed: what one block needs
            while the backward pass is in it.
    """

    per_sample: float
    fixed: float
    block: float


def kept(
    experiment: Experiment, bare: Experiment, make_views: Callable[..., Views], batch: Batch
) -> Kept:
    """Of a step of an experiment; nothing is computed.

    Args:
        bare: the same experiment without recomputation.
        batch: has the fields of a batch; any number of rows.
    """
    few, many = (sum(map(_bytes, _residuals(experiment, make_views, batch, n))) for n in _ROWS)
    slope = (many - few) / (_ROWS[1] - _ROWS[0])
    params, _ = jax.eval_shape(bare.objective.init, jax.random.key(0))
    return Kept(
        per_sample=slope,
        fixed=max(few - slope * _ROWS[0], 0.0),
        block=_largest_block(_depths(params), _residuals(bare, make_views, batch, _ROWS[0])),
    )


def _residuals(
    experiment: Experiment, make_views: Callable[..., Views], batch: Batch, rows: int
) -> list[jax.ShapeDtypeStruct]:
    """What `jax.vjp` of the loss keeps for a batch of so many rows."""
    objective, key = experiment.objective, jax.eval_shape(lambda: jax.random.key(0))
    params, carry = jax.eval_shape(objective.init, key)
    seen = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), batch)

    def backward(params: Any, carry: Any, batch: Batch, key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            views = make_views(batch, key)
            return objective.loss(params, carry, views, key, jax.numpy.float32(0))[0]

        return jax.vjp(loss, params)[1]

    return jax.tree.leaves(jax.eval_shape(backward, params, carry, seen, key))


def _depths(params: Mapping[str, Any]) -> set[int]:
    """The numbers of stacked blocks, with and without the last one, which may run by itself."""
    stacked = {leaf.shape[0] for path, leaf in rules.paths(params) if rules.is_stacked(path)}
    return stacked | {depth - 1 for depth in stacked if depth > 1}


def _largest_block(depths: set[int], residuals: list[jax.ShapeDtypeStruct]) -> float:
    """Per sample; without stacked blocks an eighth of all counts as one."""
    of_depth = {
        depth: sum(_bytes(leaf) for leaf in residuals if leaf.shape[:1] == (depth,)) / depth
        for depth in depths
    }
    largest = max(of_depth.values(), default=sum(map(_bytes, residuals)) / 8)
    return largest / _ROWS[0]


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
