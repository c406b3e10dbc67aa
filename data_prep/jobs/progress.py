"""Shows progress on stderr: a bar on a terminal, a plain line every five seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

LINE_EVERY_S = 5.0

Advance = Callable[[int, int], None]


@contextlib.contextmanager
def show(title: str, total: int, unit: str = "samples") -> Iterator[Advance]:
    """Yields a function to call with (units, bytes) newly completed; `total` is in units."""
    style = _bar if sys.stderr.isatty() else _lines
    with style(title, total, unit) as advance:
        yield advance


@contextlib.contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        rich.progress.TextColumn(title),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(f"{unit}  {{task.fields[rate]}}"),
        rich.progress.TimeRemainingColumn(),
    )
    start, done, read = time.monotonic(), 0, 0
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(units: int, size: int) -> None:
            nonlocal done, read
            done, read = done + units, read + size
            bar.update(task, completed=done, rate=_rate(done, read, time.monotonic() - start))

        yield advance


@contextlib.contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = read = 0

    def advance(units: int, size: int) -> None:
        nonlocal done, read, last
        done, read, now = done + units, read + size, time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            left = (total - done) * (now - start) / max(done, 1)
            print(
                f"{title}: {done}/{total} {unit}, {_rate(done, read, now - start)}, {left:.0f} s "
                "left",
                file=sys.stderr,
                flush=True,
            )

    yield advance


def _rate(done: int, read: int, seconds: float) -> str:
    seconds = max(seconds, 1e-9)
    return f"{done / seconds:.1f}/s, {read / seconds / 1e6:.1f} MB/s"
