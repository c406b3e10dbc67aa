"""Tests, readers and figures named in the documents exist, and tables list all of them."""

from __future__ import annotations

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks import objectives
from data_prep import readers
from eo_jax import export, import_torch
from eo_jax.embed import __main__ as embed

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


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


EXPORT, EMBED = options_of(export._parser()), options_of(embed.parser())
IMPORT = {f"--{name}" for name in import_torch._FLAGS} | {"--config"}
# The options that a section of the guide, or the messages of a folder, may name.
SECTIONS = {
    "With the head": EXPORT,
    "Continue from published weights": IMPORT | {"--help"},
    "Features for GeoTIFFs": EMBED,
    "Layouts": EXPORT | {"--prefix"},
    "Publish": EXPORT,
}
FOLDERS = {
    "eo_jax/exchange": EXPORT | IMPORT,
    "eo_jax/embed": EMBED | {"--sensor"},  # of `convert`, which is said there
}


def named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("title", SECTIONS)
def test_the_guide_of_weights_names_options_that_there_are(title: str) -> None:
    text = (ROOT / "docs" / "weights.md").read_text()
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert named(section) <= SECTIONS[title]


@pytest.mark.parametrize("folder", FOLDERS)
def test_messages_name_options_that_there_are(folder: str) -> None:
    constants = [
        node.value
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = named("\n".join(constants))
    assert found and found <= FOLDERS[folder]
