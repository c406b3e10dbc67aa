"""Trains three steps of an objective ("mae", "moco/resnet") on eight devices and on one, from the
same weights and views: how far are they apart?

All that is float32 in training is float64 here. In float32 a sum in another order turns the sign of
an activation near 0, and the gradient of a steep network (CLIP's ResNet) then moves by parts in a
thousand: neither could a small mistake be told from that, nor that from a mistake.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)
jnp.float32 = jnp.float64  # before Flax and eo_jax are imported, whose defaults and casts name it

import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402
from tiny_objectives import experiment_of, views_of  # noqa: E402

from eo_jax import experiment as experiment_module  # noqa: E402
from eo_jax import sharding  # noqa: E402
from eo_jax.optim import optimizers  # noqa: E402
from eo_jax.schema import Views  # noqa: E402
from eo_jax.step import init_state, make_train_step  # noqa: E402

experiment_module.compute_dtype = lambda name: jnp.dtype("float64")
STEPS = 3


def losses(case: str, mesh: jax.sharding.Mesh) -> list[float]:
    """The loss of each step under SGD: unlike Adam, it does not blow rounding up where a gradient
    is nearly 0.
    """
    experiment = experiment_of(*case.split("/"))
    objective = experiment.objective
    shapes = jax.eval_shape(objective.init, jax.random.key(0))[0]
    optimizer = optimizers.make_optimizer(
        optimizers.Config(name="sgd", lr=0.05, weight_decay=0.0, schedule="constant"), shapes, STEPS
    )
    rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    step = make_train_step(
        objective, optimizer, lambda views, key: views, seed=0, steps=STEPS, accum=1
    )
    jitted = jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole))
    state, found = jax.device_put(init_state(objective, optimizer, 0), whole), []
    for n in range(STEPS):
        state, metrics = jitted(state, jax.device_put(in_float64(views_of(experiment, n)), rows))
        assert metrics["loss"].dtype == jnp.float64
        found.append(float(metrics["loss"]))
    return found


def in_float64(views: Views) -> Views:
    """The same views; labels and validity stay what they are."""
    return {
        name: view.astype(jnp.float64) if jnp.issubdtype(view.dtype, jnp.floating) else view
        for name, view in views.items()
    }


def main(case: str) -> float:
    """Largest relative difference of the losses."""
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    single, spread = (
        np.array(losses(case, one)),
        np.array(losses(case, sharding.make_mesh(sharding.Config(data=8)))),
    )
    assert np.isfinite(single).all() and np.ptp(single) > 0, single
    return float(
        (np.abs(spread - single) / np.maximum(1, np.abs(single))).max()
    )  # some losses pass through 0
