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

import json  # noqa: E402

import numpy as np  # noqa: E402
from tiny_objectives import config_of, views_of  # noqa: E402

from eo_jax import experiment as experiment_module  # noqa: E402
from eo_jax import sharding  # noqa: E402
from eo_jax.augment.views import Recipe  # noqa: E402
from eo_jax.experiment import Experiment, make_experiment  # noqa: E402
from eo_jax.schema import Views  # noqa: E402
from eo_jax.step import TrainSession  # noqa: E402

experiment_module.compute_dtype = lambda name: jnp.dtype("float64")
STEPS = 3
# Unlike Adam, SGD does not blow rounding up where a gradient is nearly 0.
SGD = {"name": "sgd", "lr": 0.05, "weight_decay": 0.0, "schedule": "constant"}
# Views are made beforehand.
RECIPE = Recipe(lambda views, key: views, lambda views: views)


def losses(experiment: Experiment, mesh: jax.sharding.Mesh) -> list[float]:
    """The loss of each step."""
    session, found = TrainSession(experiment, RECIPE, mesh), []
    state, rows = session.init(), sharding.batch_sharding(mesh)
    for n in range(STEPS):
        views = jax.device_put(in_float64(views_of(experiment, n)), rows)
        state, metrics = session.step(state, views)
        assert metrics["loss"].dtype == jnp.float64
        found.append(float(metrics["loss"]))
    assert jax.tree.map(lambda array: array.sharding, state) == session.placement
    return found


def in_float64(views: Views) -> Views:
    """The same views; labels and validity stay what they are."""
    return {
        name: view.astype(jnp.float64) if jnp.issubdtype(view.dtype, jnp.floating) else view
        for name, view in views.items()
    }


def main(case: str, *settings: str) -> float:
    """Largest relative difference of the losses; `settings` are "path=value" of the config."""
    config = config_of(*case.split("/"))
    config.optim.update(SGD)
    for path, _, value in (setting.partition("=") for setting in settings):
        config.update_from_flattened_dict({path: json.loads(value)})
    experiment = make_experiment(config)
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.AXES)
    single, spread = (
        np.array(losses(experiment, mesh))
        for mesh in (one, sharding.make_mesh(experiment.sharding))
    )
    assert np.isfinite(single).all() and np.ptp(single) > 0, single
    return float(
        (np.abs(spread - single) / np.maximum(1, np.abs(single))).max()
    )  # some losses pass through 0
