"""Starting weights from another run: `run.init_from` names its workdir, a table says which weight
of its encoder goes where.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax import rules
from eo_jax.checkpoint import load
from eo_jax.experiment import Experiment, make_experiment

# Path of a weight of the new run -> path in {"params": weights, "statistics": running statistics}
# of the encoder it starts from.
_RULES = (
    (r"^params/encoder/(.+)$", r"params/\1"),
    (r"^carry/encoder/(.+)$", r"statistics/\1"),
    (r"^carry/teacher/params/encoder/(.+)$", r"params/\1"),
    (r"^carry/teacher/statistics/encoder/(.+)$", r"statistics/\1"),
)


def warm_started(state: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """A train state whose weights come from the run that `config.run.init_from` names, where a rule
    says so; the others stay as they are.

    Args:
        state: of step 0.
        experiment: of the new run; `run.init_encoder` chooses the encoder, "" the objective's
            first; `run.init_rules` the table, () the one above.

    Raises:
        ValueError: another sensor, a weight that the rules ask for and that is absent or of another
            shape, a rule that no weight reaches.
    """
    workdir, table = Path(experiment.run.init_from), experiment.run.init_rules
    encoder = _encoder_of(workdir, experiment)
    wanted = {"params": state["params"], "carry": state["carry"]}
    found = _taken(wanted, encoder, table or rules.needed(_RULES, wanted), workdir)
    return {**state, **found}


def _encoder_of(workdir: Path, experiment: Experiment) -> dict[str, np.ndarray]:
    """{"params/...", "statistics/...": array} of the chosen encoder."""
    config, _, params, carry = load(workdir)
    other = make_experiment(config)
    encoders = other.objective.encoders(params, carry)
    name = experiment.run.init_encoder or next(iter(encoders))
    if name not in encoders:
        raise ValueError(f"config.run.init_encoder: {name!r}; {workdir} has {', '.join(encoders)}")
    weights = encoders[name]
    sensor, sensors = (
        other.encoders[weights["source"]].sensor,
        {encoder.sensor.id for encoder in experiment.encoders.values()},
    )
    if sensor.id not in sensors:
        raise ValueError(
            f"config.run.init_from: {workdir} trained encoder {name!r} on sensor {sensor.id!r}, "
            f"this run has {', '.join(sorted(sensors))}; weights "
            f"belong to bands in their order"
        )
    return dict(rules.paths({"params": weights["params"], "statistics": weights["statistics"]}))


def _taken(
    wanted: dict[str, Any], encoder: dict[str, np.ndarray], table: rules.Rules, workdir: Path
) -> dict[str, Any]:
    where = rules.match_some(
        tuple((pattern, (pattern, path)) for pattern, path in table),
        wanted,
        "config.run.init_rules",
        None,
    )
    if not table:
        raise ValueError(
            "config.run.init_rules: this objective has no single encoder, so the table of "
            "config.run.init_rules has to be given"
        )

    def take(keys: tuple, leaf: jax.Array, rule: tuple[str, str] | None) -> jax.Array:
        if rule is None:
            return leaf
        path = rules.path_name(keys)
        source = re.search(rule[0], path).expand(rule[1])
        array = encoder.get(source)
        if array is None or array.shape != leaf.shape:
            there = "absent" if array is None else f"of shape {array.shape}"
            raise ValueError(
                f"config.run.init_rules: {path} {leaf.shape} starts from {source}, which is "
                f"{there} in {workdir}"
            )
        # Over NaN, so that what is not written would be seen at the first step.
        return jnp.full_like(leaf, jnp.nan).at[...].set(array)

    flat = jax.tree.structure(wanted).flatten_up_to(where)
    leaves = [
        take(keys, leaf, rule)
        for (keys, leaf), rule in zip(
            jax.tree_util.tree_flatten_with_path(wanted)[0], flat, strict=True
        )
    ]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)
