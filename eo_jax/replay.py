"""Repeats one step of a run, and shows its batch, its views, its loss and its gradient.

    python -m eo_jax.replay --workdir=runs/demo --step=123 --output=replay

Steps are counted from 1, as in log lines. The run goes on from the last checkpoint before the step,
or from step 0, in memory: the workdir stays as it is. On the same kind and number of devices the
numbers are those of the run, bit for bit (on GPUs see docs/conventions.md); on others, the sums are
added up in another order.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from eo_jax import cli, compile_cache, rules, sharding
from eo_jax.checkpoint import Checkpoints, Saved
from eo_jax.data.differences import with_pixels
from eo_jax.data.store.files import write_atomically, writing
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.gradient import make_gradient, make_views_of_step
from eo_jax.monitor import writers
from eo_jax.report import pictures
from eo_jax.run import check_same_data, data_fingerprints
from eo_jax.schema import Batch, TrainState, Views
from eo_jax.training_setup import TrainingSetup, initial_state, make_setup

_LISTED = 8  # gradients, and rows in pictures


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step that was repeated.

    Attributes:
        setup: of the run at that step, on the devices of this machine.
        started: the step of the checkpoint that the repetition started from.
        step: the step, counted from 1.
        batch: its global batch, on the host.
        samples: {source: int64 [b, t], the samples that it shows}.
        replaced: {source: bool [b], the rows that show another location than the one that was
            drawn, a record of which is bad}.
        views: its first rows, as the network saw them; with accumulation those of the first
            microbatch.
        view_facts: {"<source>/<crop set>": (valid fraction, min, mean and max of valid values)}.
        values: the metrics of the step.
        gradient_norms: {path of a weight: norm of its gradient}.
    """

    setup: TrainingSetup
    started: int
    step: int
    batch: Batch
    samples: Mapping[str, np.ndarray]
    replaced: Mapping[str, np.ndarray]
    views: Views
    view_facts: Mapping[str, tuple[float, float, float, float]]
    values: Mapping[str, float]
    gradient_norms: Mapping[str, float]


def replay(workdir: Path, step: int) -> Replayed:
    """Repeats a step of the run in `workdir`. Raises ValueError where there is no such step, or
    nothing left to repeat it from.
    """
    checkpoints = Checkpoints(workdir)
    config, origin = _config_of(workdir, checkpoints, step)
    start = _start_of(workdir, checkpoints, step, origin)
    setup = _setup(workdir, config)
    mesh, started = setup.mesh, start.step if start else 0
    state = start.restore(setup.session.shapes) if start else initial_state(setup)
    compiled = setup.session.compile(setup.empty_batches())
    batches = setup.pipeline.batches(started, step - 1)
    batches = sharding.prefetch(batches, mesh, setup.experiment.sharding.prefetch)
    for n in track(
        range(started, step - 1), f"from step {started}", disable=not sys.stdout.isatty()
    ):
        state, _ = compiled[setup.pipeline.mixture.component(n)].step(state, next(batches))
    batch = setup.pipeline.batch(step - 1)
    setup.pipeline.bad.commit(step - 1, print)
    drawn, shown = setup.pipeline.samples(step - 1), setup.pipeline.shown(step - 1)
    placed = sharding.to_global(batch, mesh)
    views, facts, norms = _looked_at(setup, state, placed)
    component = compiled[setup.pipeline.mixture.component(step - 1)]
    values = jax.device_get(component.step(state, placed)[1])
    held = jax.tree.map(np.array, batch)
    return Replayed(
        setup=setup,
        started=started,
        step=step,
        batch={source: with_pixels(fields) for source, fields in held.items()},
        samples=shown,
        replaced={name: (shown[name] != drawn[name]).any(axis=1) for name in shown},
        views=views,
        view_facts=facts,
        values={name: float(value) for name, value in values.items()},
        gradient_norms=norms,
    )


def _config_of(workdir: Path, checkpoints: Checkpoints, step: int) -> tuple[dict, int]:
    """(config that a step was trained with, `Manifest.origin` of that config).

    A run that was extended has had several. That of a step is in the first checkpoint at or after
    it, or in config.json.
    """
    for name in ("config.json", "data.json"):
        if not (workdir / name).is_file():
            raise ValueError(
                f"{workdir / name}: missing, so there is no run there; give the --workdir of "
                "`python -m eo_jax.train`"
            )
    config = json.loads((workdir / "config.json").read_text())
    steps = config["run"]["steps"]
    if not 1 <= step <= steps:
        raise ValueError(f"--step={step}; expected 1 to {steps}, the steps of {workdir}")
    saved = checkpoints.steps()
    after = [number for number in saved if number >= step]
    if after:
        about = checkpoints.at(after[0]).manifest
        return about.config, about.origin
    if not saved:
        return config, 0
    about = checkpoints.newest().manifest
    return config, about.origin if about.config["run"]["steps"] == steps else about.step


