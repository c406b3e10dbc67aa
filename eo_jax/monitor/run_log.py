"""The bookkeeping of a run behind one object: where its time goes, its metrics, its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from eo_jax.monitor import goodput, metrics, writers
from eo_jax.monitor.display import Display
from eo_jax.monitor.goodput import Clock, finish_of
from eo_jax.monitor.throughput import Throughput


class RunLog:
    """Log lines, metrics.jsonl, the progress bar and the clock of a run.

    The metrics of a step are fetched while its successor runs, so that the device never waits for
    the host, and the host never runs more than one step ahead.

    Args:
        experiment: its `run`, batch size and `objective.metrics` are used.
        first: the step the run starts at.
        clock: started with the run.
        flops: of one sample in a train step.
        learning_rates: of every step of the run.
        counts: step -> what the pipeline counts, for log lines.
        check: called with every step and its values; it raises an error that is to end the run.
        gather: value -> what every process gives there.
    """

    def __init__(
        self,
        workdir: Path,
        experiment: Any,
        first: int,
        clock: Clock,
        flops: float,
        learning_rates: Sequence[float],
        counts: Callable[[int], Mapping[str, Any]],
        check: Callable[[int, Mapping[str, float]], None],
        gather: Callable[[Any], list[Any]],
    ):
        run, described = experiment.run, metrics.step_metrics(experiment.objective.metrics)
        self._run, self._clock = run, clock
        self._throughput = Throughput(experiment.data.batch_size, flops)
        self._learning_rates, self._counts, self._gather = learning_rates, counts, gather
        self._check = check
        self._writer = writers.make_writer(workdir, first, run.writers)
        self._display = Display(first, run.steps, described)
        self._pending: tuple[int, dict[str, Any]] | None = None
        self.enter, self.say, self.begin = clock.enter, self._display.say, self._display.begin

    def is_logged(self, step: int) -> bool:
        """Whether step number `step`, counted from 1, has a log line."""
        return step % self._run.log_every == 0 or step in (1, self._run.steps)

    def dispatched(self, step: int, values: dict[str, Any]) -> None:
        """Step number `step` runs on the device, and `values` will be its metrics."""
        self._clock.dispatched(finish_of(values))
        self._fetch()
        self._pending = step, values
        self._display.advance(step)

    def flush(self) -> None:
        """Logs the step that is still running; training pauses after it."""
        if self._pending:
            self._fetch()
            self._throughput.pause()

    def scores(self, step: int, evaluator: str, scores: Mapping[str, float]) -> dict[str, float]:
        """Logs the scores of an evaluator after step number `step`; returns them by the names of
        metrics.jsonl.
        """
        named = {f"eval/{evaluator}/{key}": value for key, value in scores.items()}
        self._display.scores(step, named)
        self._writer.write(step, named | self._time())
        return named

    def close(self) -> None:
        """Says where the time went; nothing is logged after it."""
        self.say(goodput.summary(goodput.merged(self._gather(self._clock.total()))))
        self._display.close()
        self._writer.close()

    def _fetch(self) -> None:
        if self._pending is None:
            return
        (step, values), self._pending = self._pending, None
        values = jax.device_get(values)
        self._throughput.arrived()
        values = metrics.to_scalars(values)
        if self.is_logged(step) or values["skipped"]:
            self._log(step, values)
        self._check(step, values)

    def _time(self) -> dict[str, float]:
        return goodput.merged(self._gather(self._clock.take()))

    def _log(self, step: int, values: dict[str, Any]) -> None:
        values |= {"lr": float(self._learning_rates[step - 1]), **self._counts(step)}
        values |= self._throughput.take() | self._time()
        values |= metrics.collapse(step, self._run.steps, values)
        self._display.log(step, values)
        self._writer.write(step, values)
