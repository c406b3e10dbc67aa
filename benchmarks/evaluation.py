"""Costs of evaluation: neighbours and their memory, the sweep of linear models, and its share of
training runs.

    python -m benchmarks.evaluation --runs runs/potsdam runs/salinas_a --json /tmp/evaluation.json

neighbours: the exact neighbours of every query, width 384, in a process of its own, whose peak of
    memory is that of Linux, features included; and CPU time per query beside scikit-learn's brute
    force on some of the queries, in turns, with the same number of threads.
linear: `torchgeo_bench:linear`, 40 values of C chosen on validation and a last fit, beside the same
    with scikit-learn's LogisticRegression from zero for each C; accuracies on test features.
runs: the fraction of the wall time that finished runs spent in `evaluate`, by their metrics.jsonl.

Ratios of times are of CPU times of one process, so that other programs change them little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from benchmarks.step import environment
from eo_jax.data.store.files import write_atomically
from eo_jax.evaluation.classifiers import Linear
from eo_jax.evaluation.neighbours import nearest
from eo_jax.evaluation.protocol import Labelled, find_protocol
from eo_jax.monitor.writers import read_metrics

_WIDTH, _K, _TURNS = 384, 20, 3
_CLASSES, _SAMPLES = 10, 1500  # of the linear models, per split


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; results are written after each part."""
    args = _parser().parse_args(arguments)
    found = {**environment(), "threads": args.threads}
    parts: dict[str, Callable[[], Any]] = {
        "neighbours": lambda: neighbours(args.rows, args.part, args.threads),
        "linear": lambda: linear(args.threads),
    }
    if args.runs:
        parts["runs"] = lambda: {str(path): share(path) for path in args.runs}
    for name, measure in parts.items():
        found[name] = measure()
        print(name, json.dumps(found[name], indent=1), flush=True)
        if args.json:
            write_atomically(args.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evaluation", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("--rows", type=int, default=100_000, metavar="N", help="features, and queries")
    add("--part", type=int, default=2000, metavar="N", help="queries beside scikit-learn")
    add("--threads", type=int, default=2, metavar="N")
    add("--runs", nargs="+", type=Path, default=[], metavar="WORKDIR", help="finished runs")
    add("--json", type=Path, metavar="F", help="file of the results")
    return parser


# ------------------------------------------------------------------ neighbours


def neighbours(rows: int, part: int, threads: int) -> dict[str, Any]:
    """See the module."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        whole = pool.apply(_all_of, (rows, threads))
    x, queries = _features(rows, 0), _features(part, 1)
    model = NearestNeighbors(n_neighbors=_K, algorithm="brute").fit(x)
    ours, theirs = [], []
    with threadpool_limits(threads):
        for _ in range(_TURNS):
            seconds, mine = _timed(lambda: nearest(x, queries, _K))
            ours.append(seconds)
            seconds, its = _timed(lambda: model.kneighbors(queries))
            theirs.append(seconds)
    return {
        **whole,
        "part": part,
        "same_neighbours": float((mine[1] == its[1]).mean()),
        "cpu_time_over_scikit_learn": min(ours) / min(theirs),
    }


def _all_of(rows: int, threads: int) -> dict[str, Any]:
    """Every query, in a fresh process."""
    start = time.monotonic()
    with threadpool_limits(threads):
        nearest(_features(rows, 0), _features(rows, 1), _K)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "features": rows,
        "queries": rows,
        "width": _WIDTH,
        "k": _K,
        "wall_s": round(time.monotonic() - start, 1),
        "peak_gb": round(peak / 1e6, 2),
    }


def _features(rows: int, seed: int) -> np.ndarray:
    """float32 [rows, 384] around 100 centres, as features of classes are."""
    centres = np.random.default_rng(0).normal(size=(100, _WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, _WIDTH), np.float32)
    found += centres[rng.integers(0, 100, rows)]
    return found


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


# ------------------------------------------------------------------ linear models


def linear(threads: int) -> dict[str, Any]:
    """See the module."""
    protocol = find_protocol("torchgeo_bench:linear")
    train, val, test = (_labelled(seed) for seed in range(3))
    with threadpool_limits(threads):
        seconds, predict = _timed(
            lambda: protocol.fit("classification", train, val, _CLASSES, seed=0)
        )
        other_seconds, other = _timed(lambda: _swept(protocol, train, val))
    return {
        "samples": _SAMPLES,
        "width": _WIDTH,
        "values_of_c": len(protocol.grid),
        "accuracy": float((predict(test.x).argmax(1) == test.y).mean()),
        "accuracy_of_scikit_learn": float((other.predict(test.x) == test.y).mean()),
        "cpu_time_over_scikit_learn": seconds / other_seconds,
    }


def _labelled(seed: int) -> Labelled:
    """Classes that overlap, with features of very different sizes, as encoders have them."""
    centres = np.random.default_rng(0).normal(size=(_CLASSES, _WIDTH))
    sizes = np.logspace(0, -2, _WIDTH)
    rng = np.random.default_rng(seed + 1)
    y = rng.integers(0, _CLASSES, _SAMPLES)
    x = (0.15 * centres[y] + rng.normal(size=(_SAMPLES, _WIDTH))) * sizes
    return Labelled(x.astype(np.float32), y)


def _swept(protocol: Linear, train: Labelled, val: Labelled) -> LogisticRegression:
    """The protocol written with scikit-learn alone, each C from zero, to the same tolerance."""

    def fitted(c: float, iterations: int, known: Labelled) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=iterations, tol=1e-5).fit(known.x, known.y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [fitted(c, protocol.iterations, train).score(val.x, val.y) for c in protocol.grid]
        best = protocol.grid[int(np.argmax(scores))]
        return fitted(best, 2 * protocol.iterations, train.with_rows_of(val))


# ------------------------------------------------------------------ runs


def share(workdir: Path) -> dict[str, float]:
    """The fraction of a run's wall time, from its first line on, in `evaluate`."""
    lines = [line for line in read_metrics(workdir) if "time/wall_s" in line]
    wall = sum(line["time/wall_s"] for line in lines)
    spent = sum(line["time/wall_s"] * line.get("time/evaluate", 0.0) for line in lines)
    return {"wall_s": round(wall, 1), "evaluate_s": round(spent, 2), "fraction": spent / wall}


if __name__ == "__main__":
    sys.exit(main())
