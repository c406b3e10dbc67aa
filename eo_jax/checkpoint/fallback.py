"""A run resumes from its newest checkpoint that is intact, or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from eo_jax.checkpoint.saved import DamagedError, Saved
from eo_jax.checkpoint.workdir import Checkpoints

T = TypeVar("T")


def restored(checkpoints: Checkpoints, restore: Callable[[Saved], T]) -> tuple[T | None, list[str]]:
    """(what `restore` makes of the newest intact checkpoint, None where there is none; a line on
    each damaged one that was renamed, see `set_damaged_aside`).

    One process restores, and goes back where that finds damage. In several, a part that is damaged
    would be an error in the one that reads it, and restoring is a collective for the others.
    """
    if jax.process_count() == 1:
        return _newest_intact(_newest_first(checkpoints), restore)
    lines = set_damaged_aside(checkpoints)
    newest = _newest_first(checkpoints)[:1]
    return (restore(newest[0]) if newest else None), lines


def set_damaged_aside(checkpoints: Checkpoints) -> list[str]:
    """Reads the newest checkpoint, every array of it; where it is damaged, the one before, and so
    on. Renames the damaged ones to STEP.damaged, so that the intact one is the newest.

    With several processes the first does this, and all have to call it; an error is raised in the
    first alone, whose end is that of the others.

    Returns:
        A line on each that was renamed; in the first process alone.

    Raises:
        OSError: there are checkpoints, but none is intact.
    """
    lines: list[str] = []
    if jax.process_index() == 0:
        _, lines = _newest_intact(_newest_first(checkpoints), _read)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
    return lines


def _newest_first(checkpoints: Checkpoints) -> list[Saved]:
    return [checkpoints.at(step) for step in reversed(checkpoints.steps())]


def _newest_intact(
    newest_first: Iterable[Saved], read: Callable[[Saved], T]
) -> tuple[T | None, list[str]]:
    """(what the first `read` without a DamagedError returns, the lines); (None, []) of none."""
    damaged: dict[Path, str] = {}
    for saved in newest_first:
        try:
            found = read(saved)
        except DamagedError as error:
            damaged[saved.folder] = error.reason
            continue
        return found, [_rename(folder, why, saved.step) for folder, why in damaged.items()]
    if damaged:
        listing = "\n".join(f"  {folder}: {problem}" for folder, problem in damaged.items())
        raise OSError(
            f"there are checkpoints, but none is intact:\n{listing}\nCopy one back from elsewhere, "
            "or start again with another --workdir."
        )
    return None, []


def _read(saved: Saved) -> None:
    for path in saved.manifest.leaves:
        saved.array(path)


def _rename(folder: Path, problem: str, step: int) -> str:
    names = itertools.chain(
        [f"{folder.name}.damaged"], (f"{folder.name}.damaged-{n}" for n in itertools.count(2))
    )
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    folder.rename(aside)
    return (
        f"checkpoint {folder.name} is damaged ({problem}) and now called {aside}; resuming from "
        f"checkpoint {step}"
    )
