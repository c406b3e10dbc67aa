"""Prints what a launch file would run, without running it, and what a run would miss.

    python -m launch.check launch/train.sbatch --config=configs/mae_demo.py --workdir=runs/demo
    python -m launch.check train.yaml

Arguments after the file are those that its command takes. Exit code 1 if something is missing; each
finding names its line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eo_jax import cli
from launch.check import dockerfile, jobset, scripts, skypilot, slurm
from launch.check.plan import COORDINATOR, Plan

MAX_BYTES = 1 << 16
# The first kind whose mark is in the file; marks are what no other kind has.
KINDS: tuple[tuple[str, Callable[[str, Sequence[str]], Plan]], ...] = (
    ("#SBATCH", slurm.plan),
    ("kind: JobSet", jobset.plan),
    ("num_nodes:", skypilot.plan),
    ("queued-resources", scripts.tpu),
    (COORDINATOR, scripts.local),
    ("ENTRYPOINT", dockerfile.plan),
)


def main() -> int:
    """Checks a file; returns 0, or 1 if it misses something."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.check",
        description="Print what a launch file would run, without running it, and what is missing.",
        epilog="example: python -m launch.check launch/train.sbatch --config=configs/mae_demo.py "
        "--workdir=runs/demo",
    )
    parser.add_argument("file", type=Path, help="batch script, YAML, shell script or Dockerfile")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="what would be given to the file"
    )
    given = parser.parse_args()
    plan = check(given.file, given.arguments)
    print(f"{given.file}: {plan.title}")
    for label, text in plan.rows:
        print(f"  {label:<12} {text}")
    for line, message in sorted(plan.findings):
        print(f"{given.file}:{line}: {message}", file=sys.stderr)
    return 1 if plan.findings else 0


def check(file: Path, arguments: Sequence[str] = ()) -> Plan:
    """The plan of a launch file. Raises ValueError if it is not one; OSError if it is not there."""
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: {file.stat().st_size} bytes; expected at most {MAX_BYTES}")
    text = file.read_text(encoding="utf-8")
    for mark, plan in KINDS:
        if mark in text:
            try:
                return plan(text, arguments)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
    marks = ", ".join(mark for mark, _ in KINDS)
    raise ValueError(f"{file} is not a launch file: it has none of {marks}")


if __name__ == "__main__":
    cli.run(main)
