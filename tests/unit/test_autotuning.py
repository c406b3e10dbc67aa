"""Kernels that XLA chose by timing are those of the first start in every later one."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from eo_jax import autotuning

DUMP, LOAD = "xla_gpu_dump_autotune_results_to", "xla_gpu_load_autotune_results_from"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def compile_with(workdir: Path, chosen: bytes | None) -> dict[str, str]:
    """The options of a start, in which XLA writes its choice if it makes one."""
    with autotuning.kept_in(workdir) as options:
        if chosen is not None:
            Path(options[DUMP]).write_bytes(chosen)
    return options


def test_the_first_start_writes_and_later_ones_load(gpu, tmp_path):
    first = compile_with(tmp_path, b"first")
    assert first.keys() == {DUMP}
    (file,) = tmp_path.iterdir()
    later = compile_with(tmp_path, b"first, and more")
    assert later == {DUMP: first[DUMP], LOAD: str(file)}
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == b"first, and more"


def test_a_start_that_compiles_nothing_or_fails_leaves_the_file_as_it_was(gpu, tmp_path):
    compile_with(tmp_path, b"first")
    compile_with(tmp_path, None)
    with pytest.raises(ZeroDivisionError), autotuning.kept_in(tmp_path) as options:
        Path(options[DUMP]).write_bytes(b"half")
        raise ZeroDivisionError
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"first"


def test_another_version_of_jaxlib_chooses_anew(gpu, tmp_path, monkeypatch):
    compile_with(tmp_path, b"first")
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99.0")
    assert compile_with(tmp_path, b"other").keys() == {DUMP}
    assert len(list(tmp_path.iterdir())) == 2


def test_other_devices_get_no_options(tmp_path):
    with autotuning.kept_in(tmp_path) as options:
        assert options is None


def test_xla_knows_the_options(gpu, tmp_path):
    """It refuses a compilation with others. That they work, only a GPU shows (below)."""
    compile_with(tmp_path, b"first")
    with autotuning.kept_in(tmp_path) as options:
        compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(3)).compile(options)
    assert compiled(jnp.zeros(3)).sum() == 3
