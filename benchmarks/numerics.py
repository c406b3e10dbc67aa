"""Compares the losses of choices that change rounding with those of float32.

    python -m benchmarks.numerics --steps 150

A small MAE (spectral adapter, four blocks, patches of 202 bands made of a few smooth spectra)
trains in float32 with several seeds, and in bfloat16 with the first seed and each choice. Shown is
the mean loss of the last fifth of the steps. The spread is the range of float32 over its seeds; a
choice should end within it, of the first seed's loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks.step_workloads import OPTIM, recipe_of, session_of
from eo_jax.config import complete
from eo_jax.experiment import make_experiment
from eo_jax.schema import Batch
from eo_jax.sensors import get_sensor

# {choice: (section, field, value) of a config in bfloat16}
CHOICES: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "float32 residual stream": (),
    "bfloat16 residual stream": (
        ("trunk", "residual", "compute"),
        ("objective", "decoder_residual", "compute"),
    ),
}
PATCHES, BATCH, SIDE = 64, 16, 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 0, or 3 where a choice ends outside the spread."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.numerics", description=__doc__, formatter_class=raw
    )
    parser.add_argument("--steps", type=int, default=150, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of float32 (default: 3)")
    args = parser.parse_args(arguments)
    pixels = patches()
    seeds = []
    for seed in range(args.seeds):
        seeds.append(final_loss(config_of("float32", seed, args.steps), pixels))
        print(f"float32, seed {seed}: {seeds[-1]:.4f}", flush=True)
    spread = max(seeds) - min(seeds)
    print(f"spread {spread:.4f}", flush=True)
    apart = {}
    for name, fields in CHOICES.items():
        loss = final_loss(config_of("bfloat16", 0, args.steps, fields), pixels)
        apart[name] = abs(loss - seeds[0])
        print(f"bfloat16, {name}: {loss:.4f}, {apart[name]:.4f} from float32", flush=True)
    return 0 if max(apart.values()) <= spread else 3


def config_of(
    dtype: str, seed: int, steps: int, fields: Sequence[tuple[str, str, Any]] = ()
) -> ml_collections.ConfigDict:
    """The completed config of a run; its store does not exist."""
    config = ml_collections.ConfigDict()
    config.data = {
        "sources": {"eo": {"store": "none", "sensor": "enmap"}},
        "batch_size": BATCH,
        "crop": SIDE,
    }
    config.augment = {"crops": {"global": {"size": SIDE}}}
    config.model = {
        "stems": {"eo": {"name": "spectral_adapter", "patch": 4}},
        "trunk": {"name": "vit", "size": "nano", "depth": 4},
        "dtype": dtype,
    }
    config.objective = {
        "name": "mae",
        "decoder_width": 64,
        "decoder_depth": 2,
        "decoder_heads": 4,
        "norm_pix_loss": False,
    }
    config.optim = {**OPTIM, "lr": 1e-3}
    config.run = {"steps": steps, "seed": seed}
    config = complete(config)
    for section, field, value in fields:
        (config.model.trunk if section == "trunk" else config[section])[field] = value
    return config


def patches() -> np.ndarray:
    """[n, 1, 202, side, side] int16 digital numbers: four spectra in smooth amounts, and noise."""
    random, sensor = np.random.default_rng(0), get_sensor("enmap")
    bands = len(sensor.bands)
    spectra = np.cumsum(random.normal(size=(4, bands)), axis=1) / np.sqrt(bands)
    waves = np.exp(2j * np.pi * np.arange(SIDE) / SIDE)
    fine = random.normal(size=(PATCHES, 4, 2, 2, 2)) @ np.array([1, 1j])
    amounts = sum(
        (fine[:, :, i, j, None, None] * np.outer(waves**i, waves**j)).real
        for i in range(2)
        for j in range(2)
    )
    values = np.einsum("sb,nshw->nbhw", spectra, amounts)
    values += 0.1 * random.normal(size=values.shape)
    mean, std = (np.array(numbers)[:, None, None] for numbers in (sensor.mean, sensor.std))
    return np.clip(mean + std * values, 1, 10_000).astype(np.int16)[:, None]


def final_loss(config: Mapping[str, Any], pixels: np.ndarray) -> float:
    """Mean loss of the last fifth of a run's steps."""
    experiment = make_experiment(config)
    session = session_of(experiment, recipe_of(experiment))
    state, losses, random = session.init(), [], np.random.default_rng(1)
    for _ in range(experiment.run.steps):
        batch: Batch = {"eo": {"pixels": pixels[random.permutation(PATCHES)[:BATCH]]}}
        state, metrics = session.step(state, jax.device_put(batch))
        losses.append(float(metrics["loss"]))
    return float(np.mean(losses[-max(1, len(losses) // 5) :]))


if __name__ == "__main__":
    sys.exit(main())
