"""Where compiled functions are kept, and how much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from eo_jax import compile_cache


@pytest.fixture
def home(monkeypatch, tmp_path) -> Iterator[Path]:
    """The user's cache folder; JAX has no setting of its own during the test."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_it_is_on_by_default_in_a_folder_of_this_kind_of_machine(home):
    compile_cache.enable()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir() and folder.parent == home / "eo_jax" / "compiled"


def test_a_folder_that_the_user_chose_stays(home):
    jax.config.update("jax_compilation_cache_dir", str(home / "mine"))
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(home / "mine")


def test_a_home_that_cannot_be_written_is_no_error(home, monkeypatch):
    (home / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_entries_go(home, monkeypatch):
    compile_cache.enable()
    folder = Path(jax.config.jax_compilation_cache_dir)
    for age in range(5):
        entry = folder / f"{age}"
        entry.write_bytes(bytes(10))
        os.utime(entry, (1000 - age, 1000 - age))
    monkeypatch.setattr(compile_cache, "_MOST_BYTES", 30)
    jax.config.update("jax_compilation_cache_dir", None)
    compile_cache.enable()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]
