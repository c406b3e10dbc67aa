"""Where numbers go: one JSON line a log (always), TensorBoard (on request), one line or a bar for
the person watching.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eo_jax.monitor.rankme import rankme

# Dense bf16 peak in FLOP/s of one device, by the beginning of jax's device_kind; vendors' data
# sheets.
_PEAK_FLOPS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}

_SPREADS = ("feature_std", "embedding_std")
_POOLED = "pooled/"  # what `step.make_pooled` gives
_COLLAPSED = 0.02  # of unit-length vectors; 1 is where they point everywhere alike
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


def peak_flops() -> float | None:
    """Peak of all devices together, None where the data sheet is not in the table (CPUs)."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in _PEAK_FLOPS.items() if kind.startswith(name)]
    return known[0] * jax.device_count() if known else None


class Throughput:
    """Samples and model FLOP a second between two steps whose metrics have arrived; pauses
    (compiling, evaluation, saving) are left out.

    The watch on collapse of logged steps is not: its time counts, its FLOP do not.

    Args:
        batch_size: samples a step.
        multiply_adds: of one sample's forward pass. Training costs three forward passes, 2 FLOP a
            multiply-add; recomputation is not counted.
    """

    def __init__(self, batch_size: int, multiply_adds: int):
        self._batch_size, self._flops = batch_size, 6 * multiply_adds
        self._last: float | None = None
        self._steps, self._seconds = 0, 0.0

    def arrived(self) -> None:
        """The metrics of one more step are here, so that step is done. The first after a pause only
        starts the clock.
        """
        now = time.perf_counter()
        if self._last is not None:
            self._steps, self._seconds = self._steps + 1, self._seconds + now - self._last
        self._last = now

    def pause(self) -> None:
        """What follows is no training, until the next step."""
        self._last = None

    def take(self) -> dict[str, float]:
        """{"samples_per_s", "flops_per_s", "mfu"?} since the last call; empty where nothing was
        timed.
        """
        if not self._steps:
            return {}
        rate = self._steps * self._batch_size / self._seconds
        self._steps, self._seconds = 0, 0.0
        rates = {"samples_per_s": rate, "flops_per_s": rate * self._flops}
        peak = peak_flops()
        return rates | ({"mfu": rate * self._flops / peak} if peak else {})


class Writer:
    """Metrics of a run: WORKDIR/metrics.jsonl, and TensorBoard events where asked for. Process 0
    alone holds one.

    Args:
        first_step: step the run starts at; later lines, left by a run that was killed, are cut off.
        writers: "tensorboard" or nothing.
    """

    def __init__(self, workdir: Path, first_step: int, writers: tuple[str, ...]):
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(workdir) if line["step"] <= first_step]
        temporary = self._path.with_name(".metrics.jsonl.partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, self._path)
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115  (open for the life of the run)
        self._tensorboard = _tensorboard(workdir, first_step) if "tensorboard" in writers else None

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line; NaN and infinity become null, since JSON has neither. TensorBoard gets the
        numbers alone.
        """
        finite = {
            name: value if isinstance(value, str) or math.isfinite(value) else None
            for name, value in values.items()
        }
        try:
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
        except OSError as error:
            cure = (
                f"{error.strerror}: cannot be written; free space on that disk, then run the same "
                "command again"
            )
            raise OSError(error.errno, cure, str(self._path)) from error
        if self._tensorboard:
            for name, value in values.items():
                if not isinstance(value, str):
                    self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


class NullWriter:
    """The writer of the other processes, which writes nothing."""

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def writer(workdir: Path, first_step: int, writers: tuple[str, ...]) -> Writer | NullWriter:
    """A Writer in process 0."""
    return NullWriter() if jax.process_index() else Writer(workdir, first_step, writers)


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl; a last line cut short by a kill is left out."""
    path = workdir / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def not_evaluated(workdir: Path, step: int, names: Iterable[str]) -> set[str]:
    """The evaluators whose scores at this step are not among the lines of metrics.jsonl; none at
    step 0, where nothing is evaluated.

    None of several processes either: they would have to see the same file, or some would wait for
        the others.
    """
    if step == 0 or jax.process_count() > 1:
        return set()
    scored = [name for line in read_metrics(workdir) if line["step"] == step for name in line]
    return {name for name in names if not any(key.startswith(f"eval/{name}/") for key in scored)}


def to_scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What a step gave as numbers: of features "pooled/<source>" [m, d] their "rankme/<source>".

    They are taken apart here and not on the device, which runs the next step meanwhile.
    """
    ranks = {
        f"rankme/{name.removeprefix(_POOLED)}": rankme(value)
        for name, value in values.items()
        if name.startswith(_POOLED)
    }
    return {
        name: float(value) for name, value in values.items() if not name.startswith(_POOLED)
    } | ranks


def collapse(step: int, steps: int, values: Mapping[str, float | str]) -> dict[str, str]:
    """{"collapsed": what is below its limit} where embeddings have become the same for all samples,
    else nothing.

    Not in the first tenth of the run, when those of a fresh network still are the same.
    """
    flat = [
        name for name, value in values.items() if name.startswith(_SPREADS) and value < _COLLAPSED
    ]
    return {"collapsed": ", ".join(flat)} if flat and step * 10 >= steps else {}


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
    return f"  COLLAPSED: {values['collapsed']} below {_COLLAPSED}" if "collapsed" in values else ""


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


def _tensorboard(workdir: Path, first_step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "config.run.writers: 'tensorboard' needs tensorboardX: pip install 'eo_jax[log]'"
        ) from error
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
