"""Compiles the train step of an objective for data 4 x fsdp 4 and returns what devices exchange."""

from __future__ import annotations

import json
import math
from typing import Any

import golden_text
import jax
import ml_collections
from multidevice.lower import batches, numbers
from tiny_objectives import config_of

from eo_jax import rules, sharding
from eo_jax.experiment import make_experiment, make_recipe
from eo_jax.plan import collectives
from eo_jax.step import TrainSession

# Rows per device. No weight and no statistic has a size that 37 divides, so what it divides has
# rows of the batch in it; and tokens of that many rows of four devices are larger than any weight.
PRIME = 37
ROWS = 16 * PRIME


def _config_of(target: str) -> ml_collections.ConfigDict:
    if "/" in target:
        return config_of(*target.split("/"), rows=ROWS)
    name, _, variant = target.partition(":")
    return golden_text.load(name)["get_config"](variant)


def main(target: str, *settings: str) -> dict[str, Any]:
    """Bytes of the largest weight of a layer, whether fsdp splits any, and the collectives as
    [kind, shape, bytes, name].

    Args:
        target: "objective/backbone" of `tiny_objectives`, or "name:variant" of a config.
        settings: "path=value" of fields of the config.
    """
    config = _config_of(target)
    config.data.batch_size = ROWS
    config.model.dtype = "bfloat16"
    config.sharding.data, config.sharding.fsdp = 4, 4
    config.update_from_flattened_dict(
        {path: json.loads(value) for path, _, value in (s.partition("=") for s in settings)}
    )
    experiment = make_experiment(config)
    recipe = make_recipe(experiment, numbers(experiment))
    session = TrainSession(experiment, recipe, sharding.make_mesh(experiment.sharding))
    batch = batches(experiment, config.objective)[0]
    compiled = session.step.lower(session.shapes, batch).compile()
    sizes = [_size(*of_weight) for of_weight in rules.paths(session.shapes["params"])]
    assert all(size % PRIME for size in sizes), sizes
    return {
        "largest": 4 * max(sizes),
        "splits": any(not at.is_fully_replicated for at in jax.tree.leaves(session.placement)),
        "found": [
            [c.kind, c.shape, c.bytes, c.op_name] for c in collectives.read(compiled.as_text())
        ],
    }


def _size(path: str, weight: jax.ShapeDtypeStruct) -> int:
    """Values of a weight, or of one layer's."""
    return math.prod(weight.shape[1:] if rules.is_stacked(path) else weight.shape)
