"""Fixtures that several test files use; and JAX on the CPU, with compiled functions kept from run
to run.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import compile_times
import jax
import pytest

# In the environment for the commands that tests start; in the config because jaxtyping's pytest
# plugin has imported jax already.
_JAX = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".cache" / "jax"),
    # small ones, too: the commands that tests start compile the same again
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
for _name, _default in _JAX.items():
    _value = os.environ.setdefault(_name, _default)
    jax.config.update(_name.lower(), float(_value) if _name.endswith("SECS") else _value)

# Tracing makes so many objects that looking for dead cycles as often as Python does by itself takes
# a quarter of its time.
gc.set_threshold(50_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(compile_times)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample data, which is not part of the repository."""
    folder = Path(
        os.environ.get("EO_JAX_SAMPLE_DATA", Path(__file__).parents[2] / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}; set EO_JAX_SAMPLE_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory) -> Path:
    """A store of six locations, in splits train and val."""
    from tiny_store import write_tiny_store

    return write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny")


@pytest.fixture(scope="session")
def tiny_run(tiny_store, tmp_path_factory) -> Path:
    """The workdir of a finished `tiny_run`, in one go. Tests only read it."""
    from tiny_run import config_of

    from eo_jax import train

    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert train.train(config_of(tiny_store), workdir) == 0
    return workdir
