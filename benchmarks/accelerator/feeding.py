"""From a store on the disk to the step on the device."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator.cases import config_of
from benchmarks.accelerator.patches import write_store
from benchmarks.accelerator.scale import Scale
from benchmarks.step_workloads import Step, recipe_of
from eo_jax import sharding
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment
from eo_jax.schema import Batch, Metrics


def fed_step(scale: Scale, case: str, format: str) -> Iterator[dict[str, Any]]:
    """Batches per second of the loader alone, the step alone and both, as in training; "data_wait"
    is the fraction of the time in which the device waits for data.
    """
    seconds = scale.pick(4.0, 0.2)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(case, scale, {}, {})
        store = Path(folder) / "store"
        ratio = write_store(store, format, scale.pick(32, 8), config.data.crop)
        config.data.sources.eo.store = str(store)
        config.data.threads = max(2, len(os.sched_getaffinity(0)) // 2)  # others run the step
        yield {"ratio": ratio, "threads": config.data.threads}
        experiment = make_experiment(config)
        mesh = sharding.make_mesh(experiment.sharding)
        endless = Pipeline(experiment.data, experiment.run.seed).batches(0, 2**31)
        batches = sharding.prefetch(endless, mesh, experiment.sharding.prefetch)
        loader = _batches_per_s(batches, _same, seconds)
        yield {"loader_batches_per_s": loader}
        step = Step.of(experiment, recipe_of(experiment), next(batches))
        alone = 1 / scale.step_s(step.run)["step_s"]

        def train(batch: Batch) -> Metrics:
            step.state, metrics = step.compiled(step.state, batch)
            return metrics

        together = _batches_per_s(batches, train, seconds)
        yield {
            "step_batches_per_s": alone,
            "together_batches_per_s": together,
            "samples_per_s": together * experiment.data.batch_size,
            "data_wait": max(0.0, 1 - together / alone),
        }
        batches.close()


def _same(batch: Batch) -> Batch:
    return batch


def _batches_per_s(
    batches: Iterator[Batch], consume: Callable[[Batch], Any], seconds: float
) -> float:
    """The rate of `consume`, whose result of a batch is awaited when the next one is under way."""
    for batch in itertools.islice(batches, 3):
        jax.block_until_ready(consume(batch))
    start, count, running = time.perf_counter(), 0, None
    while count < 4 or time.perf_counter() - start < seconds:
        following = consume(next(batches))
        jax.block_until_ready(running)
        count, running = count + 1, following
    jax.block_until_ready(running)
    return count / (time.perf_counter() - start)
