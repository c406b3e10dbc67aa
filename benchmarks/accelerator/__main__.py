"""Measures training on an accelerator, the most important rows first, within a budget of time.

    python -m benchmarks.accelerator --json h200.json
    python -m benchmarks.accelerator --json h200.json --only attention_layers padded_tokens
    python -m benchmarks.accelerator --json tiny.json --miniature        # on a CPU

Each row runs in a fresh process; one that fails or takes twice its planned time says so in its
result, and the next one follows. The file is written after every row. A row that is in it already
is kept, unless it had failed: the same command continues. A row whose planned seconds do not fit in
what is left of the budget is skipped, by name. No sample data are needed; benchmarks/accelerator.sh
says how to carry the libraries to a machine without a network.

MFU is the FLOP of matrix products and convolutions in loss and gradient, without recomputation,
over the vendor's peak in bfloat16; "of products" over the best product in the first row.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator import report
from benchmarks.accelerator.processes import RowProcess
from benchmarks.accelerator.rows import EXPLORATORY, MAIN, ROWS, Row
from benchmarks.accelerator.scale import SCALES, Scale

_BUDGET_S = {"full": 540.0, "miniature": 3600.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 if a row failed or was skipped."""
    args = _parser().parse_args(arguments)
    scale = SCALES["miniature" if args.miniature else "full"]
    try:
        results = report.read(args.json, scale.name)
        chosen = _chosen(args.only)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pending = [row for row in chosen if not _is_done(results.get(row.name, {}))]

    def keep(name: str, result: dict[str, Any]) -> None:
        earlier = results.get(name)
        results[name] = earlier if earlier and "skipped" in result else result
        report.write(args.json, scale.name, report.with_ratios(results))

    with tempfile.TemporaryDirectory() as folder:
        _measure(pending, scale, args.budget or _BUDGET_S[scale.name], Path(folder), keep)
    compared = report.with_ratios(results)
    shown = {row.name: compared[row.name] for row in chosen}
    report.print_table(shown)
    return 0 if all(map(_is_done, shown.values())) else 3


def _parser() -> argparse.ArgumentParser:
    planned = "\n".join(f"  {row.name:38} {row.seconds:3} s" for row in (*MAIN, *EXPLORATORY))
    parser = argparse.ArgumentParser(
        "python -m benchmarks.accelerator",
        description=__doc__,
        epilog=f"rows, with their planned seconds on one H200:\n{planned}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, metavar="F", help="file of the results")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows, in the given order")
    parser.add_argument(
        "--budget", type=float, metavar="S", help="seconds for all rows (default: 540)"
    )
    parser.add_argument(
        "--miniature", action="store_true", help="tiny shapes, for a CPU; figures mean nothing"
    )
    return parser


def _chosen(only: Sequence[str] | None) -> list[Row]:
    """The rows of --only, or all. Raises ValueError for unknown names."""
    unknown = sorted(set(only or ()) - ROWS.keys())
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: no such row; there are {', '.join(ROWS)}")
    return [ROWS[name] for name in only or ROWS]


def _is_done(result: dict[str, Any]) -> bool:
    return bool(result.get("figures")) and not {"failed", "skipped"} & result.keys()


def _measure(
    rows: Sequence[Row],
    scale: Scale,
    budget_s: float,
    folder: Path,
    keep: Callable[[str, dict[str, Any]], None],
) -> None:
    """Measures rows in order. While one runs, the process of the next starts."""
    end = time.monotonic() + budget_s
    with contextlib.ExitStack() as started:

        def start(row: Row) -> RowProcess:
            return started.enter_context(RowProcess(row, scale.name, folder))

        following = start(rows[0]) if rows else None
        for number, row in enumerate(rows, start=1):
            process, following = following, start(rows[number]) if number < len(rows) else None
            with process:
                result = _result(process, scale, end - time.monotonic())
            about = {"settings": row.settings, "environment": row.environment}
            keep(row.name, {**about, **result})
            told = report.further(result) if {"failed", "skipped"} & result.keys() else "done"
            left = max(end - time.monotonic(), 0)
            print(f"[{number}/{len(rows)}] {row.name}: {told}; {left:.0f} s left", flush=True)


def _result(process: RowProcess, scale: Scale, left_s: float) -> dict[str, Any]:
    """The result of a row, or why it is skipped."""
    planned = process.row.seconds
    if planned > left_s:
        return {"skipped": f"planned for {planned} s, {max(left_s, 0):.0f} s are left"}
    return process.run(min(scale.patience * planned, left_s))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    sys.exit(main())
