"""The contributor guide in docs/objectives.md, followed to the letter in a copy of the repository:
its file, its config, its line of a test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "objectives.md").read_text().split("## A new objective\n")[1]
# A file name in backticks, then what belongs into that file, indented.
LISTINGS = {
    file: textwrap.dedent(text)
    for file, text in re.findall(r"`([\w/]+\.py)`[^`]*?:\n\n((?:    .*\n|\n)+)", GUIDE)
}
TESTED = "tests/tiny_objectives.py"


def test_the_guide_has_one_file_one_config_and_one_line_of_a_test() -> None:
    assert set(LISTINGS) == {"eo_jax/objectives/toy.py", "configs/toy_eurosat.py", TESTED}
    assert len(LISTINGS[TESTED].strip().splitlines()) == 1
    for file, text in LISTINGS.items():
        compile(text, file, "exec")


@pytest.mark.slow
def test_what_the_guide_says_is_enough(sample_data: Path, tmp_path: Path) -> None:
    made = shutil.ignore_patterns(".*", "__pycache__", "runs", "stores", "archives")
    shutil.copytree(ROOT, tmp_path, ignore=made, dirs_exist_ok=True)
    for file, text in LISTINGS.items():
        assert file == TESTED or not (tmp_path / file).exists()
        with (tmp_path / file).open("a") as opened:
            opened.write(text)

    run(tmp_path, sample_data, "-m", "tests.golden_text")
    changed = subprocess.run(
        ["diff", "-rq", ROOT / "tests" / "golden", tmp_path / "tests" / "golden"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert all("Only in" in line and "toy_eurosat" in line for line in changed.splitlines()), (
        changed
    )
    pytest_ = ("-m", "pytest", "-p", "no:cacheprovider")
    run(tmp_path, sample_data, *pytest_, "tests", "-k", "toy_eurosat or [toy- or [toy]")
    resume = [
        f"tests/test_objectives.py::test_resume_is_bit_exact[toy-{backbone}]"
        for backbone in ("vit", "resnet")
    ]
    slow = [*resume, "tests/test_published_commands.py::test_from_archive_to_weights[toy_eurosat]"]
    assert f"{len(slow)} passed" in run(tmp_path, sample_data, *pytest_, "-m", "slow", *slow)


def run(folder: Path, sample_data: Path, *arguments: str) -> str:
    """What Python prints in that copy; fails with it."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "EO_JAX_SAMPLE_DATA": str(sample_data.resolve()),
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout
