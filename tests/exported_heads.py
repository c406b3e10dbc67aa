"""Encoders with the heads of their objectives as `eo_jax.export --with-head` writes them, without a
run; every weight is random.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
from exported import fingerprint
from reference import random_weights
from tiny_objectives import SIZE, config_of

from eo_jax import export
from eo_jax.exchange.contract import to_header
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.writing import write_safetensors
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.run_encoder import RunEncoder

BANDS, PATCH, TINY = 12, 4, (192, 1, 3)
SECTIONS = {"mae": {"norm_pix_loss": False}, "dino": {}, "moco_v3": {}, "simclr": {}}


@functools.cache
def made(objective: str, **trunk) -> tuple[dict, Experiment, dict, dict]:
    """(config, experiment, params, carry) of an objective, every weight at random."""
    config = config_of(objective)
    config.objective.update(SECTIONS[objective])
    config.model.trunk.update(trunk)
    experiment = make_experiment(config.to_dict())
    shapes = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    return config.to_dict(), experiment, *(random_weights(tree, 3) for tree in shapes)


def run_of(objective: str, workdir: Path, name: str = "s2", **trunk) -> RunEncoder:
    """An encoder as if read from a run."""
    config, experiment, params, carry = made(objective, **trunk)
    encoder = experiment.encoders["s2"]
    sensor = dataclasses.replace(encoder.sensor, mean=(1000.0,) * BANDS, std=(500.0,) * BANDS)
    (workdir / "data.json").write_text(json.dumps({"s2": fingerprint(sensor)}))
    weights = experiment.objective.encoders(params, carry)[name]
    heads = experiment.objective.heads(params, carry)[name]
    return RunEncoder(
        workdir,
        name,
        "s2",
        encoder,
        weights["params"],
        weights["statistics"],
        heads,
        SIZE,
        config,
        7,
    )


def write(path: Path, exported: export.Exported, prefix: str = "") -> Path:
    """A file of what was exported, with a prefix before every key."""
    tensors = {f"{prefix}{key}": tensor for key, tensor in exported.tensors.items()}
    write_safetensors(path, tensors, to_header(sealed(exported.contract, tensors)))
    return path
