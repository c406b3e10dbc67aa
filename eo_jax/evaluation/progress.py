"""What a long part of an evaluation shows while it runs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.progress import track


def epochs(title: str, count: int) -> Iterator[int]:
    """1 to `count`, with a bar and the time left on a terminal's standard error."""
    console = Console(stderr=True)
    return track(
        range(1, count + 1),
        description=title,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
