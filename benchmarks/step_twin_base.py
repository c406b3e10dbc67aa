"""The base of the PyTorch twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Twin(nn.Module):
    """An objective: `forward(*inputs)` is its loss."""

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """The arguments of `forward`, from views [b, v, H, W, c] and noise. This is not timed, so
        each twin may choose its memory layout.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after the optimizer."""


def bands_first(views: Tensor, encoder: nn.Module) -> Tensor:
    """[b, H, W, c] -> [b, c, H, W], in the encoder's memory layout."""
    return views.movedim(-1, 1).contiguous(memory_format=encoder.layout)


def ema_(teacher: nn.Module, students: Sequence[nn.Module], momentum: float) -> None:
    """momentum teacher + (1 - momentum) student."""
    torch._foreach_lerp_(
        list(teacher.parameters()),
        [p for student in students for p in student.parameters()],
        1 - momentum,
    )
