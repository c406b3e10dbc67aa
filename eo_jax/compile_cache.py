"""Compiled functions, kept for the next start of the same network on the same kind of machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

import jax

_MOST_BYTES = 4 * 2**30  # homes on clusters are small; a step of ViT-L takes some 50 MB


def enable() -> None:
    """Lets JAX keep what it compiles in the user's cache folder, of which 4 GiB stay.

    JAX' own settings win: JAX_COMPILATION_CACHE_DIR names another folder, which is never cleaned,
    and JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: compiled every time, as without a cache
        return
    _remove_oldest(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _folder() -> Path:
    """Of this kind of machine: another that shares the home may not run its code."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    machine = f"{platform.machine()}-{hashlib.sha256(_processor()).hexdigest()[:8]}"
    return Path(base) / "eo_jax" / "compiled" / machine


def _processor() -> bytes:
    """The processor's name and instructions as Linux tells them; b"" elsewhere."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        told = (b"model name", b"flags", b"Features", b"CPU part")
        return b"\n".join(sorted({line for line in lines if line.startswith(told)}))
    return b""


def _remove_oldest(folder: Path) -> None:
    """Keeps the newest files that have _MOST_BYTES together. Other processes may read or remove."""
    total = 0
    for size, path in _newest_first(folder):
        total += size
        if total > _MOST_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    """[(bytes, file)]"""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.is_file():
                found.append((status.st_mtime_ns, status.st_size, path))
    return [(size, path) for _, size, path in sorted(found, reverse=True)]
