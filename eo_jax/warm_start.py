"""Starting weights from another run, or from a file of a PyTorch network.

`run.init_from` is the workdir or the file. A rule table says where each weight of the encoder goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax import rules
from eo_jax.exchange.importing import Imported, Source, import_encoder
from eo_jax.exchange.importing_head import with_head
from eo_jax.experiment import Experiment
from eo_jax.objectives.base import NO_HEADS, HeadWeights
from eo_jax.run_encoder import encoder_of_run
from eo_jax.schema import Carry, Params

# Path of a weight of the new run -> path in {"params": weights, "statistics": running statistics}
# of the encoder it starts from.
_RULES = (
    (r"^params/encoder/(.+)$", r"params/\1"),
    (r"^carry/encoder/(.+)$", r"statistics/\1"),
    (r"^carry/teacher/params/encoder/(.+)$", r"params/\1"),
    (r"^carry/teacher/statistics/encoder/(.+)$", r"statistics/\1"),
)


def load_weights(state: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """A train state with the weights that `config.run.init_from` names, where a rule says so.

    Other weights stay as they are.

    Args:
        state: of step 0.
        experiment: of the new run; `run.init_encoder` is the encoder to take, "" for the
            objective's first; `run.init_layout` the layout of a file; `run.init_rules` the table,
            () for the one above.

    Raises:
        ValueError: another sensor, a weight that the rules ask for and that is absent or of another
            shape, or a rule that no weight reaches.
    """
    run, path = experiment.run, Path(experiment.run.init_from)
    is_run = path.is_dir() or not path.suffix
    for option, value, fits in (
        ("init_layout", run.init_layout, not is_run),
        ("init_encoder", run.init_encoder, is_run),
    ):
        if value and not fits:
            raise ValueError(
                f"config.run.{option}: {value!r}; {path} is a {'run' if is_run else 'file'}, which "
                f"has no such choice; leave {option} empty"
            )
    if is_run:
        return with_encoder(state, _load_encoder(path, experiment), run.init_rules, path)
    imported = imported_encoder(Source(path, run.init_layout), experiment)
    if jax.process_index() == 0:  # one process speaks for all
        print("\n".join(f"{path}: {line}" for line in imported.remarks), flush=True)
    encoder = leaves_of(imported.params, imported.statistics)
    return with_encoder(state, encoder, run.init_rules, path)


def imported_encoder(source: Source, experiment: Experiment, name: str = "") -> Imported:
    """The weights of a file for the encoder of a source, by default the experiment's first.

    Raises ValueError.
    """
    name = name or next(iter(experiment.encoders))
    if name not in experiment.encoders:
        raise ValueError(f"--encoder: {name!r}; this config has {', '.join(experiment.encoders)}")
    _, image_size = experiment.views[f"{name}/global"]
    return import_encoder(source, experiment.encoders[name], image_size)


def imported_with_head(
    imported: Imported, objective: Mapping[str, Any], experiment: Experiment, name: str = ""
) -> Imported:
    """The same with the head beside the encoder in the file.

    Args:
        objective: section of the config.

    Raises ValueError where the file has not that head, or the objective none that is published.
    """
    name = name or next(iter(experiment.encoders))
    _, image_size = experiment.views[f"{name}/global"]
    shapes = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    heads = experiment.objective.heads(*shapes).get(name, NO_HEADS)
    return with_head(imported, objective, experiment.encoders[name], heads, image_size)


def with_encoder(
    state: dict[str, Any], encoder: Mapping[str, np.ndarray], table: rules.Rules, origin: Path
) -> dict[str, Any]:
    """A train state with the weights {"params/...", "statistics/...": array} of an encoder.

    Args:
        table: `run.init_rules`; () for the encoder and its teacher.
        origin: named in errors.
    """
    fresh = {"params": state["params"], "carry": state["carry"]}
    weights = _replace_leaves(fresh, encoder, table or rules.needed(_RULES, fresh), origin)
    return {**state, **weights}


def with_heads(state: dict[str, Any], heads: HeadWeights, origin: Path) -> dict[str, Any]:
    """A train state with the weights of heads, and the same for its teacher.

    Args:
        origin: named in errors.
    """
    names = "|".join(map(re.escape, heads["params"]))
    table = tuple(
        (rf"^{start}/((?:{names})/.+)$", rf"{kind}/\1")
        for start, kind in (
            ("params", "params"),
            ("carry", "statistics"),
            ("carry/teacher/params", "params"),
            ("carry/teacher/statistics", "statistics"),
        )
    )
    fresh = {"params": state["params"], "carry": state["carry"]}
    leaves = leaves_of(heads["params"], heads["statistics"])
    return {**state, **_replace_leaves(fresh, leaves, rules.needed(table, fresh), origin)}


def leaves_of(params: Params, statistics: Carry) -> dict[str, np.ndarray]:
    """{"params/...", "statistics/...": array}, as the rules name them."""
    return dict(rules.paths({"params": params, "statistics": statistics}))


def _load_encoder(workdir: Path, experiment: Experiment) -> dict[str, np.ndarray]:
    """{"params/...", "statistics/...": array} of the chosen encoder."""
    run = encoder_of_run(workdir, experiment.run.init_encoder, "config.run.init_encoder")
    sensor = run.encoder.sensor
    sensors = {encoder.sensor.id for encoder in experiment.encoders.values()}
    if sensor.id not in sensors:
        raise ValueError(
            f"config.run.init_from: {workdir} trained encoder {run.name!r} on sensor "
            f"{sensor.id!r}, this run has {', '.join(sorted(sensors))}; weights belong to bands in "
            "their order"
        )
    return leaves_of(run.params, run.statistics)


def _replace_leaves(
    fresh: dict[str, Any], encoder: dict[str, np.ndarray], table: rules.Rules, workdir: Path
) -> dict[str, Any]:
    """The tree with the leaves that a rule matches taken from an encoder."""
    with_pattern = tuple((pattern, (pattern, path)) for pattern, path in table)
    matched = rules.match_some(with_pattern, fresh, "config.run.init_rules", None)
    if not table:
        raise ValueError(
            "config.run.init_rules: this objective has no single encoder, so config.run.init_rules "
            "has to be given"
        )

    def take(keys: tuple, leaf: jax.Array, rule: tuple[str, str] | None) -> jax.Array:
        if rule is None:
            return leaf
        path = rules.path_name(keys)
        source = re.search(rule[0], path).expand(rule[1])
        array = encoder.get(source)
        if array is None or array.shape != leaf.shape:
            found = "absent" if array is None else f"of shape {array.shape}"
            raise ValueError(
                f"config.run.init_rules: {path} {leaf.shape} starts from {source}, which is "
                f"{found} in {workdir}"
            )
        # Over NaN, so that a part that is not written would show at the first step.
        return jnp.full_like(leaf, jnp.nan).at[...].set(array)

    with_paths, structure = jax.tree_util.tree_flatten_with_path(fresh)
    leaves = [
        take(keys, leaf, rule)
        for (keys, leaf), rule in zip(with_paths, structure.flatten_up_to(matched), strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)
