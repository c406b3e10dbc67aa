"""A compiled step that says what changed where it would have to be compiled again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from eo_jax import rules

_SHOWN = 8


class FixedStep:
    """A compiled (state, batch) -> (state, metrics) for arguments of one kind.

    A jitted function would compile again, silently and at every such step, where a shape or a type
    changes; this raises a ValueError that names the leaves that did.

    Args:
        compiled: for a state and a batch such as these, of which shapes suffice.

    Attributes:
        compiled: the same.
    """

    def __init__(self, compiled: jax.stages.Compiled, state: Any, batch: Any):
        self.compiled = compiled
        self._expected = _described((state, batch))

    def __call__(self, state: Any, batch: Any) -> Any:
        """One step; the state is donated."""
        try:
            return self.compiled(state, batch)
        except (TypeError, ValueError) as error:
            changed = list(_changes(self._expected, _described((state, batch))))
            if not changed:
                raise
            listing = "\n".join(changed[:_SHOWN])
            more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise ValueError(
                "the step would have to be compiled again, since its arguments are not those that "
                f"it was compiled for:\n{listing}{more}"
            ) from error


def _described(arguments: tuple[Any, Any]) -> dict[str, str]:
    """{"batch/enmap/pixels": "int16[8,1,202,128,128]"}; typed keys count as arrays."""
    state, batch = arguments
    return {
        path: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in rules.paths({"state": state, "batch": batch})
    }


def _changes(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for path in sorted(before | now):
        if before.get(path) != now.get(path):
            yield f"  {path}: {before.get(path, 'absent')} -> {now.get(path, 'absent')}"
