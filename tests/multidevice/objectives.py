"""Trains three steps of objectives ("mae", "moco/resnet") on eight devices and on one, from the same weights and views: how far are they apart?"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tiny_objectives import SIZE, experiment_of, views_of

from eo_jax import optim, sharding
from eo_jax.step import init_state, make_train_step

STEPS = 3
# {case: pixels of a view}, where those of `tiny_objectives` will not do. At 16 px the last BatchNorm of a ResNet sees single pixels, of four rows in
# a group: so steep that a change of the input by one part in 10^7 moves the gradient by 3 in 10^4 on one device, as much as eight devices do.
SIZES = {"moco/resnet": 64}


def losses(case: str, mesh: jax.sharding.Mesh) -> list[float]:
    """The loss of each step under SGD: unlike Adam, it does not blow rounding up where a gradient is nearly 0."""
    experiment = experiment_of(*case.split("/"), size=SIZES.get(case, SIZE))
    objective = experiment.objective
    shapes = jax.eval_shape(objective.init, jax.random.key(0))[0]
    optimizer = optim.make_optimizer(optim.Config(name="sgd", lr=0.05, weight_decay=0.0, schedule="constant"), shapes, STEPS)
    rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    step = make_train_step(objective, optimizer, lambda views, key: views, seed=0, steps=STEPS, accum=1)
    jitted = jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole))
    state, found = jax.device_put(init_state(objective, optimizer, 0), whole), []
    for n in range(STEPS):
        state, metrics = jitted(state, jax.device_put(views_of(experiment, n), rows))
        found.append(float(metrics["loss"]))
    return found


def apart(case: str) -> float:
    """Largest relative difference of the losses."""
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    single, spread = np.array(losses(case, one)), np.array(losses(case, sharding.make_mesh(sharding.Config(data=8))))
    assert np.isfinite(single).all() and np.ptp(single) > 0, single
    return float((np.abs(spread - single) / np.maximum(1, np.abs(single))).max())  # some losses pass through 0


if __name__ == "__main__":
    print(json.dumps({case: apart(case) for case in sys.argv[1:]}))
