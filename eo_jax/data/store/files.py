"""Files of a store that are there whole or not at all: temporary names, renames, sizes, hashes, and
errors that name the file.
"""

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
    """A name in the same folder that no other thread, process or machine uses; it begins with "."
    and ends with ".partial".
    """
    return path.with_name(
        f".{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}.partial"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write under; what is there at the end becomes `path`, and after an
    error nothing is left of it.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside, which for a full disk has no file name, becomes one about `path`."""
    try:
        yield
    except OSError as error:
        cure = "mend that (free space?), then run the same command again"
        raise OSError(
            error.errno, f"{error.strerror}: cannot be written; {cure}", str(path)
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name in the same folder, then renames: readers see the old
    file or the new one, never half of it.
    """
    with writing(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(store: Path | Any, name: str, expected: int) -> None:
    """Raises StoreError where a file of a store, `name` as the manifest has it, is absent, of
    another size, or not in the store at all.

    Of a store over a network, a RemotePath, only the manifest is looked at: the file is held
        against it when it is read.
    """
    if os.path.isabs(name) or ".." in name.split("/"):
        raise StoreError(
            f"{store}/manifest.json: names the file {name!r}, which lies outside the store; "
            "convert the archive again"
        )
    if not isinstance(store, Path):
        if not isinstance(expected, int) or expected < 1:
            raise StoreError(
                f"{store}/manifest.json: says that {name!r} has {expected!r} bytes; convert the "
                "archive again"
            )
        return
    found = _size(
        f"{store}/{name}"
    )  # a store has many: pathlib would take ten times as long as the system
    if found != expected:
        state = "is missing" if found is None else f"has {found} bytes"
        raise StoreError(
            f"{store / name}: {state}, the manifest says {expected} bytes; copy it again or run "
            "the convert command again"
        )


def _size(file: str) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
