"""Stops a run that learns nothing: steps skipped in a row, batches without a valid value."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_VALID = "valid_fraction/"  # and the source: fraction of pixels in its views with any valid band


class Usefulness:
    """Sees the values of every step, in order.

    Args:
        first: the step the run starts at.
        steps: its total number.
        max_skipped: steps in a row that may be skipped.
        describe: number of a batch -> what it is, in a line.
        workdir: of the run, for the command in the message.
    """

    def __init__(
        self, first: int, steps: int, max_skipped: int, describe: Callable[[int], str], workdir: str
    ):
        self._first, self._steps, self._max_skipped = first, steps, max_skipped
        self._describe, self._workdir, self._skipped = describe, workdir, 0

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
        self._skipped = self._skipped + 1 if values["skipped"] else 0
        none_learned = step == self._steps == self._skipped and not self._first
        if self._skipped > self._max_skipped or none_learned:
            raise ValueError(
                f"step {step}: {self._skipped} steps in a row changed nothing "
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
