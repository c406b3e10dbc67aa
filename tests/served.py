"""Stores of every format, served over http, s3 and gs: fixtures for tests of remote reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import ObjectServer
from tiny_store import write_tiny_store

from eo_jax.data.store import remote, shard_cache
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.remote import Retries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BUCKET/FORMAT of the same samples in every format; tests only read them."""
    folder = tmp_path_factory.mktemp("served")
    for format in FORMATS:
        write_tiny_store(folder / "bucket" / format, size=8, format=format)
    return folder


@pytest.fixture(scope="module")
def _server(folder: Path) -> Iterator[ObjectServer]:
    with ObjectServer(folder) as server:
        yield server


@pytest.fixture
def server(_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """Serves `folder` over all schemes."""
    _server.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server.url)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", _server.url)
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")  # no credentials, wherever the tests run
    return _server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of shards; credentials are invalid."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("EO_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_cache, "_verified", set())
    return tmp_path / "cache"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that retries would have slept."""
    seconds: list[float] = []
    monkeypatch.setattr(remote, "RETRIES", Retries(sleep=seconds.append))
    return seconds
