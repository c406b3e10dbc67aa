"""The terminal output of a run: a progress bar, and one line per logged step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eo_jax.monitor.goodput import DATA_MAX, DATA_MAX_PROCESS
from eo_jax.monitor.metric import Metric
from eo_jax.monitor.metrics import COLLAPSED_BELOW

_WAITED = 0.05  # fraction of the time that is worth a word
_FORMATS = {"loss": ".4f", "lr": ".2e", "grad_norm": ".3f"}  # ".3g" for all others


class Display:
    """A progress bar on a terminal, plain lines otherwise.

    Args:
        first_step: step the run starts at.
        steps: its total number.
        metrics: {name: description} in the order of log lines, which show the values "<name>" and
            "<name>/<source>" of those with a short name.
    """

    def __init__(self, first_step: int, steps: int, metrics: Mapping[str, Metric]):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._silent = jax.process_index() > 0  # one process speaks for all
        quiet = self._silent or not sys.stdout.isatty()
        self._progress = Progress(*columns, console=Console(file=sys.stdout), disable=quiet)
        self._task = self._progress.add_task("training", total=steps, completed=first_step)
        self._steps, self._first, self._metrics = steps, first_step, metrics
        self._start = time.perf_counter()
        self._progress.start()

    def begin(self, objective: str, sizes: Iterable[str]) -> None:
        """The first line: the objective, sizes, and the step the run starts at."""
        start = f"resuming at step {self._first}" if self._first else "from step 0"
        self.say(f"{objective}: {'; '.join(sizes)}; {start} of {self._steps}")

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line with the values of a step and the time left."""
        pace = (time.perf_counter() - self._start) / max(step - self._first, 1)
        minutes, seconds = divmod(int(pace * (self._steps - step)), 60)
        facts = [
            *_mixture(values),
            *_described(self._metrics, values),
            *_rates(values),
            *_warnings(values),
            f"left {minutes}:{seconds:02d}",
        ]
        self._line(step, facts)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """One line with the scores "eval/..." of an evaluator."""
        self._line(
            step, [f"{name.removeprefix('eval/')} {score:.4f}" for name, score in scores.items()]
        )

    def say(self, text: str) -> None:
        """A line above the bar, or a plain one; by process 0."""
        if self._silent:
            return
        if self._progress.disable:
            print(text, flush=True)
        else:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        self._progress.stop()

    def _line(self, step: int, facts: Iterable[str]) -> None:
        self.say("  ".join([f"step {step:>6}/{self._steps}", *facts]))


def _mixture(values: Mapping[str, float | str]) -> Iterator[str]:
    """The component of this step, and the fractions of steps so far."""
    if "component" in values:
        fractions = ", ".join(
            f"{name.removeprefix('mixture/')} {value:.1%}"
            for name, value in values.items()
            if name.startswith("mixture/")
        )
        yield f"{values['component']} (so far {fractions})"


def _described(metrics: Mapping[str, Metric], values: Mapping[str, float | str]) -> Iterator[str]:
    for metric, description in metrics.items():
        for name, value in values.items():
            own, _, source = name.partition("/")
            if own == metric and description.short:
                label = f"{description.short} {source}".rstrip()
                yield f"{label} {value:{_FORMATS.get(metric, '.3g')}}"


def _rates(values: Mapping[str, float | str]) -> Iterator[str]:
    if "samples_per_s" in values:
        yield f"{values['samples_per_s']:.1f} samples/s"
        yield f"{values['flops_per_s'] / 1e9:.1f} GFLOP/s"
    if "mfu" in values:
        yield f"MFU {values['mfu']:.1%}"


def _warnings(values: Mapping[str, float | str]) -> Iterator[str]:
    if values.get("skipped"):
        yield f"{'LOSS SPIKE' if values.get('spike') else 'NOT FINITE'}: step skipped"
    if values.get(DATA_MAX, 0) >= _WAITED:
        yield f"process {values[DATA_MAX_PROCESS]} waited for data {values[DATA_MAX]:.0%}"
    if values.get("bad_records"):
        yield f"bad records {values['bad_records']:g}"
    if "collapsed" in values:
        yield f"COLLAPSED: {values['collapsed']} below {COLLAPSED_BELOW}"
