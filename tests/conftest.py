"""Fixtures that several test files use; and JAX on the CPU, with compiled functions kept from run
to run.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compile_times
import jax
import pytest
from multidevice.start import SeveralDevices

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


# Costly fixtures of a session: the tests that use one of them run in one process.
SHARED = ("eight_devices", "sixteen_devices", "tiny_run")
# Files that share experiments of listed configs.
TOGETHER = {"test_golden": "test_configs", "test_flops": "test_configs"}
# What takes longest starts first, so that no process is left with it at the end.
LONGEST_FIRST = (
    "test_objectives",
    "test_configs",
    "eight_devices",
    "sixteen_devices",
    "test_resnet",
    "test_convert",
    "test_train_mixture",
    "test_train",
    "tiny_run",
    "test_augment_views",
    "test_mit",
    "test_shared_trunk",
    "test_deformable",
    "test_vit",
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(compile_times)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups items for pytest-xdist by costly fixture or else by file, since the tests of a file
    share what they set up and compile.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))
    items.sort(key=lambda item: _turn(_group_of(item)))  # stable: the order in a group stays


def pytest_collection_finish() -> None:
    """What is imported stays: tests that count on a collection of garbage need not wait for it."""
    gc.freeze()


def _group_of(item: pytest.Item) -> str:
    file = item.path.stem
    return next((name for name in SHARED if name in item.fixturenames), TOGETHER.get(file, file))


def _turn(group: str) -> int:
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.fixture(scope="session")
def eight_devices() -> Iterator[Callable[..., Any]]:
    """Runs `main` of a script of tests/multidevice on eight CPU devices; one process for all."""
    with SeveralDevices(8) as process:
        yield process.run


@pytest.fixture(scope="session")
def sixteen_devices() -> Iterator[Callable[..., Any]]:
    """As `eight_devices`, on sixteen."""
    with SeveralDevices(16) as process:
        yield process.run


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
