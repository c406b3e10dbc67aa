"""Shell scripts as text: they are read, never run."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from launch.check.plan import Plan

_DEFAULT = re.compile(r'(\w+)(?::=|="\$\{\w+:-)([^}"]*)\}')
_REST = ("$@", "${arguments[@]}")


@dataclasses.dataclass(frozen=True)
class Statement:
    """Lines that a backslash joins, outside comments.

    Attributes:
        line: number of the first one.
        text: without the backslashes.
    """

    line: int
    text: str


def statements(text: str) -> list[Statement]:
    """The statements of a script, without comments and empty lines."""
    found, start, parts = [], 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if not parts:
            start = number
        if not parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.endswith("\\"):
            found.append(Statement(start, " ".join(parts)))
            parts = []
    return found


def find(lines: Sequence[Statement], pattern: str) -> Statement | None:
    """The first statement in which the regular expression occurs."""
    return next((line for line in lines if re.search(pattern, line.text)), None)


def defaults(text: str) -> dict[str, str]:
    """{variable: its default} of `: "${NAME:=value}"` and `NAME="${NAME:-value}"`."""
    return dict(_DEFAULT.findall(text))


def words(command: str, values: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The words of a simple command, with known variables replaced and `arguments` for "$@".

    Redirections and what follows `||`, `&&`, `;`, `|` or `&` are left out. Without arguments, "$@"
    is shown as ARGUMENTS. Raises ValueError if the command cannot be split.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        split = list(lexer)
    except ValueError as error:
        raise ValueError(f"{error} in: {command}") from error
    found = []
    for word in split:
        if set(word) <= set("|&;<>"):
            break
        if word in _REST:
            found += arguments or ["ARGUMENTS"]
        else:
            found.append(re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), word))
    return found


def check_script(plan: Plan, text: str, line: int = 1) -> None:
    """Adds a finding for a script that goes on after an error.

    `line` is where the script starts in its file. Raises ValueError if the script does not parse.
    """
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    if found := re.search(r"line (\d+): (.*)", parsed.stderr):
        raise ValueError(f"line {int(found[1]) + line - 1}: {found[2]}")
    plan.expect(
        find(statements(text), r"^set -euo pipefail"),
        line,
        "no `set -euo pipefail`: the script would go on after an error",
    )
