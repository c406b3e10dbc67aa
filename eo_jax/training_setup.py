"""What a config means on this machine: its data opened, its step on the mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from eo_jax import sharding
from eo_jax.augment.views import Normalisation, Recipe
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluators.base import Context
from eo_jax.experiment import (
    Experiment,
    check_labels,
    make_context,
    make_normalisation,
    make_recipe,
    mean_sample_flops,
)
from eo_jax.schema import Batch, TrainState
from eo_jax.step import TrainSession
from eo_jax.warm_start import load_weights


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """All that does not depend on the workdir.

    Attributes:
        experiment: the parts of the config.
        mesh: over all devices.
        pipeline: its batches have the rows of this process.
        normalisation: {source: mean and std}.
        recipe: from batches to views.
        session: the train step and the shapes of its state.
    """

    experiment: Experiment
    mesh: jax.sharding.Mesh
    pipeline: Pipeline
    normalisation: Mapping[str, Normalisation]
    recipe: Recipe
    session: TrainSession

    def context_of(
        self, poll: Callable[[], None], announce: Callable[[Exception], None]
    ) -> Callable[[str], Context]:
        """Source -> the context of evaluators on it; see `make_context`."""
        return functools.partial(
            make_context,
            self.experiment,
            self.normalisation,
            self.mesh,
            poll=poll,
            announce=announce,
        )

    def empty_batches(self) -> dict[str, Batch]:
        """{component: a global batch of its shapes}."""
        found = {}
        for component in self.pipeline.mixture.components:
            # Of zeros: what memory happens to hold may be no float32, of which numpy warns.
            zeros = jax.tree.map(np.zeros_like, self.pipeline.empty_batch(component))
            found[component] = sharding.to_global(zeros, self.mesh)
        return found

    def sample_flops(self) -> float:
        """FLOP of a sample in a train step."""
        return mean_sample_flops(self.experiment, self.recipe.train, self.pipeline)


def make_setup(
    experiment: Experiment, mesh_config: sharding.Config, gather: Callable[[Any], list[Any]]
) -> TrainingSetup:
    """Opens the stores. Raises ValueError for what does not fit the config or the devices.

    Args:
        mesh_config: `experiment.sharding`, or another where only numbers are wanted.
        gather: value -> what every process gives there.
    """
    mesh = sharding.make_mesh(mesh_config)
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)
    rows = sharding.local_rows(mesh, experiment.data.batch_size)
    pipeline = Pipeline(experiment.data, experiment.run.seed, rows, gather)
    check_labels(experiment, pipeline)
    normalisation = make_normalisation(experiment, pipeline)
    recipe = make_recipe(experiment, normalisation)
    session = TrainSession(experiment, recipe, mesh)
    return TrainingSetup(experiment, mesh, pipeline, normalisation, recipe, session)


def initial_state(setup: TrainingSetup) -> TrainState:
    """Step 0, with fresh weights or those of `run.init_from`."""
    state = setup.session.init()
    if setup.experiment.run.init_from:
        state = jax.device_put(load_weights(state, setup.experiment), setup.session.placement)
    return state
