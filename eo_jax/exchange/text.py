"""Lists in generated text."""

from __future__ import annotations

from collections.abc import Sequence

_COLUMNS = 92


def python_list(values: Sequence[float | str], indent: int) -> str:
    """A list as Python code, over several lines where it is long; those after the first are
    indented.
    """
    lines, pad = [""], " " * indent
    for item in map(repr, values):
        if lines[-1] and len(lines[-1]) + len(item) > _COLUMNS - indent:
            lines.append("")
        lines[-1] += f"{item}, "
    if len(lines) == 1:
        return f"[{lines[0].removesuffix(', ')}]"
    return "\n".join(["[", *(f"{pad}    {line.rstrip()}" for line in lines), f"{pad}]"])
