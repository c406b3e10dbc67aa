"""Stops a run that learns nothing: steps skipped in a row, batches without a valid value.

Steps of a mixture component are counted among those of that component: its losses become spikes,
or its records are wrong, whatever the steps of others in between do.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Mapping

_VALID = "valid_fraction/"  # and the source: fraction of pixels in its views with any valid band


class Usefulness:
    """Sees the values of every step, in order.

    Args:
        steps: their total number.
        max_skipped: steps of a component in a row that may be skipped.
        component: number of a batch -> the mixture component that it is of.
        describe: number of a batch -> what it is, in a line.
        workdir: of the run, for the command in the message.
    """

    def __init__(
        self,
        steps: int,
        max_skipped: int,
        component: Callable[[int], str],
        describe: Callable[[int], str],
        workdir: str,
    ):
        self._steps, self._max_skipped, self._component = steps, max_skipped, component
        self._describe, self._workdir = describe, workdir
        self._in_a_row = collections.Counter[str]()

    def resume(self, first: int, skipped: Collection[int]) -> None:
        """Counts on from the steps up to `first`, of which these were skipped: a run that is
        stopped often is the run that is not.
        """
        before = frozenset(skipped)
        for step in range(min(before, default=first + 1), first + 1):
            self._count(step, step in before)

    def _count(self, step: int, skipped: bool) -> int:
        """How many steps of its component in a row were skipped with this one."""
        component = self._component(step - 1)
        self._in_a_row[component] = self._in_a_row[component] + 1 if skipped else 0
        return self._in_a_row[component]

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Raises ValueError after the last of too many skipped steps, or of a run that skipped all
        of its steps, and after a step on a batch without a valid value.
        """
        for name, fraction in values.items():
            if name.startswith(_VALID) and not fraction:
                raise ValueError(
                    f"step {step}: no view of source {name.removeprefix(_VALID)!r} has a valid "
                    f"value, so nothing can be learned; {self._about(step)}. Leave out such "
                    "samples: python -m data_prep subset --max-nodata 0.9 ..."
                )
        in_a_row = self._count(step, bool(values["skipped"]))
        none_learned = step == self._steps == self._in_a_row.total()
        if in_a_row > self._max_skipped or none_learned:
            raise ValueError(
                f"step {step}: {in_a_row} steps in a row changed nothing "
                f"(config.run.max_skipped: {self._max_skipped}), because {_reason(values)}. The "
                f"last was on {self._about(step)}. Lower config.optim.lr in a new --workdir, or "
                "leave out samples with wrong values"
            )

    def _about(self, step: int) -> str:
        return (
            f"{self._describe(step - 1)}; look at it with python -m eo_jax.replay "
            f"--workdir={self._workdir} --step={step}"
        )


def _reason(values: Mapping[str, float]) -> str:
    if values.get("spike"):
        return "their losses were spikes"
    loss, norm = values["loss"], values["grad_norm"]
    return f"loss ({loss:g}), gradient (norm {norm:g}) or carry was not finite"
