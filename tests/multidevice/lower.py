"""Lowers the train step of configs, given as name:variant, for a mesh of data 4 x fsdp 2. Nothing is compiled or computed."""

from __future__ import annotations

import json
import sys

import golden_text
import jax
from jax.sharding import NamedSharding, PartitionSpec

from eo_jax import build, optim, sharding
from eo_jax.augment import views
from eo_jax.step import init_state, make_train_step


def lower(target: str, mesh: jax.sharding.Mesh) -> str:
    """What the lowered module says: for how many devices."""
    name, variant = target.split(":")
    experiment = build.experiment(golden_text.load(name)["get_config"](variant))
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)
    numbers = {source: views.normalisation("published", encoder.sensor, None) for source, encoder in experiment.encoders.items()}
    objective, steps = experiment.objective, experiment.run.steps
    optimizer = optim.make_optimizer(experiment.optim, jax.eval_shape(objective.init, jax.random.key(0))[0], steps)
    state = jax.eval_shape(lambda: init_state(objective, optimizer, 0))
    placement = sharding.state_sharding(experiment.sharding, state, mesh)
    train_views = build.recipe(experiment, numbers).train
    step = make_train_step(objective, optimizer, train_views, seed=0, steps=steps, accum=experiment.optim.accum)
    replicated = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(step, in_shardings=(placement, sharding.batch_sharding(mesh)), out_shardings=(placement, replicated))
    return f"{jitted.lower(state, _batch(experiment)).as_text().count('num_partitions = 8')} module for 8 devices"


def _batch(experiment: build.Experiment) -> dict:
    data = experiment.data
    shape = lambda encoder: (data.batch_size, 1, len(encoder.sensor.bands), data.crop, data.crop)  # noqa: E731
    return {source: {"pixels": jax.ShapeDtypeStruct(shape(encoder), encoder.sensor.dtype)} for source, encoder in experiment.encoders.items()}


if __name__ == "__main__":
    mesh = sharding.make_mesh(sharding.Config(data=4, fsdp=2))
    print(json.dumps({target: lower(target, mesh) for target in sys.argv[1:]}))
