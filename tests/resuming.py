"""An objective trained in one go, and the same with a checkpoint in between: what has to be equal
to the bit.
"""

from __future__ import annotations

from pathlib import Path

import jax
from tiny_objectives import views_of

from eo_jax.checkpoint import Checkpoints, leaf_hashes
from eo_jax.experiment import Experiment
from eo_jax.optim import optimizers
from eo_jax.step import TrainState, init_state, make_train_step


def hashes_after_resume(
    experiment: Experiment, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of every array after four steps: restored from a checkpoint after two, and in
    one go.
    """
    objective = experiment.objective
    optimizer = optimizers.make_optimizer(
        experiment.optim, jax.eval_shape(objective.init, jax.random.key(0))[0], 10
    )
    step = jax.jit(
        make_train_step(objective, optimizer, lambda views, key: views, seed=0, steps=10, accum=1)
    )

    def trained(state: TrainState, steps: range) -> TrainState:
        for n in steps:
            state, values = step(state, views_of(experiment, n))
            assert not values["skipped"]
        return state

    # Placed, as restored arrays are: without that, the step would be compiled once for each.
    start = jax.device_put(jax.jit(lambda: init_state(objective, optimizer, 0))(), jax.devices()[0])
    half = trained(start, range(2))
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(2, half, next_batch=2, config={})
    checkpoints.wait()
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), half
    )
    restored, _ = Checkpoints(folder).restore(like)
    return leaf_hashes(trained(restored, range(2, 4))), leaf_hashes(trained(half, range(2, 4)))
