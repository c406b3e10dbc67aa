"""Compares what can be pooled from the tokens of each objective: the class token, the mean of the
patch tokens, and both side by side.

    python -m benchmarks.pooling --json /tmp/pooling.json

Each objective trains a small ViT on crops of made patches (see `benchmarks.numerics`). Shown are
the accuracy of a logistic regression of which spectrum is the strongest, on patches that were not
trained on; RankMe of the features (1: all samples lie on a line); and their spread, the mean
distance of unit features from their mean, 0 for a constant.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.numerics import CROP, SIDE, patches
from benchmarks.step import environment
from benchmarks.step_workloads import Workload, complete_config, recipe_of, session_of
from eo_jax.data.store.files import write_atomically
from eo_jax.experiment import make_experiment
from eo_jax.models.functional import EVALUATE
from eo_jax.monitor.rankme import rankme

PATCHES, BATCH, _AT_ONCE = 2048, 32, 256
_DISTORTED = {"flips": "both", "gain": (0.8, 1.25), "brightness": (0.8, 1.2), "jitter_prob": 0.8}
_ONE = {"global": {"size": CROP, "scale": (0.5, 1.0), **_DISTORTED}}
_PAIR = {"global": {"views": 2, "size": CROP, "scale": (0.3, 1.0), **_DISTORTED}}
_MULTI = {**_PAIR, "local": {"views": 2, "size": CROP // 2, "scale": (0.1, 0.4), **_DISTORTED}}
_PROJECTOR = {"projector": (256, 256, 256)}
# {objective: (crops, section of the config)}
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mae": (_ONE, {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}),
    "data2vec": (_ONE, {"average_top_k_layers": 4}),
    "dino": (_MULTI, {"prototypes": 512, "hidden": 256, "bottleneck": 64}),
    "swav": (_MULTI, {}),
    "barlow_twins": (_PAIR, _PROJECTOR),
    "vicreg": (_PAIR, _PROJECTOR),
    "moco_v3": (_PAIR, {}),
    "simclr": (_PAIR, {}),
    "byol": (_PAIR, {}),
    "simsiam": (_PAIR, {}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; results are written after each objective."""
    args = _parser().parse_args(arguments)
    data, found = patches(PATCHES), {}
    for objective in args.only or OBJECTIVES:
        found[objective] = compared(objective, args.steps, *data)
        if args.json:
            result = {**environment(), "steps": args.steps, "objectives": found}
            write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
        Console(width=120).print(_table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pooling", description=__doc__, formatter_class=raw
    )
    parser.add_argument("--steps", type=int, default=200, metavar="N")
    parser.add_argument("--only", nargs="+", choices=list(OBJECTIVES), metavar="OBJECTIVE")
    parser.add_argument("--json", type=Path, metavar="F", help="file of the results")
    return parser


def compared(
    objective: str, steps: int, pixels: np.ndarray, strongest: np.ndarray
) -> dict[str, dict[str, float]]:
    """{"cls", "mean" or "both": {"accuracy", "rankme", "spread"}} after training on the first half
    of the patches.
    """
    crops, section = OBJECTIVES[objective]
    work = Workload("enmap", SIDE, {"name": "spectral_adapter", "patch": 4}, crops, section)
    config = complete_config(objective, work, {"name": "vit", "size": "nano", "depth": 4}, BATCH)
    config.optim.lr, config.optim.schedule, config.run.steps = 1e-3, "cosine", steps
    experiment = make_experiment(config)
    recipe = recipe_of(experiment)
    session = session_of(experiment, recipe)
    state, random, half = session.init(), np.random.default_rng(1), len(pixels) // 2
    for _ in range(steps):
        chosen = random.permutation(half)[:BATCH]
        state, _ = session.step(state, jax.device_put({"eo": {"pixels": pixels[chosen]}}))
    weights = next(iter(experiment.objective.encoders(state["params"], state["carry"]).values()))
    network = experiment.encoders["eo"].network

    @jax.jit
    def tokens_of(part: jax.Array) -> jax.Array:
        views = recipe.evaluate({"eo": {"pixels": part}})
        read = functools.partial(_tokens, views["eo/global"][:, 0], views["eo/global/valid"][:, 0])
        found, _ = network.apply(weights["params"], weights["statistics"], read)
        return jnp.stack([found[:, 0], found[:, 1:].mean(1)], 1).astype(jnp.float32)

    pooled = np.concatenate([tokens_of(part) for part in np.split(pixels, PATCHES // _AT_ONCE)])
    features = {"cls": pooled[:, 0], "mean": pooled[:, 1], "both": pooled.reshape(PATCHES, -1)}
    return {name: _judged(x, strongest, half) for name, x in features.items()}


def _tokens(view: jax.Array, valid: jax.Array, module: Any) -> jax.Array:
    return module.tokens(view, valid, None, EVALUATE)


def _judged(x: np.ndarray, y: np.ndarray, half: int) -> dict[str, float]:
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return {
        "accuracy": float(probe.fit(x[:half], y[:half]).score(x[half:], y[half:])),
        "rankme": float(rankme(x[half:])),
        "spread": float(np.linalg.norm(unit - unit.mean(0), axis=1).mean()),
    }


def _table(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table("objective", *("cls", "mean", "both"), title="accuracy / RankMe / spread")
    for objective, by_pool in found.items():
        cells = [
            f"{100 * scores['accuracy']:.1f} / {scores['rankme']:.1f} / {scores['spread']:.3f}"
            for scores in by_pool.values()
        ]
        table.add_row(objective, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