def _start_of(workdir: Path, checkpoints: Checkpoints, step: int, origin: int) -> Saved | None:
    """The last checkpoint before a step, None where it is step 0 of the run. Raises ValueError
    where that is of another config than the step.
    """
    saved = checkpoints.steps()
    start = max((number for number in saved if number < step), default=None)
    if (start or 0) < origin:
        first = min(number for number in saved if number >= origin) + 1
        raise ValueError(
            f"--step={step}: {workdir} goes on from step {origin} with another number of steps "
            "(--extend-to) or with mean weights, and no checkpoint is left that leads to this "
            f"step; expected a step from {first}"
        )
    return None if start is None else checkpoints.at(start)


def _setup(workdir: Path, config: dict) -> TrainingSetup:
    experiment = make_experiment(config)
    setup = make_setup(experiment, _mesh_config(experiment), lambda value: [value])
    check_same_data(workdir, data_fingerprints(setup.pipeline, setup.normalisation))
    return setup


def _mesh_config(experiment: Experiment) -> sharding.Config:
    """The mesh of the run where it fits the devices of this machine, or all of these."""
    config = experiment.sharding
    try:
        sharding.make_mesh(config)
    except ValueError:
        config = dataclasses.replace(config, data=-1, fsdp=1, model=1)
    try:
        mesh = sharding.make_mesh(config)
        sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)
    except ValueError as error:
        raise ValueError(
            f"the run cannot be repeated on {jax.device_count()} devices: its batch of "
            f"{experiment.data.batch_size} in {experiment.optim.accum} microbatches does not "
            "divide over them; show JAX another number, with CUDA_VISIBLE_DEVICES=0,1 for two "
            "GPUs, or JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 for two of the CPU"
        ) from error
    return config


def _looked_at(setup: TrainingSetup, state: TrainState, batch: Batch) -> tuple[Views, dict, dict]:
    """(first rows of the views, facts about all of them, norms of the gradient)."""
    experiment, make_views = setup.experiment, setup.recipe.train
    settings = {"seed": experiment.run.seed, "accum": experiment.optim.accum}
    views_of = make_views_of_step(make_views, **settings)
    gradient_of = make_gradient(
        experiment.objective, make_views, steps=experiment.run.steps, **settings
    )

    @jax.jit
    def look(state: TrainState, batch: Batch):
        views = views_of(state, batch)
        facts = {
            name: _facts(views[name], views[f"{name}/valid"])
            for name in views
            if name.count("/") == 1
        }
        norms = jax.tree.map(jnp.linalg.norm, gradient_of(state, batch)[3])
        return jax.tree.map(lambda view: view[:_LISTED], views), facts, norms

    views, facts, norms = jax.device_get(look(state, batch))
    facts = {name: tuple(map(float, values)) for name, values in facts.items()}
    return views, facts, {path: float(norm) for path, norm in rules.paths(norms)}


def _facts(view: jax.Array, valid: jax.Array) -> tuple[jax.Array, ...]:
    """Fraction of valid values, and their min, mean and max."""
    valid = jnp.broadcast_to(valid, view.shape)
    mean = jnp.mean(jnp.where(valid, view, 0)) / jnp.mean(valid)
    low, high = (jnp.where(valid, view, end) for end in (jnp.inf, -jnp.inf))
    return jnp.mean(valid, dtype=jnp.float32), low.min(), mean, high.max()


# ------------------------------------------------------------------------------------ what is shown


