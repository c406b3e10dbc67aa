"""Compares choices that change rounding with float32: the curve of losses, and a probe.

    python -m benchmarks.numerics --json /tmp/numerics.json

A small MAE (spectral adapter, four blocks, crops of patches of 202 bands made of a few smooth
spectra) trains in float32 with several seeds, and with the first seed and each choice. A curve is
the mean loss of each tenth of the steps. Apart is the mean distance of a choice's curve from the
first seed's after the first tenth, in units of the mean range over the seeds: at most 1 is within
the spread. The probe is a logistic regression of which spectrum is the strongest in a patch, on
the mean token of patches that were not trained on; its accuracy should be within half a point of
the first seed's, or within the range of the seeds where that is larger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.step import environment
from benchmarks.step_workloads import OPTIM, recipe_of, session_of
from eo_jax.augment.views import Recipe
from eo_jax.config import complete
from eo_jax.data.store.files import write_atomically
from eo_jax.evaluators.base import Weights
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.objectives.features import features_of
from eo_jax.schema import Batch
from eo_jax.sensors import get_sensor

# {choice: {field of the config: value}}
CHOICES: dict[str, dict[str, Any]] = {
    "float32, crops by products": {"augment.sampling": "products"},
    "bfloat16, float32 residual stream": {"model.dtype": "bfloat16"},
    "bfloat16, bfloat16 residual stream": {
        "model.dtype": "bfloat16",
        "model.trunk.residual": "compute",
        "objective.decoder_residual": "compute",
    },
}
PATCHES, BATCH, SIDE, CROP = 4096, 16, 24, 16
_TENTHS, _POINT, _AT_ONCE = 10, 0.01, 256


class Outcome(NamedTuple):
    """Of a run: the mean loss of each tenth of its steps, and the probe's accuracy."""

    curve: np.ndarray
    accuracy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns 0, or 3 where a choice is outside the spread."""
    args = _parser().parse_args(arguments)
    data = patches(PATCHES)
    seeds = [run({}, seed, args.steps, data) for seed in range(args.seeds)]
    for seed, outcome in enumerate(seeds):
        print(f"float32, seed {seed}: {_shown(outcome)}", flush=True)
    choices = {}
    for name, fields in CHOICES.items():
        outcome = run(fields, 0, args.steps, data)
        choices[name] = comparison(outcome, seeds)
        apart, points = choices[name]["apart"], 100 * choices[name]["probe_apart"]
        print(f"{name}: {_shown(outcome)}; {apart:.2f} of the spread apart, probe {points:+.2f}")
        sys.stdout.flush()
    if args.json:
        result = {
            **environment(),
            "steps": args.steps,
            "float32": [_plain(outcome) for outcome in seeds],
            "choices": choices,
        }
        write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0 if all(found["within"] for found in choices.values()) else 3


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.numerics", description=__doc__, formatter_class=raw
    )
    parser.add_argument(
        "--steps", type=int, default=200, metavar="N", help="a multiple of 10 (default: 200)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of float32 (default: 3)")
    parser.add_argument("--json", type=Path, metavar="F", help="file of the results")
    return parser


def comparison(outcome: Outcome, seeds: Sequence[Outcome]) -> dict[str, Any]:
    """{"curve", "accuracy", "apart", "probe_apart", "within"} of a choice run with seed 0."""
    curves = np.array([seed.curve for seed in seeds])[:, 1:]
    apart = float(np.abs(outcome.curve[1:] - curves[0]).mean() / np.ptp(curves, axis=0).mean())
    accuracies = [seed.accuracy for seed in seeds]
    probe_apart = outcome.accuracy - accuracies[0]
    allowed = max(0.5 * _POINT, np.ptp(accuracies))
    return {
        **_plain(outcome),
        "apart": apart,
        "probe_apart": probe_apart,
        "within": bool(apart <= 1 and abs(probe_apart) <= allowed),
    }


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "curve": [round(float(loss), 5) for loss in outcome.curve],
        "accuracy": outcome.accuracy,
    }


def _shown(outcome: Outcome) -> str:
    return f"loss {outcome.curve[-1]:.4f}, probe {outcome.accuracy:.2%}"


def config_of(fields: Mapping[str, Any], seed: int, steps: int) -> ml_collections.ConfigDict:
    """The completed config of a run in float32, but for `fields`; its store does not exist."""
    config = ml_collections.ConfigDict()
    config.data = {
        "sources": {"eo": {"store": "none", "sensor": "enmap"}},
        "batch_size": BATCH,
        "crop": SIDE,
    }
    config.augment = {
        "crops": {"global": {"size": CROP, "scale": (0.5, 1.0)}},
        "sampling": "gather",
    }
    config.model = {
        "stems": {"eo": {"name": "spectral_adapter", "patch": 4}},
        "trunk": {"name": "vit", "size": "nano", "depth": 4},
        "dtype": "float32",
    }
    config.objective = {
        "name": "mae",
        "decoder_width": 64,
        "decoder_depth": 2,
        "decoder_heads": 4,
        "norm_pix_loss": False,
    }
    config.optim = {**OPTIM, "lr": 1e-3, "schedule": "cosine"}
    config.run = {"steps": steps, "seed": seed}
    config = complete(config)
    config.update_from_flattened_dict(dict(fields))
    return config


def patches(count: int) -> tuple[np.ndarray, np.ndarray]:
    """([n, 1, 202, side, side] int16 digital numbers: four spectra in smooth amounts, and noise;
    [n] which spectrum is the strongest).
    """
    random, sensor = np.random.default_rng(0), get_sensor("enmap")
    bands = len(sensor.bands)
    spectra = np.cumsum(random.normal(size=(4, bands)), axis=1) / np.sqrt(bands)
    waves = np.exp(2j * np.pi * np.arange(SIDE) / SIDE)
    fine = random.normal(size=(count, 4, 2, 2, 2)) @ np.array([1, 1j])
    amounts = sum(
        (fine[:, :, i, j, None, None] * np.outer(waves**i, waves**j)).real
        for i in range(2)
        for j in range(2)
    )
    mean, std = (np.array(numbers)[:, None, None] for numbers in (sensor.mean, sensor.std))
    pixels = np.empty((count, 1, bands, SIDE, SIDE), np.int16)
    for i, amount in enumerate(amounts):  # one by one, so that the float64 values stay small
        values = np.einsum("sb,shw->bhw", spectra, amount)
        values += 0.1 * random.normal(size=values.shape)
        pixels[i, 0] = np.clip(mean + std * values, 1, 10_000)
    return pixels, amounts.mean((-2, -1)).argmax(1)


def run(
    fields: Mapping[str, Any], seed: int, steps: int, data: tuple[np.ndarray, np.ndarray]
) -> Outcome:
    """Trains on the first half of `data`; the batches are the same for all seeds."""
    pixels, strongest = data
    half = len(pixels) // 2
    experiment = make_experiment(config_of(fields, seed, steps))
    recipe = recipe_of(experiment)
    session = session_of(experiment, recipe)
    state, losses, random = session.init(), [], np.random.default_rng(1)
    for _ in range(steps):
        batch: Batch = {"eo": {"pixels": pixels[random.permutation(half)[:BATCH]]}}
        state, metrics = session.step(state, jax.device_put(batch))
        losses.append(float(metrics["loss"]))
    features = _features(experiment, recipe, (state["params"], state["carry"]), pixels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features[:half], strongest[:half])
    accuracy = float(probe.score(features[half:], strongest[half:]))
    return Outcome(np.array(losses).reshape(_TENTHS, -1).mean(1), accuracy)


def _features(
    experiment: Experiment, recipe: Recipe, weights: Weights, pixels: np.ndarray
) -> np.ndarray:
    """[n, d], the mean of each patch's tokens: MAE trains no class token."""

    @jax.jit
    def mean_token(batch: Batch) -> jax.Array:
        views = recipe.evaluate(batch)
        found = features_of(experiment.objective, *weights, views, "eo", ("eo",))
        return found["dense"].astype(jnp.float32).mean((1, 2))

    parts = np.split(pixels, len(pixels) // _AT_ONCE)
    return np.concatenate([mean_token({"eo": {"pixels": part}}) for part in parts])


if __name__ == "__main__":
    sys.exit(main())
