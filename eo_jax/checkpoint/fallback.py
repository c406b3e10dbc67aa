"""A run resumes from its newest checkpoint that is intact, or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from eo_jax.checkpoint.saved import DamagedError, Saved
from eo_jax.checkpoint.workdir import Checkpoints


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
    lines = []
    if jax.process_index() == 0:
        lines = _set_aside(reversed([checkpoints.at(step) for step in checkpoints.steps()]))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
    return lines


def _set_aside(newest_first: Iterable[Saved]) -> list[str]:
    damaged = {}
    for saved in newest_first:
        problem = first_problem(saved)
        if not problem:
            return [_rename(folder, reason, saved.step) for folder, reason in damaged.items()]
        damaged[saved.folder] = problem
    if damaged:
        listing = "\n".join(f"  {folder}: {problem}" for folder, problem in damaged.items())
        raise OSError(
            f"there are checkpoints, but none is intact:\n{listing}\nCopy one back from elsewhere, "
            "or start again with another --workdir."
        )
    return []


def first_problem(saved: Saved) -> str:
    """What is wrong with a checkpoint; "" where every array and the manifest are as saved."""
    try:
        return next(filter(None, saved.problems()), "")
    except DamagedError as error:
        return error.reason


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
