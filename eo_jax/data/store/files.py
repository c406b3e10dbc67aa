"""Files that are complete or absent: temporary names, renames, sizes, hashes, errors with names."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COPY_AGAIN = "copy it again or run the convert command again"


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
    """Raises StoreError where a file that the manifest names is absent or of another size.

    For a store over a network, a RemotePath, nothing is checked: its files are when they are read.
    """
    if not isinstance(store, Path):
        return
    # A store has many files, and pathlib would take ten times as long as the system call.
    found = regular_size(f"{store}/{name}")
    if found != expected:
        raise StoreError(
            f"{store / name}: has {found} bytes, the manifest says {expected} bytes; {_COPY_AGAIN}"
        )


def regular_size(file: str | Path) -> int:
    """Bytes of a file.

    Raises StoreError where it is absent, or a folder, pipe, device or loop of links: opening a pipe
    would wait for ever.
    """
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise StoreError(f"{file}: is missing; {_COPY_AGAIN}") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise StoreError(f"{file}: cannot be a file ({error.strerror}); {_COPY_AGAIN}") from error
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise StoreError(f"{file}: is {found}, expected a file; {_COPY_AGAIN}")
    return status.st_size
