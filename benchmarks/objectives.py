"""Measures what every objective has to hold: parity with the papers' losses, eight devices against
one, resume, learning; and shows its speed.

    python -m benchmarks.objectives --fast
    python -m benchmarks.objectives --step-json /tmp/step.json \\
        --json benchmarks/results/cpu/objectives.json

Run it on the CPU and from a checkout with the extra `test`: each cell is measured in this run, by
the functions that the tests use.

Loss, gradient: the largest deviation from the numpy references in float64 over easy and nasty
inputs, relative to the largest value; the same for all backbones. 8 devices: the largest relative
difference of three losses from those on one device, in float64. Resume: whether every array is
equal to the bit after a checkpoint in between. Learns: points of accuracy of a linear probe over
the untrained encoder and over band means and standard deviations, the smallest of three seeds
(`tests/learning.py`; one minute a ViT, ten a ResNet). Speed: samples/s and ratio to PyTorch, eager,
of the file that `python -m benchmarks.step --json` wrote. '-' is what does not exist, was left out,
or is not in that file.

All of it takes hours: `--jobs 2` measures two rows at a time, each in a process of its own on its
share of the cores. `--json` writes after each row, and rows of that file that are not measured
again stay in it and in the table, with their dates: `--objectives dino --backbones vit` brings one
up to date. Speeds are those of the last --step-json that had them.
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
sys.path.insert(0, str(TESTS))  # the tests import one another so, too

import learning  # noqa: E402
import loss_cases  # noqa: E402
from multidevice.start import run_script  # noqa: E402
from resuming import hashes_after_resume  # noqa: E402
from tiny_objectives import OBJECTIVES, backbones_of, experiment_of  # noqa: E402

BACKBONES = ("vit", "resnet")
# {figure: (title, what it has to be, whether it is)}
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
    """Runs the benchmark; returns 0, 1 for an error, 3 where a figure is not what it has to be."""
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
        help="what `python -m benchmarks.step --json PATH` wrote",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="also write the figures there, beside those that it has",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="rows at a time (default: 1)"
    )
    parser.add_argument("--fast", action="store_true", help="leave out learning")
    args = parser.parse_args(arguments)
    try:
        rows = read_rows(args.json) if args.json and args.json.exists() else {}
        if rows and args.fast:
            raise ValueError(
                f"{args.json}: --fast would put rows without learning into a table; leave it out, "
                "or give another path"
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
            f"error: {error} Rows that are done stay in --json; was there memory for {args.jobs} "
            "at a time? Fewer --jobs take less",
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
    """Rows in the order of objectives and backbones; with the speeds that are known, else those
    that they have.
    """
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
    """A row for each objective and backbone, as they are done, `jobs` at a time; the first error
    follows the other rows.

    Raises:
        ValueError: an unknown name, no job.
        BrokenExecutor: a process ended, for want of memory for example.
    """
    for given, known in ((objectives, OBJECTIVES), (backbones, BACKBONES)):
        for name in given:
            if name not in known:
                raise ValueError(f"no {name!r}; there are {', '.join(known)}")
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}; at least 1")
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
    """So many processes, each on its share of the cores that this one may use."""
    spawned, cores = multiprocessing.get_context("spawn"), sorted(os.sched_getaffinity(0))
    shares = spawned.Queue()
    for i in range(jobs):
        shares.put(cores[i::jobs] or cores)
    return ProcessPoolExecutor(jobs, spawned, _take_share, (shares,))


def _take_share(shares: Queue) -> None:
    os.sched_setaffinity(0, shares.get())


def measure_row(objective: str, backbone: str, learners: Sequence[str]) -> dict[str, Any]:
    """ "objective", "backbone", "date", "versions" and every key of LIMITS and SPEED, None where
    there is no figure.
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
    jax.clear_caches()  # what one row compiled is of no use to the next
    print(
        f"{objective} {backbone}: {', '.join(missed(row)) or 'as it has to be'}",
        file=sys.stderr,
        flush=True,
    )
    versions = {
        package: importlib.metadata.version(package) for package in ("jax", "flax", "optax")
    }
    return row | {"date": datetime.date.today().isoformat(), "versions": versions}


def loss_parity(objective: str) -> dict[str, float]:
    """{"loss", "gradient"}: the largest deviations from the references over all functions and
    inputs; nothing where there is no reference yet.
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
    return {"eight_devices": run_script("objectives.py", case)[case], "resume": resumed == straight}


def learns(objective: str, backbone: str) -> dict[str, float]:
    """{"over_untrained", "over_moments"}: points, the smallest of the seeds."""
    learner = learning.Learner(learning.config_of(objective, backbone))
    found = [learning.scores(learner, seed) for seed in learning.SEEDS]
    return {
        name: min(getattr(score, name) for score in found)
        for name in ("over_untrained", "over_moments")
    }


def read_rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """{(objective, backbone): row} of what an earlier run wrote."""
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
            f"{path}: {lacking}; expected what `python -m benchmarks.objectives --json` writes; "
            "give another path, or remove it"
        )
    return rows


def read_speeds(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """{(objective, "vit" or "resnet"): figures of SPEED}; the first of several ViTs or ResNets."""
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
            f"{path}: {error!r}; expected what `python -m benchmarks.step --json` writes; run it "
            "again"
        ) from error
    return speeds


def _family(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["objective"], row["backbone"].partition("_")[0].rstrip("0123456789")


# ------------------------------------------------------------------ what is shown


def missed(row: Mapping[str, Any]) -> list[str]:
    """ "loss 2e-05, not <= 1e-05" for each figure that is not what it has to be."""
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
    """A row as the table shows it; docs/objectives.md has the same."""
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
