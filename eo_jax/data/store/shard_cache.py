"""Whole shards that came over the network, on the local disk: checked, within a bound, shared by
all processes of a user.

$EO_JAX_CACHE/SHA256            a shard, named by its content; default folder ~/.cache/eo_jax
$EO_JAX_CACHE/SHA256.partial    one on its way; its size is reserved at once
$EO_JAX_CACHE/lock              held by who makes room

EO_JAX_CACHE_GB (default 50) bounds the whole. Room is made by removing what was used least
recently, but nothing that is being read just then: each reader may exceed the bound by one shard.
Readers and downloads hold their file by flock, which ends with the process: after a crash nothing
waits, and what is left of a download goes when room is made. The folder has to be on a disk whose
file system knows flock, as local disks do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from eo_jax.data.store import remote
from eo_jax.data.store.files import StoreError, sha256_file, writing
from eo_jax.data.store.remote import Range, RemotePath

_PART_BYTES = 8 * 2**20  # of a shard, in one request
_OURS = re.compile(r"[0-9a-f]{64}(\.partial)?")

_checked: set[str] = set()  # shards whose SHA-256 this process has seen to be right


def folder() -> Path:
    """Where shards are kept."""
    return Path(os.environ.get("EO_JAX_CACHE") or "~/.cache/eo_jax").expanduser()


def max_bytes() -> int:
    """What they may take. Raises StoreError where the environment does not have a number."""
    text = os.environ.get("EO_JAX_CACHE_GB") or "50"
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise StoreError(
            f"EO_JAX_CACHE_GB: {text!r}; expected a number of gigabytes, such as 50"
        ) from error


def warn_if_small(store: RemotePath, total: int) -> None:
    """Warns where a store of `total` bytes, read in random order, would be downloaded again and
    again.
    """
    if total > max_bytes():
        cure = (
            "set EO_JAX_CACHE_GB to more, or convert to zarr or zarr-raw, which are read without "
            "the cache"
        )
        warnings.warn(
            f"{store}: {total / 1e9:.3g} GB of shards for a cache of {max_bytes() / 1e9:.3g} GB "
            f"in {folder()}; {cure}",
            stacklevel=2,
        )


@contextlib.contextmanager
def opened(source: RemotePath, size: int, sha256: str) -> Iterator[Path]:
    """Yields the local copy of a shard, downloaded where there is none; it stays as long as the
    context lasts.

    Args:
        source: the shard.
        size, sha256: what the manifest says of it.

    Raises StoreError where it is refused or does not fit, RemoteError, ValueError where it is
    damaged at its source, OSError where the disk is full.
    """
    if not _OURS.fullmatch(sha256):
        raise StoreError(
            f"{source}: the manifest says its SHA-256 is {sha256!r}; convert the archive again"
        )
    file = folder() / sha256
    while (lock := _hold(file)) is None:
        _download(source, size, file)
    try:
        os.utime(lock)  # the last use
        yield file
    finally:
        os.close(lock)


def _hold(file: Path) -> int | None:
    """A descriptor that keeps a whole shard from being removed; None where there is none, or a
    damaged one was removed.
    """
    try:
        lock = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    if _is_at(lock, file) and _is_right(file):
        return lock
    os.close(lock)
    return None


def _is_right(file: Path) -> bool:
    """Whether a shard has the content it is named by, looked at once a process; disks do forget."""
    if file.name not in _checked:
        if sha256_file(file) != file.name:
            file.unlink(missing_ok=True)
            return False
        _checked.add(file.name)
    return True


def _download(source: RemotePath, size: int, file: Path) -> None:
    """Puts a shard into the cache, unless somebody else did so meanwhile."""
    partial = file.with_name(f"{file.name}.partial")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(partial) as lock:
        try:
            if not file.exists():
                _make_room(lock, partial, size)
                remote.retrying(source, lambda: _fill(lock, source, size, file))
                os.replace(partial, file)
                _checked.add(file.name)
        finally:
            _unlink_if_at(lock, partial)


def _fill(lock: int, source: RemotePath, size: int, file: Path) -> None:
    """Raises ValueError where what came is not what the manifest says."""
    ranges = [
        Range(source, offset, min(_PART_BYTES, size - offset))
        for offset in range(0, size, _PART_BYTES)
    ]
    remote.announce(ranges)
    digest = hashlib.sha256()
    for part in ranges:
        data = remote.retrying(source, lambda part=part: remote.fetch(part))
        digest.update(data)
        with writing(file):
            os.pwrite(lock, data, part.offset)
    if digest.hexdigest() != file.name:
        raise ValueError("its SHA-256 is not the manifest's")


# --------------------------------------------------------------------------------------------- room


def _make_room(lock: int, partial: Path, size: int) -> None:
    """Removes what was used least recently until `size` bytes fit, and reserves them. What is in
    use stays, even beyond the bound.
    """
    if size > max_bytes():
        raise StoreError(
            f"{folder()}: a shard of {size / 1e9:.3g} GB does not fit into "
            f"EO_JAX_CACHE_GB={max_bytes() / 1e9:g}; set it to more"
        )
    with _locked(folder() / "lock"):
        others = [entry for entry in _entries() if entry[1] != partial]
        total = sum(entry[2] for entry in others)
        for _, path, bytes in sorted(others):
            # What a crash left is of no use, however much room there is.
            if (total + size > max_bytes() or path.suffix == ".partial") and _remove_unused(path):
                total -= bytes
        with writing(partial):
            os.truncate(lock, size)


def _entries() -> list[tuple[float, Path, int]]:
    """(last use, path, bytes) of every file of the cache; others in the folder are not ours to
    remove.
    """
    found = []
    for entry in os.scandir(folder()):
        if _OURS.fullmatch(entry.name):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime, Path(entry.path), entry.stat().st_size))
    return found


def _remove_unused(path: Path) -> bool:
    """Removes a file unless somebody holds it. Returns whether it is gone."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _unlink_if_at(lock, path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yields a descriptor of the file, made where there is none, that nobody else holds meanwhile.
    A process that dies lets go.
    """
    lock = _lock(path)
    try:
        yield lock
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    while True:
        with writing(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, path):
            return lock
        os.close(lock)  # its holder has renamed or removed it


def _is_at(lock: int, path: Path) -> bool:
    """Whether a descriptor is still of the file at that path."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _unlink_if_at(lock: int, path: Path) -> None:
    if _is_at(lock, path):
        path.unlink()
