"""Measures how costs grow with work, and names what is superlinear.

    nice python -m benchmarks.growth --json /tmp/growth.json

Train step (MAE, one block of ViT-Ti, two samples): FLOP, bytes and temporary memory of the compiled
step by XLA's own count, which is exact, and CPU time, against bands, tokens and pixels. Host: the
index of up to ten million records, all shards of which are one file (`benchmarks.opening`), sources
and mixtures, bad records, and the end of a conversion. Each size has a process of its own; times
are CPU times, the least of a few repeats.

A power law is fitted to each figure. Where its exponent, or the slope between the two largest
sizes, is above 1 by more than a tolerance, the figure counts as superlinear, and
`benchmarks/growth/axes.py` has to name the cause. The exit code is 3 if one has none.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import step
from benchmarks.growth.axes import AXES, Axis
from benchmarks.growth.fit import growth
from benchmarks.opening import in_new_process
from eo_jax.data.store.files import write_atomically

# A slope above 1 by more than this is superlinear: counts are exact, times are not.
_TOLERANCE, _TOLERANCE_OF_TIMES = 0.02, 0.2
_LEAST = {"_s": 1e-7, "_mb": 1.0}  # below that, a cost is as good as none


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 where a superlinear figure has no cause."""
    args = _parser().parse_args(arguments)
    unknown = [name for name in args.only or () if name not in AXES]
    if unknown:
        print(f"error: --only {unknown[0]!r}: expected one of {', '.join(AXES)}", file=sys.stderr)
        return 1
    results = _earlier(args.json) if args.only else {}
    for name in args.only or AXES:
        axis = AXES[name]
        sizes = [size for size in axis.sizes if axis.work(size) <= args.most]
        results[name] = measured(axis, sizes, args.work)
        _print(name, results[name])
        if args.json:
            about = {**step.environment(), "axes": results}
            write_atomically(args.json, (json.dumps(about, indent=1) + "\n").encode())
    figures = [figure for name in args.only or AXES for figure in results[name]["figures"].values()]
    return 3 if any(figure.get("cause") == "" for figure in figures) else 0


def _earlier(path: Path | None) -> dict[str, Any]:
    """The axes in a file of results, {} without one."""
    return json.loads(path.read_bytes())["axes"] if path and path.exists() else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="F", help="file of the results")
    parser.add_argument(
        "--only", nargs="+", metavar="AXIS", help="these axes; the file keeps its others"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=10_000_000,
        metavar="N",
        help="leave out sizes with more work than this (default: 10000000)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="where to create a folder of 3 GB, removed at the end (default: the system's)",
    )
    return parser


def measured(axis: Axis, sizes: Sequence[int], where: Path | None) -> dict[str, Any]:
    """{"unit", "work", "figures": {figure: {"values", "exponent", ..., "cause"}}}; "cause" is there
    where growth is superlinear, "" if no cause is known.
    """
    costs = [_measured(axis, size, where) for size in sizes]
    work = [axis.work(size) for size in sizes]
    figures = {name: _figure(axis, name, work, [cost[name] for cost in costs]) for name in costs[0]}
    return {"unit": axis.unit, "work": work, "figures": figures}


def _measured(axis: Axis, size: int, where: Path | None) -> dict[str, float]:
    """The figures of one size, from a fresh process."""
    with tempfile.TemporaryDirectory(prefix="growth-", dir=where) as folder:
        axis.prepare(Path(folder), size)
        return in_new_process(axis.measure, Path(folder), size)


def _figure(axis: Axis, name: str, work: list[int], values: list[float]) -> dict[str, Any]:
    least = next((least for end, least in _LEAST.items() if name.endswith(end)), 0.0)
    found = growth(work, [max(value, least) for value in values])
    tolerance = _TOLERANCE_OF_TIMES if name.endswith(tuple(_LEAST)) else _TOLERANCE
    figure = {"values": values, **dataclasses.asdict(found)}
    if max(found.exponent, found.last) <= 1 + tolerance:
        return figure
    return figure | {"cause": _cause(axis.causes, name)}


def _cause(causes: Mapping[str, str], name: str) -> str:
    return next((cause for end, cause in causes.items() if name.endswith(end)), "")


def _print(name: str, result: Mapping[str, Any]) -> None:
    Console(width=150).print(_table(name, result))
    for line in _causes(result):
        print(f"  {line}")
    sys.stdout.flush()


def _table(name: str, result: Mapping[str, Any]) -> Table:
    sizes = [f"{work:,}" for work in result["work"]]
    table = Table("", *sizes, "exponent", "largest slope", "last slope", "", title=name)
    for figure, found in result["figures"].items():
        slopes = [f"{found[slope]:.2f}" for slope in ("exponent", "largest", "last")]
        verdict = "superlinear" if "cause" in found else ""
        table.add_row(figure, *(f"{value:.3g}" for value in found["values"]), *slopes, verdict)
    return table


def _causes(result: Mapping[str, Any]) -> Iterator[str]:
    for name, figure in result["figures"].items():
        if "cause" in figure:
            yield f"{name}: {figure['cause'] or 'superlinear, CAUSE NOT KNOWN'}"


if __name__ == "__main__":
    sys.exit(main())
