"""A tensor that is made when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A tensor that is made when it is written.

    Attributes:
        shape, dtype: of the array.
        make: gives it.
    """

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
