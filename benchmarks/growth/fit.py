"""How a cost grows with work: the exponent of a power law, and slopes between neighbouring sizes.

A cost with a fixed part and a part in proportion to work has a slope that rises to 1; only a
superlinear one has a slope above 1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Growth:
    """Slopes of log(cost) over log(work): 1 is proportional, 2 is quadratic.

    Attributes:
        exponent: of the power law, by least squares.
        largest: slope between two neighbouring sizes.
        last: slope between the two largest sizes.
    """

    exponent: float
    largest: float
    last: float


def growth(work: Sequence[float], cost: Sequence[float]) -> Growth:
    """The growth of costs at ascending sizes of work.

    Raises ValueError for fewer than two sizes, sizes that do not ascend, or a cost that is not
    positive.
    """
    if len(work) != len(cost) or len(work) < 2:
        raise ValueError(f"{len(work)} sizes and {len(cost)} costs; expected two of each, or more")
    if any(after <= before for before, after in itertools.pairwise((0, *work))):
        raise ValueError(f"sizes {list(work)}; expected positive ones in ascending order")
    if min(cost) <= 0:
        raise ValueError(f"costs {list(cost)}; expected positive ones")
    x, y = np.log(work), np.log(cost)
    slopes = np.diff(y) / np.diff(x)
    centred = x - x.mean()
    exponent = centred @ y / (centred @ centred)
    return Growth(float(exponent), float(slopes.max()), float(slopes[-1]))