def lines_of(replayed: Replayed, logged: Mapping[str, Any] | None) -> Iterator[str]:
    """What is known about a step, a line each; `logged` are its values in metrics.jsonl."""
    step, values = replayed.step, replayed.values
    yield f"step {step}, repeated from step {replayed.started}"
    yield replayed.setup.pipeline.describe(step - 1)
    for source, fields in replayed.batch.items():
        yield _pixels_line(replayed.setup, source, fields["pixels"])
        if rows := np.flatnonzero(replayed.replaced[source]).tolist():
            yield f"rows of {source} in place of others, a record of which is bad: {rows}"
    for name, (valid, low, mean, high) in replayed.view_facts.items():
        shape = list(replayed.views[name].shape[1:])
        yield (
            f"views {name} {shape}: {valid:.1%} valid, from {low:.4g} to {high:.4g}, "
            f"mean {mean:.4g}"
        )
    yield "values: " + ", ".join(f"{name} {value:.6g}" for name, value in values.items())
    if logged:
        yield _compared(values["loss"], logged["loss"])
    yield from _gradient_lines(replayed.gradient_norms)


def _pixels_line(setup: TrainingSetup, source: str, pixels: np.ndarray) -> str:
    missing = setup.experiment.encoders[source].sensor.missing(pixels)
    found = pixels[~missing]
    extent = f"from {found.min()} to {found.max()}" if found.size else "no value"
    return (
        f"pixels {source} {list(pixels.shape)} {pixels.dtype}: {extent}, {missing.mean():.1%} "
        "no-data or not finite"
    )


def _compared(loss: float, logged: float | None) -> str:
    logged = float("nan") if logged is None else logged  # JSON has no NaN
    if np.array_equal(loss, logged, equal_nan=True):
        return f"logged loss {logged!r}: the same"
    return (
        f"logged loss {logged!r}: differs from {loss!r}; it is the same, bit for bit, on the kind "
        f"and number of devices of the run, and this is {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}"
    )


def _gradient_lines(norms: Mapping[str, float]) -> Iterator[str]:
    """The largest gradients, those that are not finite first."""
    largest = sorted(norms, key=lambda path: (np.isfinite(norms[path]), -norms[path]))
    broken = sum(not np.isfinite(norm) for norm in norms.values())
    yield f"gradients of {len(norms)} weights, {broken} of them not finite; norms of the largest:"
    yield from (f"  {norms[path]:10.4g}  {path}" for path in largest[:_LISTED])


def write(replayed: Replayed, folder: Path) -> list[Path]:
    """Writes the batch as NPZ, and its views as pictures; returns the files."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    stem = f"step_{replayed.step}"
    files = {f"{stem}.npz": _npz(replayed)}
    for name in replayed.view_facts:
        files[f"{stem}_{name.replace('/', '_')}.png"] = _picture(replayed, name)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _npz(replayed: Replayed) -> bytes:
    arrays = {}
    for source, fields in replayed.batch.items():
        arrays |= {f"{source}/{name}": array for name, array in fields.items()}
        arrays[f"{source}/samples"] = replayed.samples[source]
        arrays[f"{source}/replaced"] = replayed.replaced[source]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _picture(replayed: Replayed, name: str) -> bytes:
    """All views of the first rows, a row each, in one stretch; no-data is hatched."""
    source = name.partition("/")[0]
    setup = replayed.setup
    numbers, sensor = setup.normalisation[source], setup.experiment.encoders[source].sensor
    bands = list(sensor.composite)
    views = replayed.views[name][..., bands] * numbers.std[bands] + numbers.mean[bands]
    valid = replayed.views[f"{name}/valid"].all(-1)
    per_row = views.shape[1]
    views, valid = views.reshape(-1, *views.shape[2:]), valid.reshape(-1, *valid.shape[2:])
    limits = pictures.percentile_limits(views, valid)
    images = [
        pictures.colour(view, range(len(bands)), limits, mask)
        for view, mask in zip(views, valid, strict=True)
    ]
    titles = [f"row {k // per_row}, view {k % per_row}" for k in range(len(images))]
    return pictures.contact_sheet(images, titles, max(per_row, 4))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.replay",
        description="Repeats one step of a run: its batch, views, loss and gradient.",
        epilog="example: python -m eo_jax.replay --workdir=runs/demo --step=123 --output=replay",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, required=True, help="the step, counted from 1")
    parser.add_argument(
        "--output", type=Path, help="folder for the batch and pictures of its views"
    )
    arguments = parser.parse_args()
    compile_cache.enable()
    replayed = replay(arguments.workdir, arguments.step)
    logged = [
        line
        for line in writers.read_metrics(arguments.workdir)
        if line["step"] == arguments.step and "loss" in line
    ]
    print("\n".join(lines_of(replayed, logged[-1] if logged else None)), flush=True)
    if arguments.output:
        print("\n".join(map(str, write(replayed, arguments.output))))
    return 0


if __name__ == "__main__":
    cli.run(main)
