"""A race between our train step and its PyTorch twins, each in its own process, taking turns.

In one process, the idle one would still slow the other down, by up to a fifth of a step: its
threads spin for a while after their work, and its memory is fragmented.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step_workloads import NO_AUGMENTATION, SEED, Step, batch_of, recipe_of
from eo_jax.augment import masking
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.schema import Carry, Views

# More turns rather than longer ones: other load on the machine then spoils a turn, not the figure.
TURNS = 6
OURS = "ours"


class Contender:
    """A train step in its own process, compiled and run once.

    Args:
        config: of the experiment.
        way: OURS, or one of `step_peers.make`.

    Attributes:
        first_loss: of step 0.

    Raises:
        RuntimeError: it cannot run here; with the message of its process.
        ValueError: its process ended, now or in a later run.
    """

    def __init__(self, config: Mapping[str, Any], way: str):
        self._way = way
        spawned = multiprocessing.get_context("spawn")
        self._pipe, there = spawned.Pipe()
        self._process = spawned.Process(target=_serve, args=(there, config, way), daemon=True)
        self._process.start()
        there.close()
        _, self.first_loss = self._answer()

    def run(self, steps: int) -> float:
        """Runs `steps` more steps; seconds per step."""
        with contextlib.suppress(BrokenPipeError):  # `_answer` then reports the ended process
            self._pipe.send(steps)
        return self._answer()[0] / steps

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join()

    def _answer(self) -> tuple[float, float]:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise ValueError(
                f"{self._way}: its process ended with exit code {self._process.exitcode}; see its "
                "output above"
            ) from None
        if isinstance(answer, str):
            self.close()
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Connection, config: Mapping[str, Any], way: str) -> None:
    """Answers each number of steps with (seconds, last loss), starting with one step; with an error
    message if it cannot run.
    """
    try:
        runner, steps = _runner(make_experiment(config), way), 1
        while True:
            start = time.perf_counter()
            loss = runner.run(steps)
            pipe.send((time.perf_counter() - start, loss))
            steps = pipe.recv()
    except RuntimeError as error:  # torch.compile without a compiler, memory
        pipe.send((str(error).strip() or type(error).__name__).splitlines()[0])
    except (EOFError, KeyboardInterrupt):
        return


def _runner(experiment: Experiment, way: str) -> Any:
    """An object with `run(steps)`: our step, or a twin with the same weights, on the same views."""
    shown = jax.jit(recipe_of(experiment).train)(batch_of(experiment), jax.random.key(1))
    if way == OURS:
        return Step.of(experiment, NO_AUGMENTATION, shown)
    import torch

    torch.set_num_threads(threads())
    params, carry = experiment.objective.init(jax.random.key(SEED))
    return twin_of(experiment, way, {"params": params, "carry": carry}, shown)


def race(
    config: Mapping[str, Any], ways: Sequence[str], steps: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """({"contender", "samples_per_s", "first_loss", "ours_to_it"} of ours and of each twin, {twin:
    the reason why it could not run}).
    """
    contenders, failed = {}, {}
    with contextlib.ExitStack() as running:
        for way in (OURS, *ways):
            try:
                contenders[way] = Contender(config, way)
                running.callback(contenders[way].close)
            except RuntimeError as error:
                if way == OURS:
                    raise ValueError(f"{OURS}: {error}") from error
                failed[way] = str(error)
        seconds = best_of({way: contender.run for way, contender in contenders.items()}, steps)

    def rate(way):
        return config["data"]["batch_size"] / seconds[way]

    rows = [
        {
            "contender": way,
            "samples_per_s": rate(way),
            "first_loss": contender.first_loss,
            "ours_to_it": rate(OURS) / rate(way),
        }
        for way, contender in contenders.items()
    ]
    return rows, failed


def best_of(contenders: Mapping[str, Callable[[int], float]], steps: int) -> dict[str, float]:
    """Seconds per step of each contender, as it reports them: the best of TURNS turns that they
    take one after the other, after one step of warm-up.
    """
    for run in contenders.values():
        run(1)
    best = dict.fromkeys(contenders, math.inf)
    for _ in range(TURNS):
        for name, run in contenders.items():
            best[name] = min(best[name], run(steps))
    return best


def twin_of(experiment: Experiment, way: str, state: Mapping[str, Any], shown: Views) -> Any:
    """A `step_peers.Peer` with the weights of a state at step 0, on the views of its batch."""
    from benchmarks import step_peers

    objective = experiment.objective_name
    inputs = {
        name.removeprefix("eo/"): np.asarray(view)
        for name, view in shown.items()
        if not name.endswith("/valid")
    }
    inputs |= {
        name: np.asarray(array)
        for name, array in _drawn(experiment, inputs["global"].shape, state["carry"]).items()
    }
    params = {
        **state["params"],
        **({"teacher": state["carry"]["teacher"]["params"]} if "teacher" in state["carry"] else {}),
    }
    return step_peers.make(
        objective,
        way,
        experiment,
        params,
        inputs,
        {"cpu": "cpu", "gpu": "cuda"}[jax.default_backend()],
    )


def _drawn(experiment: Experiment, shape: tuple[int, ...], carry: Carry) -> dict[str, jax.Array]:
    """The random draws of our loss at step 0, so that a twin masks the same tokens or groups the
    same keys, and the initial queue.
    """
    objective, (_, key) = (
        experiment.objective,
        jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0)),
    )
    rows, side = (
        shape[0],
        shape[2] // objective.encoder.patch
        if experiment.objective_name in ("mae", "data2vec")
        else 0,
    )
    if experiment.objective_name == "mae":  # by `masking.random_split`
        return {"noise": jax.random.uniform(key, (rows, side**2))}
    first, _ = jax.random.split(key)
    if experiment.objective_name == "data2vec":
        hidden = masking.hidden_count(side**2, objective.config.mask_ratio)
        return {
            "masked": masking.random_blocks(
                first, jnp.ones((rows, side**2), bool), side, side, hidden
            )
        }
    if experiment.objective_name == "moco":
        return {"order": jax.random.permutation(first, rows), "queue": carry["queue"]["rows"]}
    return {}


def available_twins() -> tuple[list[str], list[str]]:
    """(objectives that have a twin here, reasons why there is none)."""
    if importlib.util.find_spec("torch") is None:
        return [], ["no PyTorch twins: pip install torch"]
    import torch

    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return [], [
            "no PyTorch twins: this PyTorch has no GPU support, and they must run on the same "
            "device as ours"
        ]
    from benchmarks import step_peers

    return list(step_peers.TWINS), []


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
