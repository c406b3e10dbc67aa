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
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from eo_jax import cli, sharding
from eo_jax.checkpoint import Checkpoints
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import (
    check_labels,
    make_context,
    make_evaluators,
    make_experiment,
    make_normalisation,
    make_recipe,
)
from eo_jax.monitor import goodput, metrics
from eo_jax.optim import optimizers
from eo_jax.run import (
    StopSignal,
    check_same_data,
    check_same_run,
    check_steps,
    closing_message,
    data_fingerprint,
    memory,
    sizes,
    write_provenance,
)
from eo_jax.step import copied, init_state, make_pooled, make_train_step, norms
from eo_jax.warm_start import warm_started

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "configs/FILE.py[:variant]; any value is overridden as --config.section.key=value",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run: checkpoints, metrics, report; the same command resumes what is there",
)
flags.DEFINE_bool(
    "dry-run", False, "build, check and compile everything, print sizes and memory, train nothing"
)
flags.DEFINE_integer(
    "extend-to", 0, "train a finished run on to this many steps (the schedule is stretched to it)"
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
    """Trains the experiment of a completed config in `workdir`, or goes on with it. Returns an exit
    code.
    """
    # ------------------------------------------------------------------------------ config and mesh
    clock = goodput.Clock()
    experiment = make_experiment(config)
    run, objective = experiment.run, experiment.objective
    mesh = sharding.make_mesh(experiment.sharding)
    sharding.check_batch(experiment.data.batch_size, experiment.optim.accum, mesh)

    # ----------------------------------------------------------------------------------------- data
    pipeline = Pipeline(experiment.data, run.seed, jax.process_index(), jax.process_count())
    check_labels(experiment, pipeline)
    numbers = make_normalisation(experiment, pipeline)
    recipe = make_recipe(experiment, numbers)
    fingerprint = {
        name: data_fingerprint(source, numbers[name]) for name, source in pipeline.sources.items()
    }

    # ------------------------------------------------------------------------------- state and step
    shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0)))
    optimizer = optimizers.make_optimizer(experiment.optim, shapes[0], run.steps)
    make_state = functools.partial(init_state, objective, optimizer, run.seed)
    like = jax.eval_shape(make_state)
    placement, rows = (
        sharding.state_sharding(experiment.sharding, like, mesh),
        sharding.batch_sharding(mesh),
    )
    everywhere = NamedSharding(mesh, PartitionSpec())
    update = make_train_step(
        objective,
        optimizer,
        recipe.train,
        seed=run.seed,
        steps=run.steps,
        accum=experiment.optim.accum,
    )
    train_step = jax.jit(
        update,
        donate_argnums=0,
        in_shardings=(placement, rows),
        out_shardings=(placement, everywhere),
    )
    pooled = jax.jit(
        make_pooled(objective, recipe.evaluate, experiment.same_encoder),
        in_shardings=(placement, rows),
        out_shardings=everywhere,
    )
    evaluators = make_evaluators(config, functools.partial(make_context, experiment, numbers, mesh))
    compiled = functools.partial(_compiled, like=like, pipeline=pipeline, mesh=mesh)
    if dry_run:
        print(
            "\n".join(
                [
                    *sizes(like["params"], pipeline, mesh),
                    *memory(compiled(train_step), compiled(pooled)),
                ]
            ),
            flush=True,
        )
        return 0

    # -------------------------------------------------------------------------------------- restore
    checkpoints = Checkpoints(workdir, run.max_to_keep)
    if checkpoints.latest() is None:
        state, first = jax.jit(make_state, out_shardings=placement)(), 0
        if run.init_from:
            state = jax.device_put(warm_started(state, experiment), placement)
    else:
        check_same_run(checkpoints.config(), config, str(workdir), extend=extend)
        check_same_data(workdir, fingerprint)
        state, first = checkpoints.restore(sharding.placed(like, placement))
        pipeline.bad.restore(checkpoints.bad_records())
    check_steps(workdir, first, run.steps)
    write_provenance(workdir, config, fingerprint)

    # ----------------------------------------------------------------------------------------- loop
    writer = metrics.writer(workdir, first, run.writers)
    display = metrics.Display(first, run.steps)
    throughput = metrics.Throughput(experiment.data.batch_size, experiment.multiply_adds())
    lr = np.asarray(
        optimizers.schedule(experiment.optim, run.steps)(np.arange(run.steps))
    )  # all at once: a call in the loop would wait for the device
    stop = StopSignal()
    missed = metrics.not_evaluated(
        workdir, first, evaluators
    )  # where an evaluator ended the run before
    display.begin(experiment.objective_name, sizes(like["params"], pipeline, mesh))

    def is_logged(step: int) -> bool:
        return step % run.log_every == 0 or step in (1, run.steps)

    def arrive(step: int, values: dict[str, Any]) -> None:
        """Fetches the metrics of a step whose successor is already running, so that the device
        never waits for the host, nor the host runs ahead.
        """
        values = jax.device_get(values)
        throughput.arrived()
        values = metrics.to_scalars(values)
        if is_logged(step) or values["skipped"]:
            values |= {
                "lr": float(lr[step - 1]),
                **pipeline.counts(step),
                **throughput.take(),
                **clock.take(),
            }
            values |= metrics.collapse(step, run.steps, values)
            display.log(step, values)
            writer.write(step, values)

    def evaluate(step: int) -> None:
        for name, (every, evaluator) in evaluators.items():
            if (step > first or name in missed) and (
                step == run.steps or (every and step % every == 0)
            ):
                scores = {
                    f"eval/{name}/{key}": value
                    for key, value in evaluator((state["params"], state["carry"])).items()
                }
                display.scores(step, scores)
                writer.write(step, scores | clock.take())

    def save(step: int) -> None:
        clock.enter("checkpoint")  # batch `step` is not taken yet: a resume takes it
        checkpoints.save(
            step,
            state,
            next_batch=step,
            config=config,
            bad_records=pipeline.bad.skipped_before(step),
        )

    @contextlib.contextmanager
    def rescuing(step: int) -> Iterator[None]:
        """Saves before an error ends a run of one process: a damaged record, a vanished mount. Of
        several, the others know nothing of it.
        """
        try:
            yield
        except (ValueError, OSError):
            if step > first and jax.process_count() == 1:
                if running:
                    arrive(*running)
                save(step)
                checkpoints.wait()
                display.say(f"step {step}: state saved, the same command goes on from there")
            raise

    clock.enter("compile")
    # All before the first step: no later one waits for a compiler.
    train_steps, watched = (
        (compiled(train_step), compiled(pooled)) if first < run.steps else ({}, {})
    )
    jax.block_until_ready(norms(state["params"], copied(state["params"])))
    batches = sharding.prefetch(
        pipeline.batches(first, run.steps, display.say), mesh, experiment.sharding.prefetch
    )
    running: tuple[int, dict[str, Any]] | None = None
    for step in range(first, run.steps + 1):
        last = (
            step == run.steps or stop.requested
        )  # read once: a signal may come at any time, and the last step has to be saved
        due = step > first and (step % run.save_every == 0 or last)
        if running and (
            due or any(every and step % every == 0 for every, _ in evaluators.values())
        ):
            arrive(*running)
            running = None
            throughput.pause()
        clock.enter("evaluate")
        with rescuing(step):
            evaluate(step)
        if due:
            save(step)
        if last:
            break
        clock.enter("data")
        with rescuing(step):
            batch = next(batches)
        clock.enter("step")
        with jax.transfer_guard("disallow"):
            component, before = (
                pipeline.mixture.component(step),
                copied(state["params"]) if is_logged(step + 1) else None,
            )
            state, values = train_steps[component](state, batch)
            if before:
                values |= norms(state["params"], before) | watched[component](state, batch)
                del before
        clock.dispatched(goodput.finish_of(values))
        if running:
            arrive(*running)
        running = (step + 1, values)
        display.advance(step + 1)

    # ------------------------------------------------------------------------------------------ end
    checkpoints.wait()
    display.say(clock.summary())
    display.close()
    writer.close()
    print(closing_message(workdir, step, run.steps), flush=True)
    return 0 if step == run.steps else 128 + signal.SIGTERM


def _compiled(
    function: Any, like: Any, pipeline: Pipeline, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """{component: the function of (state, batch) for its batches}."""
    return {
        component: function.lower(
            like, sharding.to_global(pipeline.empty(component), mesh)
        ).compile()
        for component in pipeline.mixture.components
    }


if __name__ == "__main__":
    cli.run(main)
