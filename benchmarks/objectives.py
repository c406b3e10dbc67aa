"""Checks every objective: loss parity with its paper, eight devices, resume, learning; and speed.

    python -m benchmarks.objectives --fast
    python -m benchmarks.objectives --step-json /tmp/step.json \\
        --json benchmarks/results/cpu/objectives.json

Run it on the CPU from a checkout with the extra `test`: the tests' own functions measure each cell.

Loss, gradient: the largest deviation from the numpy references in float64 over easy and nasty
inputs, relative to the largest value; the same for all backbones. 8 devices: the largest relative
difference of three losses from those on one device, in float64. Resume: whether every array is
equal to the bit after resuming from a checkpoint. Over untrained, over mean and std: points of
accuracy of a linear probe above the untrained encoder, and above band means and standard
deviations, the smallest of three seeds (`tests/learning.py`; one minute per ViT, ten per ResNet).
Speed: samples/s and the ratio to PyTorch eager, from the file that `python -m benchmarks.step
--json` wrote. '-' marks combinations that do not exist, were left out, or are not in that file.

The full table takes hours: `--jobs 2` measures two rows at a time, each in its own process on its
own cores. `--json` is written after each row; rows of that file that are not measured again stay in
it and in the table, with their dates, so `--objectives dino --backbones vit` updates one row.
Speeds are those of the last --step-json that had them.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from eo_jax.data.store.files import write_atomically

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # as pytest does; the tests import each other

import learning  # noqa: E402
import loss_cases  # noqa: E402
from multidevice.start import SeveralDevices  # noqa: E402
from resuming import hashes_after_resume  # noqa: E402
from tiny_objectives import OBJECTIVES, backbones_of, experiment_of  # noqa: E402

BACKBONES = ("vit", "resnet")
# {figure: (title, limit, whether a figure is within it)}
LIMITS: dict[str, tuple[str, str, Callable[[Any], bool]]] = {
    "loss": ("loss", "<= 1e-05", lambda figure: figure <= 1e-5),
    "gradient": ("gradient", "<= 0.0001", lambda figure: figure <= 1e-4),
    "eight_devices": ("8 devices", "< 1e-09", lambda figure: figure < 1e-9),
    "resume": ("resume", "bit-exact", bool),
    "over_untrained": ("over untrained", ">= 3", lambda figure: figure >= learning.POINTS),
    "over_moments": ("over mean, std", ">= 3", lambda figure: figure >= learning.POINTS),
}
SPEED = {"samples_per_s": "samples/s", "ours_to_pytorch": "ours / PyTorch"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 where a figure misses its limit."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.objectives", description=__doc__, formatter_class=raw
    )
    several = functools.partial(str.split, sep=",")
    parser.add_argument(
        "--objectives", type=several, default=list(OBJECTIVES), metavar="A,B", help="(default: all)"
    )
    parser.add_argument(
        "--backbones",
        type=several,
        default=list(BACKBONES),
        metavar="A,B",
        help="(default: vit,resnet)",
    )
    parser.add_argument(
        "--step-json",
        type=Path,
        metavar="PATH",
        help="the file written by `python -m benchmarks.step --json PATH`",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="also write the figures to this file, updating its rows",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="rows measured at a time (default: 1)"
    )
    parser.add_argument("--fast", action="store_true", help="without learning")
    args = parser.parse_args(arguments)
    try:
        rows = read_rows(args.json) if args.json and args.json.exists() else {}
        if rows and args.fast:
            raise ValueError(
                f"{args.json}: --fast would replace rows with learning by rows without; leave it "
                "out, or give another path"
            )
        speeds = read_speeds(args.step_json) if args.step_json else {}
        for row in measure(
            args.objectives, args.backbones, [] if args.fast else args.objectives, args.jobs
        ):
            key = row["objective"], row["backbone"]
            rows[key] = row | {figure: rows[key][figure] for figure in SPEED if key in rows}
            _write(args.json, rows, speeds)
    except BrokenExecutor as error:
        print(
            f"error: {error} Finished rows stay in --json. Was there enough memory for {args.jobs} "
            "rows at a time? Fewer --jobs need less",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = table_of(rows, speeds)
    _print(figures)
    return 3 if any(missed(row) for row in figures) else 0


def table_of(
    rows: Mapping[tuple, Mapping], speeds: Mapping[tuple, Mapping]
) -> list[dict[str, Any]]:
    """Rows in the order of objectives and backbones, with new speeds where given."""
    order = [(objective, backbone) for objective in OBJECTIVES for backbone in BACKBONES]
    return [{**rows[key], **speeds.get(key, {})} for key in order if key in rows]


def _write(
    path: Path | None, rows: Mapping[tuple, Mapping], speeds: Mapping[tuple, Mapping]
) -> None:
    if path:
        write_atomically(path, (json.dumps(table_of(rows, speeds), indent=1) + "\n").encode())


# ------------------------------------------------------------------ measuring


def measure(
    objectives: Sequence[str], backbones: Sequence[str], learners: Sequence[str], jobs: int
) -> Iterator[dict[str, Any]]:
    """Yields a row per objective and backbone as each finishes, `jobs` at a time; the first error
    is raised after all other rows.

    Raises:
        ValueError: an unknown name, or `jobs` below 1.
        BrokenExecutor: a process ended, for example out of memory.
    """
    for given, known in ((objectives, OBJECTIVES), (backbones, BACKBONES)):
        for name in given:
            if name not in known:
                raise ValueError(f"no {name!r}; there are {', '.join(known)}")
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: expected at least 1")
    with workers(jobs) as executor:
        pairs = [(objective, backbone) for backbone in backbones for objective in objectives]
        rows = [executor.submit(measure_row, *pair, learners) for pair in pairs]
        failed = []
        for row in as_completed(rows):
            if error := row.exception():
                failed.append(error)
            else:
                yield row.result()
        if failed:
            raise failed[0]


def workers(jobs: int) -> Executor:
    """A pool of `jobs` processes, which divide the cores of this one."""
    spawned, cores = multiprocessing.get_context("spawn"), sorted(os.sched_getaffinity(0))
    subsets = spawned.Queue()
    for i in range(jobs):
        subsets.put(cores[i::jobs] or cores)
    return ProcessPoolExecutor(jobs, spawned, _pin, (subsets,))


def _pin(subsets: Queue) -> None:
    os.sched_setaffinity(0, subsets.get())


def measure_row(objective: str, backbone: str, learners: Sequence[str]) -> dict[str, Any]:
    """{"objective", "backbone", "date", "versions", each key of LIMITS and SPEED}; None for no
    figure.
    """
    row = {
        "objective": objective,
        "backbone": backbone,
        **dict.fromkeys((*LIMITS, *SPEED)),
        **loss_parity(objective),
    }
    if backbone in backbones_of(objective):
        row |= trained_alike(objective, backbone)
        row |= learns(objective, backbone) if objective in learners else {}
    jax.clear_caches()  # the next row reuses none of this row's compiled functions
    print(
        f"{objective} {backbone}: {', '.join(missed(row)) or 'all within limits'}",
        file=sys.stderr,
        flush=True,
    )
    versions = {
        package: importlib.metadata.version(package) for package in ("jax", "flax", "optax")
    }
    return row | {"date": datetime.date.today().isoformat(), "versions": versions}


def loss_parity(objective: str) -> dict[str, float]:
    """{"loss", "gradient"}: the largest deviations from the references over all functions and
    inputs; empty without a reference.
    """
    losses = [
        loss
        for loss in (*loss_cases.LOSSES, loss_cases.MASKED_ERROR)
        if loss.objective == objective
    ]
    found = np.array(
        [loss_cases.deviations(loss, nasty(loss)) for loss in losses for nasty in loss_cases.NASTY]
    )
    return dict(zip(("loss", "gradient"), found.max(0).tolist(), strict=True)) if losses else {}


def trained_alike(objective: str, backbone: str) -> dict[str, Any]:
    """{"eight_devices", "resume"}"""
    case = f"{objective}/{backbone}"
    with tempfile.TemporaryDirectory() as folder:
        resumed, straight = hashes_after_resume(experiment_of(objective, backbone), Path(folder))
    with SeveralDevices(8) as process:
        apart = process.run("objectives", case)
    return {"eight_devices": apart, "resume": resumed == straight}


def learns(objective: str, backbone: str) -> dict[str, float]:
    """{"over_untrained", "over_moments"} in points, the smallest over the seeds."""
    learner = learning.Learner(learning.config_of(objective, backbone))
    found = [learning.scores(learner, seed) for seed in learning.SEEDS]
    return {
        name: min(getattr(score, name) for score in found)
        for name in ("over_untrained", "over_moments")
    }


def read_rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """{(objective, backbone): row} of the file of an earlier run."""
    try:
        rows = {(row["objective"], row["backbone"]): row for row in json.loads(path.read_text())}
        lacking = next(
            (
                f"{key}: no {name!r}"
                for key, row in rows.items()
                for name in (*LIMITS, *SPEED, "date")
                if name not in row
            ),
            "",
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        lacking = repr(error)
    if lacking:
        raise ValueError(
            f"{path}: {lacking}; expected a file written by `python -m benchmarks.objectives "
            "--json`; give another path, or remove it"
        )
    return rows


def read_speeds(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """{(objective, "vit" or "resnet"): figures of SPEED}; of several ViTs or ResNets the first."""
    try:
        steps = json.loads(path.read_text())
        speeds: dict[tuple[str, str], dict[str, float]] = {}
        for row in steps["steps_of_ours"]:
            speeds.setdefault(_family(row), {"samples_per_s": row["samples_per_s"]})
        for row in steps["peers"]:
            if row["contender"] == "eager":
                speeds[_family(row)].setdefault("ours_to_pytorch", row["ours_to_it"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: {error!r}; expected a file written by `python -m benchmarks.step --json`; "
            "run it again"
        ) from error
    return speeds


def _family(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["objective"], row["backbone"].partition("_")[0].rstrip("0123456789")


# ------------------------------------------------------------------ printed tables


def missed(row: Mapping[str, Any]) -> list[str]:
    """A line such as "loss 2e-05, not <= 1e-05" for each figure that misses its limit."""
    there = (
        (figure, title, limit, holds)
        for figure, (title, limit, holds) in LIMITS.items()
        if row[figure] is not None
    )
    return [
        f"{title} {_shown(row[figure])}, not {limit}"
        for figure, title, limit, holds in there
        if not holds(row[figure])
    ]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text; docs/objectives.md shows the same cells."""
    return [
        row["objective"],
        row["backbone"],
        *(_shown(row[figure]) for figure in (*LIMITS, *SPEED)),
        row["date"],
    ]


def _shown(figure: Any) -> str:
    if figure is None or isinstance(figure, bool):
        return {None: "-", True: "yes", False: "NO"}[figure]
    return (
        f"{figure:.1e}"
        if abs(figure) < 1e-2
        else f"{figure:.2f}"
        if abs(figure) < 2
        else f"{figure:.1f}"
    )


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "objective",
        "backbone",
        *(f"{title}\n{limit}" for title, limit, _ in LIMITS.values()),
        *SPEED.values(),
        "measured",
    )
    for row in rows:
        table.add_row(*cells(row))
    Console(width=150).print(table)
    for row in rows:
        for line in missed(row):
            print(f"MISSED: {row['objective']} {row['backbone']}: {line}")


if __name__ == "__main__":
    sys.exit(main())
