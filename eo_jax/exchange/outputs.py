"""What an export may write: new files, and those of an earlier export in their place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from eo_jax.exchange.reading import TORCH, contract_in, contract_of

# {format: endings of its files}; the first is the usual one.
ENDINGS = {"safetensors": (".safetensors",), "pth": TORCH}


def format_of(output: Path, asked: str | None) -> str:
    """The format of an output, by its ending.

    Args:
        asked: the format that the user names, if any.

    Raises ValueError for another ending, and for one of another format than the user names.
    """
    found = next((name for name, endings in ENDINGS.items() if output.suffix in endings), None)
    if found is None or asked not in (None, found):
        what = f"--format={asked}" if asked else "an export"
        expected = ENDINGS[asked] if asked else sum(ENDINGS.values(), ())
        raise ValueError(f"--output: {output}; {what} has the ending {' or '.join(expected)}")
    return found


def check_free(paths: Iterable[Path]) -> None:
    """Raises ValueError for a file that is there and was not written by an export."""
    for path in paths:
        if os.path.lexists(path) and not _is_export(path):
            raise ValueError(
                f"{path}: exists, and is not a file of an earlier export, so it is not "
                "overwritten; move it away, or give another --output"
            )


def _is_export(path: Path) -> bool:
    try:
        found = contract_in(path) if path.suffix == ".json" else contract_of(path)
    except (ValueError, OSError):
        return False
    return found is not None
