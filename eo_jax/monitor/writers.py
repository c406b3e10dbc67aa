"""Metric writers: one JSON line per logged step (always), TensorBoard (on request)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import jax

T = TypeVar("T")


class Writer:
    """Writes the metrics of a run to WORKDIR/metrics.jsonl, and to TensorBoard on request.

    Args:
        first_step: step the run starts at; lines of later steps, left by a killed run, are removed.
        writers: "tensorboard" or nothing.

    Raises:
        ValueError: tensorboardX is not installed.
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
        """One line; NaN and infinity become null, since JSON has neither. TensorBoard gets only
        the numbers.
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
    """The writer of all processes but 0: writes nothing."""

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def make_writer(workdir: Path, first_step: int, writers: tuple[str, ...]) -> Writer | NullWriter:
    """A Writer in process 0, a NullWriter in the others."""
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


def scores_at(workdir: Path, step: int) -> dict[str, float]:
    """{"eval/<evaluator>/<metric>": value} at this step in metrics.jsonl; NaN for null."""
    return {
        name: math.nan if value is None else value
        for line in read_metrics(workdir)
        if line["step"] == step
        for name, value in line.items()
        if name.startswith("eval/")
    }


def skipped_steps(workdir: Path, last: int) -> list[int]:
    """The steps up to `last` that changed nothing: all of them have a line in metrics.jsonl."""
    lines = read_metrics(workdir)
    return sorted({line["step"] for line in lines if line["step"] <= last and line.get("skipped")})


def not_evaluated(scored: Iterable[str], evaluators: Mapping[str, T]) -> dict[str, T]:
    """The evaluators without any of the scores of `scores_at`."""
    return {
        name: evaluator
        for name, evaluator in evaluators.items()
        if not any(score.startswith(f"eval/{name}/") for score in scored)
    }


def _tensorboard(workdir: Path, first_step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "config.run.writers: 'tensorboard' needs tensorboardX: pip install 'eo_jax[log]'"
        ) from error
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
