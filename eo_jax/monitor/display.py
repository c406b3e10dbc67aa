"""What the person at the terminal sees of a run: a progress bar, and one line per logged step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eo_jax.monitor.metrics import COLLAPSED_BELOW

# What the log line shows beside loss, rates and norms, as such or as "<name>/<source>", and how it
# is called there; metrics.jsonl has all.
_SHORT = {
    "update_norm": "update",
    "feature_std": "std",
    "embedding_std": "embedding std",
    "feature_rank": "rank",
    "rankme": "RankMe",
    "prototypes_used": "prototypes",
    "classes_used": "classes",
    "teacher_agreement": "agree",
    "accuracy": "accuracy",
    "queue_accuracy": "queue acc",
    "batch_accuracy": "batch acc",
}


class Display:
    """A progress bar on a terminal, plain lines otherwise."""

    def __init__(self, first_step: int, steps: int):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=Console(file=sys.stdout), disable=not sys.stdout.isatty()
        )
        self._task = self._progress.add_task("training", total=steps, completed=first_step)
        self._steps, self._first, self._start = steps, first_step, time.perf_counter()
        self._progress.start()

    def begin(self, objective: str, sizes: Iterable[str]) -> None:
        """The first line: what is trained, and from which step."""
        begin = f"resuming at step {self._first}" if self._first else "from step 0"
        self.say(f"{objective}: {'; '.join(sizes)}; {begin} of {self._steps}")

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line of the step's numbers, with the time left."""
        left = (
            (time.perf_counter() - self._start) / max(step - self._first, 1) * (self._steps - step)
        )
        self.say(
            f"step {step:>6}/{self._steps}  {_readable(values)}{_warning(values)}  left "
            f"{int(left // 60)}:{int(left % 60):02d}"
        )

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """One line of what an evaluator found, named "eval/..."."""
        self.say(
            f"step {step:>6}/{self._steps}  "
            + "  ".join(
                f"{name.removeprefix('eval/')} {score:.4f}" for name, score in scores.items()
            )
        )

    def say(self, text: str) -> None:
        """A line above the bar, or a plain one."""
        if self._progress.disable:
            print(text, flush=True)
        else:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        self._progress.stop()


def _warning(values: Mapping[str, float | str]) -> str:
    return (
        f"  COLLAPSED: {values['collapsed']} below {COLLAPSED_BELOW}"
        if "collapsed" in values
        else ""
    )


def _readable(values: Mapping[str, float | str]) -> str:
    shown = [
        f"loss {values['loss']:.4f}",
        f"lr {values['lr']:.2e}",
        f"grad {values['grad_norm']:.3f}",
    ]
    if "component" in values:
        shares = ", ".join(
            f"{name.removeprefix('mixture/')} {share:.1%}"
            for name, share in values.items()
            if name.startswith("mixture/")
        )
        shown.insert(0, f"{values['component']} (so far {shares})")
    for metric, short in _SHORT.items():
        of_sources = {
            name.partition("/")[2]: value
            for name, value in values.items()
            if name.partition("/")[0] == metric
        }
        shown += [
            f"{' '.join(filter(None, (short, source)))} {value:.3g}"
            for source, value in of_sources.items()
        ]
    if "samples_per_s" in values:
        shown.append(f"{values['samples_per_s']:.1f} samples/s")
        shown.append(f"{values['flops_per_s'] / 1e9:.1f} GFLOP/s")
    if "mfu" in values:
        shown.append(f"MFU {values['mfu']:.1%}")
    if values.get("skipped"):
        shown.append("NOT FINITE: step skipped")
    if values.get("bad_records"):
        shown.append(f"bad records {values['bad_records']:g}")
    return "  ".join(shown)
