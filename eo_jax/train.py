"""The training loop: config -> mesh -> data -> state -> restore -> (evaluate, save, next batch,
step, log) until done.

    python -m eo_jax.train --config=configs/mae_demo.py:smoke --workdir=runs/smoke
    python -m eo_jax.train --config=configs/mae_demo.py --workdir=runs/demo \\
        --config.optim.lr=1e-3 --config.run.steps=2000

The same command resumes. `--dry-run` builds, checks and compiles everything, prints sizes and
memory, and trains nothing. `--distributed` starts a run of several processes. Exit codes: 0 done,
143 stopped with the state saved, 75 ended because another process failed, 1 an error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from eo_jax import autotuning, cli, distributed, sharding
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
from eo_jax.lock import locked, release
from eo_jax.monitor import goodput, writers
from eo_jax.monitor.run_log import RunLog
from eo_jax.optim.optimizers import learning_rates
from eo_jax.peers import Alone, Peers
from eo_jax.run import (
    Stopped,
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
    start = distributed.chosen(
        *(flags.FLAGS[name].value for name in ("distributed", "process-id", "num-processes")),
        os.environ,
    )
    with distributed.processes(start) as processes:
        return train(
            _CONFIG.value.to_dict(),
            Path(_WORKDIR.value),
            processes,
            dry_run=flags.FLAGS["dry-run"].value,
            extend=bool(extend_to),
        )


def train(
    config: dict,
    workdir: Path,
    processes: Alone | Peers | None = None,
    *,
    dry_run: bool = False,
    extend: bool = False,
) -> int:
    """Trains or resumes the experiment of a completed config in `workdir`; returns an exit code."""
    with contextlib.ExitStack() as held:
        return _train(config, workdir, processes or Alone(), held, dry_run=dry_run, extend=extend)


def _train(
    config: dict,
    workdir: Path,
    processes: Alone | Peers,
    held: contextlib.ExitStack,
    *,
    dry_run: bool,
    extend: bool,
) -> int:
    # ------------------------------------------------------------------------------ config and mesh
    clock = goodput.Clock()
    config = with_compute_dtype(config)
    experiment = make_experiment(config)
    run = experiment.run
    mesh = sharding.make_mesh(experiment.sharding)
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)

    # ----------------------------------------------------------------------------------------- data
    rows = sharding.local_rows(mesh, experiment.data.batch_size)
    pipeline = Pipeline(experiment.data, run.seed, rows, processes.gather)
    check_labels(experiment, pipeline)
    normalisation = make_normalisation(experiment, pipeline)
    fingerprint = data_fingerprints(pipeline, normalisation)

    # -------------------------------------------------------------------------- step and evaluators
    recipe = make_recipe(experiment, normalisation)
    session = TrainSession(experiment, recipe, mesh)

    def poll() -> None:
        if processes.poll():
            raise Stopped

    context_of = functools.partial(
        make_context, experiment, normalisation, mesh, poll=poll, announce=processes.announce
    )
    evaluators = make_evaluators(config, context_of)
    check_keep_best(run, evaluators)
    overview = sizes(session.shapes["params"], pipeline, mesh)
    if dry_run:
        compiled = session.compile(_empty_batches(pipeline, mesh))
        if processes.index == 0:
            print("\n".join([*overview, *memory(compiled)]), flush=True)
        return 0

    # -------------------------------------------------------------------------------------- restore
    _take_lock(workdir, processes, held)
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
    missed = set(processes.gather(sorted(writers.not_evaluated(workdir, first, evaluators)))[0])
    rates = learning_rates(experiment.optim, run.steps)
    flops = mean_sample_flops(experiment, recipe.train, pipeline)
    log = RunLog(workdir, experiment, first, clock, flops, rates, pipeline.counts, processes.gather)
    log.begin(experiment.objective_name, overview)

    def save(step: int) -> dict[str, list[int]]:
        """Starts saving; returns the bad records so far."""
        log.enter("checkpoint")
        bad = pipeline.skipped_before(step)  # batch `step` is not taken yet: a resume takes it
        checkpoints.save(step, state, step, config, bad, scores)
        return bad

    @contextlib.contextmanager
    def rescuing(step: int) -> Iterator[None]:
        """Saves before an error ends a run of one process; several agree: see `announce`."""
        try:
            yield
        except (ValueError, OSError):
            if step > first and processes.count == 1:
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
    batches = pipeline.batches(first, run.steps, _say_of(processes, log))
    ahead = max(experiment.sharding.prefetch, processes.lead)
    batches = sharding.prefetch(batches, mesh, ahead, processes.announce)
    for step in range(first, run.steps + 1):
        processes.step = step
        processes.poll()
        evaluating, scores = due_evaluators(evaluators, step, run.steps), {}
        if evaluating:
            log.flush()
        log.enter("evaluate")
        with rescuing(step), contextlib.suppress(Stopped):
            for name, evaluator in evaluating.items():
                if step > first or name in missed:
                    scores |= log.scores(step, name, evaluator((state["params"], state["carry"])))
        last = step == run.steps or bool(processes.stopped_by)
        if step > first and (step % run.save_every == 0 or last):
            log.flush()
            pipeline.bad.check(save(step))
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
    done = step == run.steps and not (processes.stopped_by and evaluating)
    if processes.index == 0:
        print(closing_message(workdir, step, run.steps, done=done), flush=True)
    return processes.outcome(done=done)


def _take_lock(workdir: Path, processes: Alone | Peers, held: contextlib.ExitStack) -> None:
    """Process 0 locks the workdir; the others wait for that."""
    if processes.index == 0:
        lock = held.enter_context(locked(workdir))
        processes.at_end(functools.partial(release, lock))
    processes.gather(None)


def _say_of(processes: Alone | Peers, log: RunLog) -> Callable[[str], None]:
    """What a process that is not the first has to say about its own records names it."""
    if processes.index == 0:
        return log.say
    return functools.partial(print, f"process {processes.index}:", file=sys.stderr, flush=True)


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
