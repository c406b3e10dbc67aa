"""An encoder of a run's newest checkpoint: what export, embed and `run.init_from` take of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from eo_jax.checkpoint import load
from eo_jax.experiment import make_experiment
from eo_jax.models.encoder import Encoder
from eo_jax.objectives.base import NO_HEADS, HeadWeights
from eo_jax.schema import Carry, Params


@dataclasses.dataclass(frozen=True, eq=False)
class RunEncoder:
    """An encoder of a run, with its weights.

    Attributes:
        workdir: of the run.
        name: a key of `Objective.encoders`: "enmap.teacher".
        source: whose pixels it reads.
        encoder: its structure.
        params, statistics: its weights and running statistics, numpy arrays.
        heads: those of its heads, by the names of the objective's networks.
        image_size: side in pixels of the views that it was trained on.
        config, step: of the run.
    """

    workdir: Path
    name: str
    source: str
    encoder: Encoder
    params: Params
    statistics: Carry
    heads: HeadWeights
    image_size: int
    config: dict[str, Any]
    step: int

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The provenance of its source, from data.json: sensor row, normalisation, content hash."""
        return json.loads((self.workdir / "data.json").read_text())[self.source]


def encoder_of_run(workdir: Path, name: str = "", asked_by: str = "--encoder") -> RunEncoder:
    """An encoder of a run, by default the objective's first.

    Args:
        asked_by: the option or config key that gave the name, for the error.

    Raises ValueError where the run has no such encoder.
    """
    config, step, params, carry = load(workdir)
    experiment = make_experiment(config)
    encoders = experiment.objective.encoders(params, carry)
    name = name or next(iter(encoders))
    if name not in encoders:
        raise ValueError(f"{asked_by}: {name!r}; {workdir} has {', '.join(encoders)}")
    weights = encoders[name]
    source = weights["source"]
    return RunEncoder(
        workdir=workdir,
        name=name,
        source=source,
        encoder=experiment.encoders[source],
        params=weights["params"],
        statistics=weights["statistics"],
        heads=experiment.objective.heads(params, carry).get(name, NO_HEADS),
        image_size=experiment.views[f"{source}/global"][1],
        config=config,
        step=step,
    )
