"""A full disk, in a regular save and in the last one, and a workdir that cannot be written: one
line, exit code 1, and nothing lost that was saved. On real file systems, where the machine allows
to mount some.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import golden_text
import pytest
import small_disk

NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
def happens(tiny_store, tmp_path):
    """What `small_disk` says of a case."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a file system")

    folder = tmp_path / "disk"
    folder.mkdir()

    def ask(*what: object) -> dict:
        command = [*NAMESPACE, sys.executable, small_disk.__file__, tiny_store, folder, *what]
        path = os.pathsep.join((str(golden_text.ROOT), str(golden_text.ROOT / "tests")))
        done = subprocess.run(
            list(map(str, command)),
            cwd=golden_text.ROOT,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "at", "before"), [("regular", 4, ["2"]), ("final", 6, ["2", "4"])]
)
def test_a_disk_that_is_full_at_a_save_ends_the_run_and_once_it_is_not_nothing_is_lost(
    happens, what, at, before
):
    found = happens(what)
    error = found["full"]["error"]
    assert found["full"]["code"] == 1 and len(error.splitlines()) == 1
    assert f"checkpoints/{at}: checkpoint cannot be saved (" in error
    assert "No space left on device" in error
    assert error.endswith("free space on that disk, then run the same command again")
    assert found["saved"] == dict.fromkeys(before, True)
    assert found["again"] == {"code": 0, "error": ""} and found["same"]


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written_is_refused_before_the_first_step_but_read(happens):
    found = happens("readonly")
    for case, name in (("resumed", "run/config.json"), ("fresh", "other")):
        error = found[case]["error"]
        assert found[case]["code"] == 1 and len(error.splitlines()) == 1
        assert "Read-only file system: cannot be written" in error and name in error
    assert found["saved"] == {"4": True, "6": True} and found["loaded"] == 6


SAVE = r"checkpoints/{at}: checkpoint cannot be saved "
FULL = SAVE + r"\(No space left on device\); free space on that disk"
LOG = r"No space left on device: cannot be written; free space on that disk"
READ_ONLY = SAVE + r"\(Read-only file system\); make that folder writable"
REMOVED = SAVE + r"\(No such file or directory\); find out what removed"
AGAIN = "then run the same command again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "at", "cause", "saved"),
    [
        ("full", 5, f"{FULL}|{LOG}", []),  # whichever is written first
        ("full", 12, FULL, ["5", "10"]),
        ("readonly", 10, READ_ONLY, ["5"]),
    ],
)
def test_a_save_that_fails_is_the_only_line_and_exit_code_1(happens, fault, at, cause, saved):
    found = happens(fault, at, 1)
    (output,) = found["outputs"]
    said = [line for line in output.splitlines() if not line.startswith(("mae: ", "step "))]
    assert found["codes"] == [1] and len(said) == 1, output
    assert said[0].startswith("error: ") and AGAIN in said[0]
    assert re.search(cause.format(at=at), said[0])
    assert found["saved"] == dict.fromkeys(saved, True)
    assert found.get("again", [0]) == [0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "at", "cause", "saved"),
    [
        ("full", 12, FULL, ["5", "10"]),
        ("readonly", 10, READ_ONLY, ["5"]),
        ("removed", 10, REMOVED, []),
        ("gone", 10, REMOVED, []),
    ],
)
def test_a_save_that_fails_in_one_process_ends_both_with_its_cause(
    happens, fault, at, cause, saved
):
    found = happens(fault, at, 2)
    assert sorted(found["codes"]) in ([1, 1], [1, 75]), found["outputs"]
    for output in found["outputs"]:
        assert re.search(f"{cause.format(at=at)}.*{AGAIN}", output.splitlines()[-1]), output
        assert "Traceback" not in output and "Event loop" not in output
    assert found["saved"] == dict.fromkeys(saved, True)
    assert found.get("again", [0, 0]) == [0, 0]
