"""What the PyTorch twins of all objectives start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Twin(nn.Module):
    """An objective: `forward(*inputs)` is its loss."""

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """What `forward` takes, made of views [b, v, H, W, c] and noise; not measured, so each twin
        has the layout that suits it.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """Follows the optimizer."""


def bands_first(views: Tensor, encoder: nn.Module) -> Tensor:
    """[b, H, W, c] -> [b, c, H, W], laid out in memory as the encoder is."""
    return views.movedim(-1, 1).contiguous(memory_format=encoder.layout)


def ema_(teacher: nn.Module, students: Sequence[nn.Module], momentum: float) -> None:
    """momentum teacher + (1 - momentum) student."""
    torch._foreach_lerp_(
        list(teacher.parameters()),
        [p for student in students for p in student.parameters()],
        1 - momentum,
    )
