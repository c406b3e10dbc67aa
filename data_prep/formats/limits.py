"""The options --max-cloud and --max-nodata: which samples are left out and counted."""

from __future__ import annotations

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.reader import SkipSample

_OPTIONS = {"cloud": "--max-cloud", "pixels without data": "--max-nodata"}


def check_fractions(**options: float) -> None:
    """Raises ArchiveError for an option, named as its field, that is not a fraction."""
    for field, fraction in options.items():
        if not 0 <= fraction <= 1:
            name = f"--{field.replace('_', '-')}"
            raise ArchiveError(name, f"is {fraction:g}, expected a fraction from 0 to 1")


def skip_above(what: str, where: np.ndarray, limit: float) -> None:
    """Raises SkipSample where more than `limit` of a patch is `what`, one of _OPTIONS."""
    if where.mean() > limit:
        raise SkipSample(
            f"more than {limit:.4g} of the patch is {what} ({_OPTIONS[what]})"
            if limit
            else f"has {what} ({_OPTIONS[what]})"
        )
