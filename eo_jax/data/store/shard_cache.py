"""Local cache of whole remote shards: verified, bounded, shared by all processes of a user.

    $EO_JAX_CACHE/SHA256            a shard, named by its content; default folder ~/.cache/eo_jax
    $EO_JAX_CACHE/SHA256.partial    a download in progress; its size is reserved at once
    $EO_JAX_CACHE/lock              held while space is made

EO_JAX_CACHE_GB (default 50) limits the total. The least recently used shards are removed to make
space, except those being read at the time: each reader may exceed the limit by one shard. Readers
and downloads hold their file by flock, which ends with the process: after a crash nothing waits,
and remains of a download are removed when space is made. The folder's file system has to support
flock, as local disks do.
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

_PART_BYTES = 8 * 2**20  # of a shard, per request
_NAME = re.compile(r"[0-9a-f]{64}(\.partial)?")

_verified: set[str] = set()  # shards whose SHA-256 this process has checked


def folder() -> Path:
    """The folder of the cache."""
    return Path(os.environ.get("EO_JAX_CACHE") or "~/.cache/eo_jax").expanduser()


def max_bytes() -> int:
    """The limit of the cache. Raises StoreError where the environment does not have a number."""
    text = os.environ.get("EO_JAX_CACHE_GB") or "50"
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise StoreError(
            f"EO_JAX_CACHE_GB: {text!r}; expected a number of gigabytes, for example 50"
        ) from error


def warn_if_small(store: RemotePath, total: int) -> None:
    """Warns where a store of `total` bytes would be downloaded repeatedly, read in random order."""
    if total > max_bytes():
        warnings.warn(
            f"{store}: {total / 1e9:.3g} GB of shards for a cache of {max_bytes() / 1e9:.3g} GB in "
            f"{folder()}; raise EO_JAX_CACHE_GB, or convert to zarr or zarr-raw, which are read "
            "without the cache",
            stacklevel=2,
        )


@contextlib.contextmanager
def local_copy(source: RemotePath, size: int, sha256: str) -> Iterator[Path]:
    """Yields the local copy of a shard, downloaded if necessary; it is not removed inside.

    Args:
        source: the shard.
        size, sha256: of the shard, according to the manifest.

    Raises:
        StoreError: access is refused, or the shard does not fit into the cache.
        RemoteError: the network fails.
        ValueError: the shard is damaged at its source.
        OSError: the disk is full.
    """
    file = folder() / sha256
    while (lock := _hold(file)) is None:
        _download(source, size, file)
    try:
        os.utime(lock)  # the time of the last use
        yield file
    finally:
        os.close(lock)


def _hold(file: Path) -> int | None:
    """A descriptor that keeps a shard from being removed; None if there is no intact shard."""
    try:
        lock = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    if _is_at(lock, file) and _verify(file):
        return lock
    os.close(lock)
    return None


def _verify(file: Path) -> bool:
    """Whether a shard has the SHA-256 in its name, checked once per process; removes it if not.

    Files on disk can be corrupted.
    """
    if file.name not in _verified:
        if sha256_file(file) != file.name:
            file.unlink(missing_ok=True)
            return False
        _verified.add(file.name)
    return True


def _download(source: RemotePath, size: int, file: Path) -> None:
    """Puts a shard into the cache, unless another process has done so in the meantime."""
    partial = file.with_name(f"{file.name}.partial")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(partial) as lock:
        try:
            if not file.exists():
                _make_space(lock, partial, size)
                remote.retry(source, lambda: _fill(lock, source, size, file))
                os.replace(partial, file)
                _verified.add(file.name)
        finally:
            _unlink_if_at(lock, partial)


def _fill(lock: int, source: RemotePath, size: int, file: Path) -> None:
    """Downloads a shard in parts. Raises ValueError where its SHA-256 is not the manifest's."""
    ranges = [
        Range(source, offset, min(_PART_BYTES, size - offset))
        for offset in range(0, size, _PART_BYTES)
    ]
    remote.begin_reading(ranges)
    digest = hashlib.sha256()
    for part in ranges:
        data = remote.retry(source, lambda part=part: remote.fetch(part))
        digest.update(data)
        with writing(file):
            os.pwrite(lock, data, part.offset)
    if digest.hexdigest() != file.name:
        raise ValueError("its SHA-256 is not the manifest's")


# -------------------------------------------------------------------------------------------- space


def _make_space(lock: int, partial: Path, size: int) -> None:
    """Removes the least recently used files until `size` bytes fit, and reserves them.

    Files in use stay, even beyond the limit.
    """
    if size > max_bytes():
        raise StoreError(
            f"{folder()}: a shard of {size / 1e9:.3g} GB does not fit into "
            f"EO_JAX_CACHE_GB={max_bytes() / 1e9:g}; raise it"
        )
    with _locked(folder() / "lock"):
        others = [entry for entry in _entries() if entry[1] != partial]
        total = sum(entry[2] for entry in others)
        for _, path, bytes in sorted(others):
            # Remains of a crash are useless, however much space there is.
            if (total + size > max_bytes() or path.suffix == ".partial") and _remove_unused(path):
                total -= bytes
        with writing(partial):
            os.truncate(lock, size)


def _entries() -> list[tuple[float, Path, int]]:
    """(last use, path, bytes) of every file of the cache, no others in its folder."""
    entries = []
    for entry in os.scandir(folder()):
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(FileNotFoundError):
                entries.append((entry.stat().st_mtime, Path(entry.path), entry.stat().st_size))
    return entries


def _remove_unused(path: Path) -> bool:
    """Removes a file unless it is held. Returns whether it is gone."""
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
    """Yields a descriptor of the file, created if necessary, under an exclusive lock.

    A process that dies releases it.
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
        os.close(lock)  # its previous holder has renamed or removed the file


def _is_at(lock: int, path: Path) -> bool:
    """Whether a descriptor still refers to the file at that path."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _unlink_if_at(lock: int, path: Path) -> None:
    if _is_at(lock, path):
        path.unlink()
