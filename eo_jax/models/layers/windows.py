"""Windows of pixels: pixel encoders make one feature of each."""

from __future__ import annotations

_LARGEST = 15


def check_window(window: int) -> None:
    """Raises ValueError unless `config.model.trunk.window` is odd and not too large."""
    if window % 2 == 0 or not 1 <= window <= _LARGEST:
        raise ValueError(
            f"config.model.trunk.window: {window}; expected an odd number of pixels from 1 to "
            f"{_LARGEST}"
        )


def check_divides(window: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless a view [b, h, w, c] consists of whole windows."""
    if shape[1] % window or shape[2] % window:
        raise ValueError(
            f"config.model.trunk.window: {window}, but a view has {shape[1]} x {shape[2]} pixels; "
            "expected a multiple of the window on both sides"
        )
