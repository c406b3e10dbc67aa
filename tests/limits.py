"""Limits of a case of a fuzz test: seconds and memory."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

SECONDS = 20


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Makes a case that takes longer fail instead of waiting forever."""

    def late(*_: object) -> None:
        raise AssertionError(f"still reading after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    """The largest memory that this process, with all its tests so far, has had."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts the parent, too, until the process runs its program
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
