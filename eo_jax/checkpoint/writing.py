"""Changes to a folder of checkpoints; what goes wrong there is an OSError that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from eo_jax.checkpoint.saved import first_line

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax' ending of a folder that it writes
_DELETING = ".deleting"
_REASONS = {os.strerror(number): number for number in errno.errorcode}
_REMEDIES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within your quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.ENOENT: "find out what removed or unmounted the folder meanwhile",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make that folder writable"),
}


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turns any error of Orbax and tensorstore into an OSError with the path and the way out."""
    with _explained(f"{path}: checkpoint cannot be saved"):
        yield


def delete(path: Path) -> None:
    """Deletes a checkpoint. Where that is interrupted, none is left that looks damaged."""
    with _explained(f"{path}: checkpoint that no rule keeps cannot be deleted"):
        shutil.rmtree(path.rename(path.with_name(path.name + _DELETING)))


def remove_leftovers(folder: Path) -> None:
    """Removes what interrupted saves and deletions have left."""
    for path in folder.iterdir():
        if path.name.endswith((_UNFINISHED, _DELETING)):
            shutil.rmtree(path)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        remedy = _REMEDIES.get(_REASONS.get(reason), "remove the cause")
        raise OSError(f"{what} ({reason}); {remedy}, then run the same command again") from error


def _reason(error: Exception) -> str:
    """What the system says, as in "No space left on device", or else the first line."""
    line = first_line(error)
    if line.startswith("NOT_FOUND: "):  # tensorstore's word for a file that was removed meanwhile
        return os.strerror(errno.ENOENT)
    said = (error.strerror or "") if isinstance(error, OSError) else line.rpartition(": ")[2]
    return said if said in _REASONS else line
