"""The training loop: config -> mesh -> data -> state -> restore -> (evaluate, save, next batch,
step, log) until done.

    python -m eo_jax.train --config=configs/mae_demo.py:smoke --workdir=runs/smoke
    python -m eo_jax.train --config=configs/mae_demo.py --workdir=runs/demo \\
        --config.optim.lr=1e-3 --config.run.steps=2000

The same command resumes. `--dry-run` builds, checks and compiles everything, prints sizes and
memory, and trains nothing.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from eo_jax import autotuning, cli, sharding
from eo_jax.checkpoint import Checkpoints, Retention, set_damaged_aside
from eo_jax.data.pipeline import Pipeline
from eo_jax.evaluators.base import due_evaluators
from eo_jax.experiment import (
    Experiment,
    check_keep_best,
    check_labels,
    make_context,
    make_evaluators,
    make_experiment,
    make_normalisation,
    make_recipe,
    mean_sample_flops,
    with_compute_dtype,
)
from eo_jax.monitor import goodput, writers
from eo_jax.monitor.run_log import RunLog
from eo_jax.optim.optimizers import learning_rates
from eo_jax.run import (
    StopSignal,
    check_same_data,
    check_same_run,
    check_steps,
    closing_message,
    data_fingerprints,
    memory,
    sizes,
    write_provenance,
)
from eo_jax.schema import Batch
from eo_jax.step import TrainSession, TrainState, copied, norms
from eo_jax.warm_start import load_weights

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "configs/FILE.py[:variant]; any value is overridden as --config.section.key=value",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run: checkpoints, metrics, report; the same command resumes the run in it",
)
flags.DEFINE_bool(
    "dry-run", False, "build, check and compile everything, print sizes and memory, train nothing"
)
flags.DEFINE_integer(
    "extend-to", 0, "train a finished run up to this many steps; the schedule is stretched to them"
)


def main() -> int:
    """Parses flags and trains."""
    if {"-h", "--help"} & set(sys.argv):
        print(
            __doc__,
            flags.FLAGS.module_help(flags.FLAGS.find_module_defining_flag("workdir")),
            sep="\n",
        )
        return 0
    try:
        flags.FLAGS(sys.argv)
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{cli.first_cause(error)}; `python -m eo_jax.train --help` lists the flags"
        ) from error
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise ValueError(
            "--config=configs/FILE.py[:variant] and --workdir=DIR must be given; `python -m "
            "eo_jax.train --help` lists the flags"
        )
    extend_to = flags.FLAGS["extend-to"].value
    if extend_to:
        _CONFIG.value.run.steps = extend_to
    return train(
        _CONFIG.value.to_dict(),
        Path(_WORKDIR.value),
        dry_run=flags.FLAGS["dry-run"].value,
        extend=bool(extend_to),
    )


def train(config: dict, workdir: Path, *, dry_run: bool = False, extend: bool = False) -> int:
    """Trains or resumes the experiment of a completed config in `workdir`; returns an exit code."""
    # ------------------------------------------------------------------------------ config and mesh
    clock = goodput.Clock()
    config = with_compute_dtype(config)
    experiment = make_experiment(config)
    run = experiment.run
    mesh = sharding.make_mesh(experiment.sharding)
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)

    # ----------------------------------------------------------------------------------------- data
    pipeline = Pipeline(experiment.data, run.seed, jax.process_index(), jax.process_count())
    check_labels(experiment, pipeline)
    normalisation = make_normalisation(experiment, pipeline)
    fingerprint = data_fingerprints(pipeline, normalisation)

    # -------------------------------------------------------------------------- step and evaluators
    recipe = make_recipe(experiment, normalisation)
    session = TrainSession(experiment, recipe, mesh)
    context_of = functools.partial(make_context, experiment, normalisation, mesh)
    evaluators = make_evaluators(config, context_of)
    check_keep_best(run, evaluators)
    overview = sizes(session.shapes["params"], pipeline, mesh)
    if dry_run:
        compiled = session.compile(_empty_batches(pipeline, mesh))
        print("\n".join([*overview, *memory(compiled)]), flush=True)
        return 0

    # -------------------------------------------------------------------------------------- restore
    checkpoints = Checkpoints(workdir, Retention.of_run(config["run"]))
    for line in set_damaged_aside(checkpoints):
        print(line, flush=True)
    if checkpoints.latest() is not None:
        saved = checkpoints.newest().manifest
        check_same_run(saved.config, config, str(workdir), extend=extend)
        check_same_data(workdir, fingerprint)
        pipeline.bad.restore(saved.bad_records)
    state, first = _initial_state(checkpoints, session, experiment)
    check_steps(workdir, first, run.steps)
    write_provenance(workdir, config, fingerprint)

    # ----------------------------------------------------------------------------------------- loop
    stop = StopSignal()
    missed = writers.not_evaluated(workdir, first, evaluators)  # an error ended the run in them
    rates = learning_rates(experiment.optim, run.steps)
    flops = mean_sample_flops(experiment, recipe.train, pipeline)
    log = RunLog(workdir, experiment, first, clock, flops, rates, pipeline.counts)
    log.begin(experiment.objective_name, overview)

    def save(step: int) -> None:
        log.enter("checkpoint")
        bad = pipeline.bad.skipped_before(step)  # batch `step` is not taken yet: a resume takes it
        checkpoints.save(step, state, step, config, bad, scores)

    @contextlib.contextmanager
    def rescuing(step: int) -> Iterator[None]:
        """Saves before an error ends a run of one process; with several, not all know of it."""
        try:
            yield
        except (ValueError, OSError):
            if step > first and jax.process_count() == 1:
                log.flush()
                save(step)
                checkpoints.wait()
                log.say(f"step {step}: state saved; the same command resumes from there")
            raise

    log.enter("compile")  # all before the first step: no later one waits for a compiler
    with autotuning.kept_in(workdir) as options:
        empty = _empty_batches(pipeline, mesh) if first < run.steps else {}
        compiled = session.compile(empty, options)
    jax.block_until_ready(norms(state["params"], copied(state["params"])))
    batches = pipeline.batches(first, run.steps, log.say)
    batches = sharding.prefetch(batches, mesh, experiment.sharding.prefetch)
    for step in range(first, run.steps + 1):
        last = step == run.steps or stop.requested  # read once: a signal may come at any time
        due = step > first and (step % run.save_every == 0 or last)
        evaluating, scores = due_evaluators(evaluators, step, run.steps), {}
        if due or evaluating:
            log.flush()
        log.enter("evaluate")
        with rescuing(step):
            for name, evaluator in evaluating.items():
                if step > first or name in missed:
                    scores |= log.scores(step, name, evaluator((state["params"], state["carry"])))
        if due:
            save(step)
        if last:
            break
        log.enter("data")
        with rescuing(step):
            batch = next(batches)
        log.enter("step")
        with jax.transfer_guard("disallow"):
            component = compiled[pipeline.mixture.component(step)]
            before = copied(state["params"]) if log.is_logged(step + 1) else None
            state, values = component.step(state, batch)
            if before:
                values |= norms(state["params"], before) | component.pooled(state, batch)
                del before
        log.dispatched(step + 1, values)

    # ------------------------------------------------------------------------------------------ end
    checkpoints.wait()
    log.close()
    print(closing_message(workdir, step, run.steps), flush=True)
    return 0 if step == run.steps else 128 + signal.SIGTERM


def _initial_state(
    checkpoints: Checkpoints, session: TrainSession, experiment: Experiment
) -> tuple[TrainState, int]:
    """(state, step): of the newest checkpoint, or step 0 with fresh weights or those of
    `run.init_from`.
    """
    if checkpoints.latest() is not None:
        return checkpoints.restore(session.shapes)
    state = session.init()
    if experiment.run.init_from:
        state = jax.device_put(load_weights(state, experiment), session.placement)
    return state, 0


def _empty_batches(pipeline: Pipeline, mesh: jax.sharding.Mesh) -> dict[str, Batch]:
    """{component: a global batch of its shapes}."""
    return {
        component: sharding.to_global(pipeline.empty_batch(component), mesh)
        for component in pipeline.mixture.components
    }


if __name__ == "__main__":
    cli.run(main)
