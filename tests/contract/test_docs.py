"""Tests, readers and figures named in the documents exist, and tables list all of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks import objectives
from data_prep import readers

ROOT = Path(__file__).parents[2]
ARCHIVES = (ROOT / "docs" / "archives.md").read_text()
QUIRKS = re.findall(r"^\| (.+) \| `(test_\w+\.py)::(test_\w+)` \|$", ARCHIVES, re.MULTILINE)


def functions_of(file: str) -> set[str]:
    """Names of the test functions of a file."""
    (path,) = (ROOT / "tests").rglob(file)
    return {
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize(("quirk", "file", "name"), QUIRKS, ids=[name for _, _, name in QUIRKS])
def test_every_quirk_has_its_test(quirk: str, file: str, name: str) -> None:
    assert name in functions_of(file), quirk


def test_the_table_of_quirks_is_read() -> None:
    assert len(QUIRKS) == ARCHIVES.count("`test_") >= 45


def test_every_reader_is_in_the_table_of_archives() -> None:
    commands = {
        match.split()[0] for match in re.findall(r"^\|[^|]+\| `([^`]+)` \|", ARCHIVES, re.MULTILINE)
    }
    assert set(readers.names()) <= commands


def test_the_table_of_objectives_shows_what_the_benchmark_wrote() -> None:
    written = json.loads((ROOT / "benchmarks" / "results" / "cpu" / "objectives.json").read_text())
    lines = (ROOT / "docs" / "objectives.md").read_text().splitlines()
    shown = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if re.match(r"\| \w+ \| (vit|resnet) \|", line)
    ]
    assert (
        shown == [objectives.cells(row) for row in written]
        and len(shown) == 2 * len({row[0] for row in shown}) >= 30
    )
    assert not [line for row in written for line in objectives.missed(row)]
