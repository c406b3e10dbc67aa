"""Lowers the train step of configs, given as name:variant, for a mesh of data 4 x fsdp 2. Nothing
is compiled, computed or read.
"""

from __future__ import annotations

import golden_text
import jax
import numpy as np
from jax import ShapeDtypeStruct

from eo_jax import sharding
from eo_jax.augment.views import Normalisation
from eo_jax.experiment import Experiment, make_experiment, make_recipe
from eo_jax.schema import Batch
from eo_jax.step import TrainSession


def lower(target: str, mesh: jax.sharding.Mesh) -> str:
    """What the lowered modules say, one an entry of the mixture: for how many devices."""
    name, variant = target.split(":")
    config = golden_text.load(name)["get_config"](variant)
    experiment = make_experiment(config)
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)
    session = TrainSession(experiment, make_recipe(experiment, numbers(experiment)), mesh)
    found = {
        session.step.lower(session.shapes, batch).as_text().count("num_partitions = 8")
        for batch in batches(experiment, config.objective)
    }
    return ", ".join(f"{count} module for 8 devices" for count in sorted(found))


def numbers(experiment: Experiment) -> dict[str, Normalisation]:
    """Any numbers will do: those of a store would take a store."""
    bands = {source: len(encoder.sensor.bands) for source, encoder in experiment.encoders.items()}
    return {
        source: Normalisation(np.zeros(count), np.ones(count), "none")
        for source, count in bands.items()
    }


def batches(experiment: Experiment, objective: dict) -> list[Batch]:
    """A batch of each entry, as `sharding.to_global` gives it; shapes only."""
    data = experiment.data
    entries = [entry.sources for entry in data.mixture.values()] or [tuple(data.sources)]
    return [
        {source: _fields(experiment, source, objective) for source in entry} for entry in entries
    ]


def _fields(experiment: Experiment, source: str, objective: dict) -> dict[str, ShapeDtypeStruct]:
    data, sensor = experiment.data, experiment.encoders[source].sensor
    rows, dates, crop = data.batch_size, data.sources[source].dates, data.crop
    fields = {
        "pixels": ShapeDtypeStruct((rows, dates, len(sensor.bands), crop, crop), sensor.dtype),
        "time": ShapeDtypeStruct((rows, dates), np.int32),
        "lonlat": ShapeDtypeStruct((rows, 2), np.float32),
    }
    if data.sources[source].label:
        fields["label"] = _label(
            (rows, dates), crop, {} if data.sources[source].draw == "pixel" else objective
        )
    return fields


def _label(lead: tuple[int, int], crop: int, objective: dict) -> ShapeDtypeStruct:
    """What a store would have for the objective to learn from; a map, unless its task is one of
    whole patches.
    """
    shapes = {
        "classification": (),
        "multi_label": (objective.get("outputs"),),
        "regression": (objective.get("outputs"),),
    }
    task = objective.get("task", "segmentation")
    return ShapeDtypeStruct(
        (*lead, *shapes.get(task, (crop, crop))), np.float32 if task == "regression" else np.uint8
    )


def main(*targets: str) -> dict[str, str]:
    """What the lowered modules of each target say."""
    mesh = sharding.make_mesh(sharding.Config(data=4, fsdp=2))
    return {target: lower(target, mesh) for target in targets}
