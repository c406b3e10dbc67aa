"""Every objective at its smallest, by way of its config: experiments, and views of random numbers
that fit them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from eo_jax.config import complete
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.objectives.base import EncoderWeights, Objective

CLASSES, SIZE, LOCAL = 3, 16, 8
HEAD = {"projector": (24, 16)}
# {objective: (its section, views of each crop set)}; sizes are no powers of two by habit, so that a
# mixed-up axis shows.
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "mae": (
        {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5},
        {"global": 1},
    ),
    "data2vec": ({"average_top_k_layers": 1, "mask_ratio": 0.5}, {"global": 1}),
    "dino": (
        {
            "prototypes": 20,
            "hidden": 24,
            "bottleneck": 12,
            "koleo_weight": 0.05,
            "teacher_temperature_warmup": 0.5,
        },
        {"global": 2, "local": 3},
    ),
    "swav": (
        {"prototypes": 10, "queue_size": 16, "sinkhorn_iterations": 1, **HEAD},
        {"global": 2, "local": 3},
    ),
    "barlow_twins": (HEAD, {"global": 2}),
    "vicreg": (HEAD, {"global": 2}),
    "moco": ({"queue_size": 32, "bn_group": 4, "projector_norm": "batch", **HEAD}, {"global": 2}),
    "moco_v3": ({**HEAD, "predictor": (24, 16)}, {"global": 2}),
    "simclr": (HEAD, {"global": 2}),
    "byol": ({**HEAD, "predictor": (24, 16)}, {"global": 2}),
    "simsiam": ({**HEAD, "predictor": (12,)}, {"global": 2}),
    "decur": ({"common": 10, **HEAD}, {"global": 2}),
    "clip": (HEAD, {"global": 1}),
    "semi_supervised": ({"classes": CLASSES, **HEAD}, {"global": 2}),
    "supervised": ({"task": "classification", "outputs": CLASSES}, {"global": 1}),
}
TOKENS_ONLY = ("mae", "data2vec")
# One block each, and nothing recomputed, so that a train step compiles within five seconds; every
# test run prints its slowest (`compile_times`).
BACKBONES = {
    "vit": (
        {"name": "patch_embed", "patch": 4},
        {"name": "vit", "size": "tiny", "depth": 1, "remat": "none"},
    ),
    "resnet": ({"name": "conv"}, {"name": "resnet", "depth": 18, "blocks": (1,)}),
}
# (second source, its sensor and whose locations it shows, its stem or whose it shares)
SECOND = {
    "decur": ("s1", "sentinel1_grd", None),
    "clip": ("s1", "sentinel1_grd", None),
    "semi_supervised": ("support", "sentinel2_l2a", "s2"),
}
LABELLED = {"semi_supervised": "support", "supervised": "s2"}


def config_of(name: str, backbone: str = "vit", rows: int = 8) -> ml_collections.ConfigDict:
    """The completed config of an objective; its stores are not there."""
    section, crops = OBJECTIVES[name]
    stem, trunk = BACKBONES[backbone]
    config = ml_collections.ConfigDict()
    sources, stems = {"s2": {"store": "stores/s2", "sensor": "sentinel2_l2a"}}, {"s2": stem}
    if name in SECOND:
        source, sensor, shared = SECOND[name]
        sources[source] = {
            "store": f"stores/{source}",
            "sensor": sensor,
            "paired_with": "" if shared else "s2",
        }
        stems[source] = shared or stem
    if name in LABELLED:
        sources[LABELLED[name]]["label"] = "class"
    config.data = {"sources": sources, "batch_size": rows, "crop": SIZE}
    config.augment = {
        "crops": {
            crop: {"views": views, "size": SIZE if crop == "global" else LOCAL}
            for crop, views in crops.items()
        }
    }
    config.model = {"stems": stems, "trunk": trunk, "dtype": "float32"}
    config.objective = {"name": name, **section}
    config.run = {"steps": 10}
    return complete(config)


def experiment_of(name: str, backbone: str = "vit", rows: int = 8) -> Experiment:
    """The same one each time, so that `compiled` compiles it once."""
    return _experiment(name, backbone, rows)


@functools.cache
def _experiment(name: str, backbone: str, rows: int) -> Experiment:
    return make_experiment(config_of(name, backbone, rows))


def backbones_of(name: str) -> list[str]:
    return ["vit"] if name in TOKENS_ONLY else list(BACKBONES)


def views_of(experiment: Experiment, seed: int = 0) -> dict[str, jax.Array]:
    """Views of smooth random images: float32 [b, v, H, W, c], a tenth of the values not valid,
    labels where the objective reads them.
    """
    random = np.random.default_rng(seed)
    rows, views = experiment.data.batch_size, {}
    for name, (number, size) in experiment.views.items():
        source = name.partition("/")[0]
        bands = len(experiment.encoders[source].sensor.bands)
        level = random.normal(size=(rows, 1, 1, 1, bands))  # views of a row are alike, rows differ
        view = (level + 0.5 * random.normal(size=(rows, number, size, size, bands))).astype(
            np.float32
        )
        valid = random.random((rows, number, size, size, bands)) > 0.1
        views |= {name: np.where(valid, view, 0), f"{name}/valid": valid}
        if source in experiment.objective.labelled:
            views[f"{name}/label"] = np.repeat(
                random.integers(0, CLASSES + 1, (rows, 1)), number, axis=1
            )
    return jax.tree.map(jnp.asarray, views)


def loss_of(experiment: Experiment, views: dict, seed: int = 0) -> tuple:
    """((loss, (carry, metrics)), gradients) at step 0."""
    init, value_and_gradients = compiled(experiment.objective)
    params, carry = init(jax.random.key(seed))
    return (
        params,
        carry,
        value_and_gradients(params, carry, views, jax.random.key(1), jnp.asarray(0.1)),
    )


def features_of(
    objective: Objective, weights: EncoderWeights, view: jax.Array, valid: jax.Array
) -> dict[str, jax.Array]:
    """The objective's features of one view, jitted."""
    arrays = {name: value for name, value in weights.items() if name != "source"}
    return _features(objective, weights["source"], arrays, view, valid)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(objective, source, arrays, view, valid):
    return objective.features({**arrays, "source": source}, view, valid)


@functools.cache
def compiled(objective: Objective) -> tuple[Callable, Callable]:
    """(its `init`, its loss with gradients), jitted."""
    return jax.jit(objective.init), jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
