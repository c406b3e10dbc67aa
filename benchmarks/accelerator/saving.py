"""What saving checkpoints costs a run."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accelerator.cases import config_of, repeated_batch_of
from benchmarks.accelerator.scale import Scale
from benchmarks.step_workloads import Step, recipe_of
from eo_jax.checkpoint import Checkpoints
from eo_jax.experiment import make_experiment


def checkpoint_stall(scale: Scale, case: str) -> Iterator[dict[str, Any]]:
    """Seconds that the loop loses to a save while training goes on: "call_s" in which it waits for
    the copy and the checksums, "slower_s" by which the steps during the write take longer. The
    first save compiles the checksums; the second is the figure.
    """
    config = config_of(case, scale, {}, {})
    experiment = make_experiment(config)
    step = Step.of(experiment, recipe_of(experiment), repeated_batch_of(experiment))
    alone = scale.step_s(step.run)["step_s"]
    yield {"step_s": alone}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for number in (1, 2):
            figures = _save(checkpoints, step, number, config.to_dict(), alone)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            yield {f"save_{number}": figures, "checkpoint_gb": size / number / 1e9}
            yield {"stall_s": figures["call_s"] + figures["slower_s"]}


def _save(
    checkpoints: Checkpoints, step: Step, number: int, config: dict, alone: float
) -> dict[str, float]:
    start = time.perf_counter()
    checkpoints.save(number, step.state, config)
    call = time.perf_counter() - start
    writing, steps = threading.Thread(target=checkpoints.wait), 0
    writing.start()
    while writing.is_alive():
        step.run(1)
        steps += 1
    writing.join()
    total = time.perf_counter() - start
    return {
        "call_s": call,
        "total_s": total,
        "steps_meanwhile": steps,
        "slower_s": max(0.0, total - call - steps * alone),
    }
