"""Every weight of every listed config as text: path, dtype, shape, partition, share of the weight
decay, share of the learning rate.

python -m tests.golden_text        # rewrites tests/golden after a change that is meant
"""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from eo_jax import rules, sharding
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.optim import optimizers

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "golden"
# Partitions are those of any mesh; this one also proves that every rule divides its weights.
MESH = AbstractMesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
# One config of every kind of trunk; between them they have a mixture, a teacher, a queue, two
# encoders, and labels.
FAMILIES = (
    "mae_sensors",
    "dino_spectral_earth",
    "moco_ssl4eo_s12",
    "decur_sunrgbd",
    "semi_supervised_pixels",
)


@functools.cache
def load(name: str) -> dict[str, Any]:
    """The globals of configs/<name>.py: VARIANTS, get_config, __doc__. Run once: not to be
    written to.
    """
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))


def names() -> list[str]:
    """Names of all config files."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def variants(name: str) -> tuple[str, ...]:
    """The variants that a config file lists."""
    return load(name)["VARIANTS"]


def listed() -> list[tuple[str, str]]:
    """(config, variant) of everything that is listed."""
    return [(name, variant) for name in names() for variant in variants(name)]


@functools.cache
def experiment_of(name: str, variant: str) -> Experiment:
    """The experiment of a listed variant, built once per process."""
    return make_experiment(load(name)["get_config"](variant))


def file_of(name: str, variant: str) -> Path:
    """Where the golden text of a variant is kept."""
    return FOLDER / (f"{name}__{variant}.txt" if variant else f"{name}.txt")


def text(experiment: Experiment) -> str:
    """One line per weight; shapes only, nothing is computed."""
    params, _ = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    placed = sharding.state_sharding(experiment.sharding, params, MESH)
    decay, lr = (
        optimizers.decay_factors(experiment.optim, params),
        optimizers.lr_scales(experiment.optim, params),
    )
    leaves = [*rules.paths(params)], *map(jax.tree.leaves, (placed, decay, lr))
    return "".join(
        _line(path, leaf, *values) for (path, leaf), *values in zip(*leaves, strict=True)
    )


def _line(
    path: str,
    leaf: jax.ShapeDtypeStruct,
    placed: jax.sharding.NamedSharding,
    decay: float,
    lr: float | np.ndarray,
) -> str:
    axes = ",".join(str(axis or "-") for axis in placed.spec)
    return (
        f"{path}  {leaf.dtype.name}{list(leaf.shape)}  [{axes}]  decay {decay:g}  lr "
        f"{_in_words(lr)}\n"
    )


def _in_words(lr: float | np.ndarray) -> str:
    """One share, or that of each layer."""
    return " ".join(f"{share:.4g}" for share in np.ravel(lr))


def write_all() -> None:
    """Writes every golden file and removes those that no config stands behind."""
    FOLDER.mkdir(exist_ok=True)
    texts = {
        file_of(name, variant): text(experiment_of(name, variant)) for name, variant in listed()
    }
    for stale in set(FOLDER.glob("*.txt")) - set(texts):
        stale.unlink()
    for path, content in texts.items():
        path.write_text(content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    write_all()
