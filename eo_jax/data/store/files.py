"""Files that are complete or absent: temporary names, renames, sizes, hashes, errors with names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """A store that is missing, unfinished or damaged; the message says what to do."""


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that no other thread, process or machine uses: ".*.partial"."""
    return path.with_name(
        f".{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}.partial"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which becomes `path` at the end or is removed after an error."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes an OSError inside name `path`; that of a full disk has no file name."""
    try:
        yield
    except OSError as error:
        cure = "fix that (free space?), then run the same command again"
        raise OSError(
            error.errno, f"{error.strerror}: cannot be written; {cure}", str(path)
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name, then renames it: readers see old or new."""
    with writing(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(store: Path | Any, name: str, expected: int) -> None:
    """Raises StoreError where a file that the manifest calls `name` is absent or of another size.

    A name outside the store is refused, too. For a store over a network, a RemotePath, this checks
    the manifest alone: the file itself is checked when it is read.
    """
    if os.path.isabs(name) or ".." in name.split("/"):
        raise StoreError(
            f"{store}/manifest.json: names the file {name!r}, which is outside the store; convert "
            "the archive again"
        )
    if not isinstance(store, Path):
        if not isinstance(expected, int) or expected < 1:
            raise StoreError(
                f"{store}/manifest.json: says that {name!r} has {expected!r} bytes; convert the "
                "archive again"
            )
        return
    # A store has many files, and pathlib would take ten times as long as the system call.
    found = _size(f"{store}/{name}")
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes"
        raise StoreError(
            f"{store / name}: {state}, the manifest says {expected} bytes; copy it again or run "
            "the convert command again"
        )


def _size(file: str) -> int | None:
    """Bytes of a file; None if there is none."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
