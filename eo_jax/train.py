"""The training loop: config -> mesh -> data -> state -> restore -> (evaluate, save, next batch,
step, log) until done.

    python -m eo_jax.train --config=configs/mae_demo.py:smoke --workdir=runs/smoke
    python -m eo_jax.train --config=configs/mae_demo.py --workdir=runs/demo \\
        --config.optim.lr=1e-3 --config.run.steps=2000

The same command resumes. On a finished run, `--evals=NAME,...` chooses other evaluators, and
`--evaluate-again` repeats those that have scores. `--dry-run` builds, checks and compiles
everything, prints sizes and memory by kind, and trains nothing. `--profile=steps:10-20` writes a
trace of these steps to WORKDIR/profile and prints what took longest in it. `--distributed` starts a
run of several processes. Exit codes: 0 done, 143 stopped with the state saved, 75 ended because
another process failed, 1 an error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import flags

from eo_jax import autotuning, cli, compile_cache, config_flags, distributed, sharding
from eo_jax.checkpoint import Checkpoints, Retention, Saved, restored
from eo_jax.evaluators.base import Evaluator, due_evaluators
from eo_jax.experiment import (
    check_keep_best,
    make_evaluators,
    make_experiment,
    with_compute_dtype,
)
from eo_jax.lock import locked, release
from eo_jax.monitor import goodput, profile, writers
from eo_jax.monitor.run_log import RunLog
from eo_jax.monitor.usefulness import Usefulness
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
from eo_jax.saving import Saving
from eo_jax.schema import Batch, TrainState
from eo_jax.step import CompiledStep, copied, norms
from eo_jax.training_setup import TrainingSetup, initial_state, make_setup

_CONFIG = flags.DEFINE_string("config", None, config_flags.HELP)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run: checkpoints, metrics, report; the same command resumes the run in it",
)
flags.DEFINE_bool(
    "dry-run", False, "build, check and compile everything, print sizes and memory, train nothing"
)
_EVALS = flags.DEFINE_list("evals", None, config_flags.EVALS_HELP)
flags.DEFINE_bool(
    "evaluate-again", False, "run every evaluator on the newest checkpoint, scored or not"
)
_PROFILE = flags.DEFINE_string(
    "profile", "", "steps:FIRST-LAST: trace them for Perfetto and XProf, and list what took longest"
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
        others, overrides = config_flags.split_overrides(sys.argv)
        flags.FLAGS(others)
    except flags.Error as error:
        raise ValueError(
            f"{cli.first_cause(error)}; `python -m eo_jax.train --help` lists the flags"
        ) from error
    config = _CONFIG.value and config_flags.load(_CONFIG.value, overrides, _EVALS.value)
    if config is None or _WORKDIR.value is None:
        raise ValueError(
            "--config=configs/FILE.py[:variant] and --workdir=DIR must be given; `python -m "
            "eo_jax.train --help` lists the flags"
        )
    compile_cache.enable()
    extend_to = flags.FLAGS["extend-to"].value
    if extend_to:
        config.run.steps = extend_to
    start = distributed.chosen(
        *(flags.FLAGS[name].value for name in ("distributed", "process-id", "num-processes")),
        os.environ,
    )
    with distributed.processes(start) as processes:
        return train(
            config.to_dict(),
            Path(_WORKDIR.value),
            processes,
            dry_run=flags.FLAGS["dry-run"].value,
            extend=bool(extend_to),
            evaluate_again=flags.FLAGS["evaluate-again"].value,
            profiled=profile.parse(_PROFILE.value),
        )


def train(
    config: dict,
    workdir: Path,
    processes: Alone | Peers | None = None,
    *,
    dry_run: bool = False,
    extend: bool = False,
    evaluate_again: bool = False,
    profiled: range = range(0),
) -> int:
    """Trains or resumes the experiment of a completed config in `workdir`; returns an exit code.

    Of the steps `profiled` process 0 writes a trace.
    """
    processes = processes or Alone()
    clock = goodput.Clock()
    config = with_compute_dtype(config)
    experiment = make_experiment(config)
    run = experiment.run
    setup = make_setup(experiment, experiment.sharding, processes.gather)
    evaluators = _evaluators(config, setup, processes)
    if dry_run:
        return _dry_run(setup, processes)

    retention = Retention.of_run(config["run"])
    with (
        _lock_on(workdir, processes),
        Checkpoints(workdir, retention) as checkpoints,
        contextlib.ExitStack() as held,
    ):
        # --------------------------------------------------------------------- restore and compile
        state, first, origin = _restored(workdir, checkpoints, config, setup, extend=extend)
        skipped, scored = processes.gather(
            [writers.skipped_steps(workdir, first), writers.scores_at(workdir, first)]
        )[0]
        known = {} if evaluate_again else scored
        missed = writers.not_evaluated(known, evaluators) if first else {}
        log = _begin_log(workdir, setup, first, skipped, clock, processes)
        traced = held.enter_context(_profile(workdir, profiled, first, run.steps, processes, log))
        alone = processes.count == 1
        saving = Saving(checkpoints, config, setup.pipeline, log, first, origin, alone)
        compiled = _compiled(workdir, setup, state, first, log)
        batches = _batches(setup, first, processes, log)

        for step in range(first, run.steps + 1):
            processes.step = step
            processes.poll()
            checkpoints.check()
            traced.before(step + 1, state)
            # --------------------------------------------------------------------------- evaluate
            evaluating = due_evaluators(evaluators if step > first else missed, step, run.steps)
            scores = {} if step > first else scored
            if evaluating:
                log.flush()
            log.enter("evaluate")
            with saving.before_errors(step, state, scores), contextlib.suppress(Stopped):
                for name, evaluator in evaluating.items():
                    scores |= log.scores(step, name, evaluator((state["params"], state["carry"])))
            # ------------------------------------------------------------------------------- save
            last = step == run.steps or bool(processes.stopped_by)
            if step > first and (step % run.save_every == 0 or last):
                saving.save(step, state, scores)
            elif step == first and scores:
                checkpoints.add_scores(step, scores)
            if last:
                break
            # ----------------------------------------------------------------------- batch, step
            log.enter("data")
            with saving.before_errors(step, state, scores):
                batch = next(batches)
            log.enter("step")
            with jax.transfer_guard("disallow"):
                component = compiled[setup.pipeline.mixture.component(step)]
                before = copied(state["params"]) if log.is_logged(step + 1) else None
                state, values = component.step(state, batch)
                if before:
                    values |= norms(state["params"], before) | component.pooled(state, batch)
                    del before
            log.dispatched(step + 1, values)

        # -------------------------------------------------------------------------------------- end
        checkpoints.wait()
        log.close()
        done = step == run.steps and not (processes.stopped_by and evaluating)
        if processes.index == 0:
            print(closing_message(workdir, step, run.steps, done=done), flush=True)
        return processes.outcome(done=done)


# --------------------------------------------------------------------------------- before the loop


def _evaluators(
    config: dict, setup: TrainingSetup, processes: Alone | Peers
) -> dict[str, tuple[int, Evaluator]]:
    """{name: (every, evaluator)}; a stop ends an evaluation between two batches."""

    def poll() -> None:
        if processes.poll():
            raise Stopped

    evaluators = make_evaluators(config, setup.context_of(poll, processes.announce))
    check_keep_best(setup.experiment.run, evaluators)
    return evaluators


def _dry_run(setup: TrainingSetup, processes: Alone | Peers) -> int:
    """Compiles, and prints sizes and memory."""
    batches = setup.empty_batches()
    compiled = setup.session.compile(batches)
    if processes.index == 0:
        lines = memory(compiled, setup.session.shapes, batches)
        print("\n".join([*_overview(setup), *lines]), flush=True)
    return 0


def _overview(setup: TrainingSetup) -> list[str]:
    return sizes(setup.session.shapes["params"], setup.pipeline, setup.mesh)


@contextlib.contextmanager
def _lock_on(workdir: Path, processes: Alone | Peers) -> Iterator[None]:
    """Process 0 locks the workdir; the others wait for that."""
    with contextlib.ExitStack() as held:
        if processes.index == 0:
            lock = held.enter_context(locked(workdir))
            processes.at_end(functools.partial(release, lock))
        processes.gather(None)
        yield


def _restored(
    workdir: Path, checkpoints: Checkpoints, config: dict, setup: TrainingSetup, *, extend: bool
) -> tuple[TrainState, int, int]:
    """(state, step, `Manifest.origin`) to train from: of the newest intact checkpoint, or step 0
    with fresh weights or those of `run.init_from`. Raises ValueError where the workdir is that of
    another run.
    """
    fingerprint = data_fingerprints(setup.pipeline, setup.normalisation)
    steps = setup.experiment.run.steps

    def restore(saved: Saved) -> tuple[TrainState, int, int]:
        about = saved.manifest
        check_same_run(about.config, config, str(workdir), extend=extend)
        check_same_data(workdir, fingerprint)
        check_steps(workdir, saved.step, steps)
        state = saved.restore(setup.session.shapes)
        setup.pipeline.bad.restore(about.bad_records)
        extended = about.config["run"]["steps"] != steps
        return state, saved.step, saved.step if extended else about.origin

    found, lines = restored(checkpoints, restore)
    for line in lines:
        print(line, flush=True)
    write_provenance(workdir, config, fingerprint)
    return found or (initial_state(setup), 0, 0)


def _begin_log(
    workdir: Path,
    setup: TrainingSetup,
    first: int,
    skipped: Sequence[int],
    clock: goodput.Clock,
    processes: Alone | Peers,
) -> RunLog:
    """The log of the run, with its first line; `skipped` are steps before `first`."""
    experiment, pipeline = setup.experiment, setup.pipeline
    run = experiment.run
    component, describe = pipeline.mixture.component, pipeline.describe
    usefulness = Usefulness(run.steps, run.max_skipped, component, describe, str(workdir))
    usefulness.resume(first, skipped)
    log = RunLog(
        workdir,
        experiment,
        first,
        clock,
        setup.sample_flops(),
        learning_rates(experiment.optim, run.steps),
        pipeline.counts,
        usefulness.check,
        processes.gather,
    )
    log.begin(experiment.objective_name, _overview(setup))
    return log


def _compiled(
    workdir: Path, setup: TrainingSetup, state: TrainState, first: int, log: RunLog
) -> dict[str, CompiledStep]:
    """{component: its compiled step}: all before the first step, so that no later one waits for a
    compiler.
    """
    log.enter("compile")
    with autotuning.kept_in(workdir) as options:
        empty = setup.empty_batches() if first < setup.experiment.run.steps else {}
        compiled = setup.session.compile(empty, options)
    jax.block_until_ready(norms(state["params"], copied(state["params"])))
    return compiled


def _batches(
    setup: TrainingSetup, first: int, processes: Alone | Peers, log: RunLog
) -> Iterator[Batch]:
    """Global batches from number `first`, on the devices ahead of their step."""
    say = log.say
    if processes.index:  # what another process has to say about its own records names it
        say = functools.partial(print, f"process {processes.index}:", file=sys.stderr, flush=True)
    batches = setup.pipeline.batches(first, setup.experiment.run.steps, say)
    ahead = max(setup.experiment.sharding.prefetch, processes.lead)
    return sharding.prefetch(batches, setup.mesh, ahead, processes.announce)


def _profile(
    workdir: Path, steps: range, first: int, last: int, processes: Alone | Peers, log: RunLog
) -> profile.Profile:
    """Traces steps in process 0. Raises ValueError for steps that this run does not have."""
    profile.check(steps, first, last)
    here = steps if processes.index == 0 else range(0)
    return profile.Profile(here, workdir / "profile", log.say)


if __name__ == "__main__":
    cli.run(main)
