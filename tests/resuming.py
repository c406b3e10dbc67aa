"""An objective trained in one go, and the same with a checkpoint in between: what has to be equal
to the bit.
"""

from __future__ import annotations

from pathlib import Path

from tiny_objectives import views_of

from eo_jax import sharding
from eo_jax.augment.views import Recipe
from eo_jax.checkpoint import Checkpoints, leaf_hashes
from eo_jax.experiment import Experiment
from eo_jax.schema import TrainState
from eo_jax.step import TrainSession

# Views in place of batches.
NO_AUGMENTATION = Recipe(train=lambda views, key: views, evaluate=lambda views: views)


def hashes_after_resume(
    experiment: Experiment, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of every array after four steps: restored from a checkpoint after two, and in
    one go.
    """
    session = TrainSession(experiment, NO_AUGMENTATION, sharding.make_mesh(experiment.sharding))

    def trained(state: TrainState, steps: range) -> TrainState:
        for n in steps:
            state, values = session.step(state, views_of(experiment, n))
            assert not values["skipped"]
        return state

    start = session.init()
    half = trained(start, range(2))
    checkpoints = Checkpoints(folder)
    checkpoints.save(2, half, config={})
    checkpoints.wait()
    restored = Checkpoints(folder).newest().restore(session.shapes)
    return leaf_hashes(trained(restored, range(2, 4))), leaf_hashes(trained(half, range(2, 4)))
