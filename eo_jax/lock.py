"""One run per workdir: a file WORKDIR/.lock while a run writes there."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"
_TOUCHED_S = 10  # between two signs of life
_STALE_S = 300  # without one, seen from another host; clocks of hosts may differ a little


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[Path]:
    """Holds the lock of a workdir. Raises ValueError where another run does.

    A lock whose process no longer exists is taken over; one of another host, when its file has not
    been touched for five minutes.
    """
    with _usable(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / NAME
    while not _created(path):
        _remove_if_stale(path)
    over = threading.Event()
    threading.Thread(target=_touch, args=(path, over), daemon=True, name="lock").start()
    try:
        yield path
    finally:
        over.set()
        release(path)


@contextlib.contextmanager
def _usable(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{workdir}: no run can write there ({error.strerror}); give a folder, or the path of "
            "a new one, that can be written as --workdir"
        ) from error


def release(path: Path) -> None:
    """Removes the lock if it is of this process."""
    if _owner(path) == _me():
        path.unlink(missing_ok=True)


def _created(path: Path) -> bool:
    """Whether this process has created the lock: complete, so that a kill leaves none that does
    not say whose it is.
    """
    content, written = json.dumps(_me() | {"since": _now()}), _aside(path)
    try:
        with _usable(path.parent):
            written.write_text(content)
        return _linked(written, path)
    finally:
        with contextlib.suppress(OSError):
            written.unlink()


def _linked(written: Path, path: Path) -> bool:
    try:
        os.link(written, path)
    except FileExistsError:
        return False
    except OSError:  # a mounted bucket has no hard links
        return _written_at_once(path, written.read_text())
    return True


def _written_at_once(path: Path, content: str) -> bool:
    try:
        with open(path, "x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _aside(path: Path) -> Path:
    return path.with_name(f"{NAME}.{socket.gethostname()}.{os.getpid()}")


def _remove_if_stale(path: Path) -> None:
    """Raises ValueError for a lock that is not stale."""
    try:
        owner, age = _owner(path), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    if not _is_stale(owner, age):
        raise ValueError(
            f"{path.parent}: another run writes here: process {owner.get('pid', 'unknown')} on "
            f"host {owner.get('host', 'unknown')}, since {_since(path)}; wait for its end, stop "
            f"it, or use another --workdir. If it is gone, the lock {path} is stale "
            f"{_STALE_S // 60} minutes after its last sign of life, {age:.0f} s ago"
        )
    # Two runs may find the same stale lock: only one can rename it, and what it then holds is
    # looked at again.
    aside = _aside(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _owner(aside) != owner:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _is_stale(owner: dict, age: float) -> bool:
    here = owner.get("host") == socket.gethostname() and owner.get("boot") == _boot() != ""
    if not here:
        return age > _STALE_S
    return owner["started"] != _started(owner["pid"])


def _touch(path: Path, over: threading.Event) -> None:
    while not over.wait(_TOUCHED_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _me() -> dict:
    """What a lock says about its process: its number may be given again, its start may not."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str:
    """When a process of this machine started, in ticks since boot; "" where there is none."""
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before ")" may hold anything
    return "" if state == "Z" else fields[18]


def _boot() -> str:
    """Which boot this is, and which of a machine's containers, whose process numbers differ."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _owner(path: Path) -> dict:
    """{"host", "boot", "pid", "started"} of a lock; {} where it is not readable as one."""
    try:
        found = json.loads(path.read_text())
        return {
            "host": str(found["host"]),
            "boot": str(found["boot"]),
            "pid": int(found["pid"]),
            "started": str(found["started"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _since(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
