"""One run per workdir, and a lock that its run left behind stops nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eo_jax import lock

NEVER = 2**22 + 1  # above Linux's largest process number


def write_lock(workdir: Path, age: float = 0, **changes) -> Path:
    """A lock of another run; its last sign of life was `age` seconds ago."""
    workdir.mkdir()
    path = workdir / lock.NAME
    path.write_text(json.dumps(lock._me() | {"since": "2026-01-02T03:04:05+00:00"} | changes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_second_run_is_refused_by_host_process_and_time_and_changes_nothing(tmp_path):
    path = write_lock(tmp_path / "run")
    before = path.read_bytes()
    with (
        pytest.raises(
            ValueError,
            match=rf"run: another run writes here: process {os.getpid()} on host .*, since "
            r"2026-01-02T03:04:05\+00:00; .*use another --workdir",
        ),
        lock.locked(tmp_path / "run"),
    ):
        pass
    assert path.read_bytes() == before and os.listdir(path.parent) == [lock.NAME]


@pytest.mark.parametrize("workdir", ["file", "file/run", "/proc/run"])
def test_a_workdir_that_cannot_be_one_is_one_line_and_leaves_nothing(tmp_path, workdir):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=rf"{workdir}: no run can write there \(.+\); give a folder"),
        lock.locked(tmp_path / workdir),
    ):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_no_part_of_a_lock(tmp_path, monkeypatch):
    def full(path, text):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    message = r"run: no run can write there \(No space left on device\)"
    with pytest.raises(OSError, match=message), lock.locked(tmp_path / "run"):
        pass
    assert os.listdir(tmp_path / "run") == []


def test_the_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(OSError, match="full"), lock.locked(tmp_path / "run") as path:
            assert json.loads(path.read_text())["pid"] == os.getpid()
            raise OSError("disk full")
        assert os.listdir(tmp_path / "run") == []


def test_a_kill_at_any_moment_leaves_no_lock_without_an_owner(tmp_path, monkeypatch):
    link, seen = os.link, []

    def looked_at(written, path):
        link(written, path)
        seen.append(json.loads(path.read_text())["pid"])

    monkeypatch.setattr(os, "link", looked_at)
    with lock.locked(tmp_path / "run"):
        assert seen == [os.getpid()] and os.listdir(tmp_path / "run") == [lock.NAME]


def test_a_bucket_without_hard_links_has_locks_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with lock.locked(tmp_path / "run") as path:
        with pytest.raises(ValueError, match="another run writes here"), lock.locked(path.parent):
            pass
        assert os.listdir(path.parent) == [lock.NAME]


@pytest.mark.parametrize(
    "changes",
    [{"pid": NEVER}, {"started": "1"}, {"host": "elsewhere", "age": lock._STALE_S + 1}],
    ids=["no such process", "number given again", "silent for long"],
)
def test_a_stale_lock_is_taken_over(tmp_path, changes):
    write_lock(tmp_path / "run", **changes)
    with lock.locked(tmp_path / "run") as path:
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', "[1]", "null"])
def test_a_lock_that_says_nothing_counts_until_it_is_old(tmp_path, content):
    path = write_lock(tmp_path / "run")
    path.write_text(content)
    with pytest.raises(ValueError, match="another run writes here"), lock.locked(path.parent):
        pass
    os.utime(path, (0, 0))
    with lock.locked(path.parent):
        pass


def test_a_lock_of_another_host_counts_while_it_is_touched(tmp_path):
    path = write_lock(tmp_path / "run", host="elsewhere", pid=NEVER)
    with pytest.raises(ValueError, match="on host elsewhere"), lock.locked(path.parent):
        pass


def test_a_held_lock_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_TOUCHED_S", 0.01)
    with lock.locked(tmp_path / "run") as path:
        os.utime(path, (0, 0))
        end = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end, "not touched"
            time.sleep(0.005)


def test_a_run_that_was_killed_leaves_a_stale_lock(tmp_path):
    script = f"""
import os, pathlib
from eo_jax import lock
with lock.locked(pathlib.Path({str(tmp_path / "run")!r})):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2])
    assert os.listdir(tmp_path / "run") == [lock.NAME]
    with lock.locked(tmp_path / "run"):
        pass
