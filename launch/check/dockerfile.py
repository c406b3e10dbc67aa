"""Checks of the Dockerfile."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from launch.check import shell
from launch.check.plan import Plan

_SECRET = re.compile(r"(?i)\b\w*(password|secret|token|credential|api_?key)\w*\s*[=:]")


def plan(text: str, arguments: Sequence[str]) -> Plan:
    """What a container of each target would run with `arguments`."""
    found = Plan("Dockerfile")
    lines = shell.statements(text)
    for stage in _stages(lines):
        name = stage[0].text.split()[-1]
        entry = shell.find(stage, r"^ENTRYPOINT\b")
        if not entry:
            continue
        found.show("target", name)
        try:
            words = json.loads(entry.text.removeprefix("ENTRYPOINT"))
        except ValueError:
            words = None
        listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
        found.expect(
            listed,
            entry.line,
            'ENTRYPOINT is not a list ["..."]: a shell between would not hand SIGTERM on',
        )
        found.show_command(
            [*(words if listed else []), *(arguments or ["ARGUMENTS"])], entry.line, arguments
        )
        _check_stage(found, stage, name)
    found.expect(found.rows, 1, "no stage has an ENTRYPOINT")
    for line in lines:
        found.expect(
            not _SECRET.search(line.text),
            line.line,
            "looks like a secret, which an image keeps for ever",
        )
    return found


def _check_stage(found: Plan, stage: Sequence[shell.Statement], name: str) -> None:
    users = [line.text.split()[1] for line in stage if line.text.startswith("USER ")]
    found.expect(
        users and users[-1] not in ("root", "0"),
        stage[0].line,
        f"target {name} has no USER other than root",
    )
    for line in stage:
        if "pip install" in line.text and "--no-deps" not in line.text:
            found.expect(
                "-c constraints.txt" in line.text,
                line.line,
                "pip install without -c constraints.txt: versions that CI has not run",
            )


def _stages(lines: Sequence[shell.Statement]) -> list[list[shell.Statement]]:
    """The statements of each stage, FROM first."""
    stages: list[list[shell.Statement]] = []
    for line in lines:
        if line.text.startswith("FROM "):
            stages.append([])
        if stages:
            stages[-1].append(line)
    return stages
