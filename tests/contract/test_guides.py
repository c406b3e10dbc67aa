"""The guides of docs/contributing.md, followed to the letter in a copy of the repository: their
listings are written, and their commands are run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from eo_jax.monitor.writers import read_metrics

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "contributing.md").read_text()
# {title: text} of the sections "Add a ..."
GUIDES = dict(re.findall(r"^## Add an? (\w+)\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL))
_LISTING = re.compile(
    r"^(?P<where>New file|At the end of|In) `(?P<file>[\w./]+)`"
    r"(?:, below the line that starts with `(?P<anchor>[^\n]+)`)?[^`\n]*:\n\n"
    r"```\w*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Listing(NamedTuple):
    """A listing of a guide, and where it goes: a new file, the end of one, or below a line."""

    where: str
    file: str
    anchor: str | None
    text: str

    def applied(self, root: Path) -> str:
        """The contents of the file with the listing."""
        path = root / self.file
        assert path.exists() == (self.where != "New file"), self.file
        if self.where == "New file":
            return self.text
        if self.where == "At the end of":
            return f"{path.read_text()}\n{self.text}"
        lines = path.read_text().splitlines(keepends=True)
        (above,) = [i for i, line in enumerate(lines) if line.startswith(self.anchor)]
        return "".join([*lines[: above + 1], self.text, *lines[above + 1 :]])


def listings(guide: str) -> list[Listing]:
    found = [Listing(**match.groupdict()) for match in _LISTING.finditer(GUIDES[guide])]
    assert len(found) + len(_COMMANDS.findall(GUIDES[guide])) == GUIDES[guide].count("```") // 2
    return found


def commands(guide: str) -> list[list[str]]:
    return [
        shlex.split(line) for text in _COMMANDS.findall(GUIDES[guide]) for line in text.splitlines()
    ]


def test_there_is_a_guide_for_everything_that_a_folder_lists() -> None:
    assert set(GUIDES) == {"objective", "stem", "sensor", "archive", "evaluator"}


@pytest.mark.parametrize("guide", GUIDES)
def test_listings_fit_into_the_repository(guide: str) -> None:
    assert listings(guide)
    for listing in listings(guide):
        contents = listing.applied(ROOT)
        if listing.file.endswith(".py"):
            compile(contents, listing.file, "exec")
            assert max(map(len, listing.text.splitlines())) <= 100
        if listing.file.endswith(".json"):
            json.loads(contents)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the repository."""
    made = shutil.ignore_patterns(".*", "__pycache__", "runs", "stores", "archives")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=made))


@pytest.fixture
def demo_store(repository: Path) -> None:
    """A small store in place of that of `make demo`."""
    from tiny_store import write_tiny_store

    write_tiny_store(repository / "stores" / "demo")


@pytest.mark.slow
def test_the_guide_of_an_objective_is_enough(repository: Path, sample_data: Path) -> None:
    follow(repository, "objective", sample_data)
    changed = subprocess.run(
        ["diff", "-rq", ROOT / "tests" / "golden", repository / "tests" / "golden"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert all("Only in" in line and "toy_eurosat" in line for line in changed.splitlines()), (
        changed
    )
    resume = [
        f"tests/contract/test_objectives.py::test_resume_is_bit_exact[toy-{backbone}]"
        for backbone in ("vit", "resnet")
    ]
    slow = [
        *resume,
        "tests/contract/test_published_commands.py::test_from_archive_to_weights[toy_eurosat]",
    ]
    out = run(repository, ["python", "-m", "pytest", "-m", "slow", *slow], sample_data)
    assert f"{len(slow)} passed" in out


@pytest.mark.slow
def test_the_guide_of_a_stem_is_enough(repository: Path, demo_store: None) -> None:
    tests, _ = follow(repository, "stem")
    assert passed(tests) == 1
    lines = read_metrics(repository / "runs" / "mean_spectrum")
    assert len([line for line in lines if "loss" in line]) >= 4


@pytest.mark.slow
def test_the_guide_of_a_sensor_is_enough(repository: Path) -> None:
    title, tests = follow(repository, "sensor")
    assert title == "Drone camera, three bands\n"
    assert passed(tests) > 50


@pytest.mark.slow
def test_the_guide_of_an_archive_is_enough(repository: Path) -> None:
    help_text, tests = follow(repository, "archive")
    assert "<root>/<crop>/<field>.tif" in help_text
    assert passed(tests) >= 3


@pytest.mark.slow
def test_the_guide_of_an_evaluator_is_enough(repository: Path, demo_store: None) -> None:
    tests, *_ = follow(repository, "evaluator")
    assert passed(tests) == 2
    workdir = repository / "runs" / "uniformity"
    scores = [line for line in read_metrics(workdir) if "eval/uniformity/uniformity" in line]
    assert [line["step"] for line in scores] == [2, 4]
    assert "Uniformity" in (workdir / "report.html").read_text()


def follow(repository: Path, guide: str, sample_data: Path | None = None) -> list[str]:
    """Writes the listings of a guide and runs its commands; their output, one by one."""
    for listing in listings(guide):
        contents = listing.applied(repository)
        (repository / listing.file).write_text(contents)
    return [run(repository, command, sample_data) for command in commands(guide)]


def run(repository: Path, command: list[str], sample_data: Path | None = None) -> str:
    """The output of a Python command in the copy; fails with the command."""
    python, *arguments = command
    assert python == "python"
    environment = os.environ | {"PYTHONPATH": str(repository)}
    if sample_data:
        environment |= {"EO_JAX_SAMPLE_DATA": str(sample_data.resolve())}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def passed(output: str) -> int:
    """The number of tests that passed, of pytest's last line."""
    return int(re.search(r"(\d+) passed", output)[1])
