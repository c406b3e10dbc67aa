"""The cache of remote shards: each is downloaded once, verified and kept within a limit.

Killed processes do no harm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from object_server import SHARD, ObjectServer, assert_same_samples, spans, url_of

from eo_jax.data import open_store
from eo_jax.data.store import shard_cache
from eo_jax.data.store.files import StoreError

pytest_plugins = ["served"]
pytestmark = pytest.mark.usefixtures("cache", "slept")


def shards(cache: Path) -> dict[str, int]:
    """{SHA-256: bytes} of the shards in the cache."""
    return {file.name: file.stat().st_size for file in cache.iterdir() if len(file.name) == 64}


def shard_requests(server: ObjectServer) -> int:
    return sum("array_record" in request.file for request in server.requests)


def test_a_shard_is_downloaded_once(server: ObjectServer):
    store = open_store(url_of(server, "http", "array-record"))
    for _ in range(3):
        list(store)
    assert shard_requests(server) == 3 == len(open_store(store.path.root).manifest["shards"])


def test_large_shards_come_in_parts(
    server: ObjectServer, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shard_cache, "_PART_BYTES", 10_000)
    server.fail("truncated", on=SHARD)
    assert_same_samples(
        open_store(url_of(server, "http", "array-record")),
        open_store(folder / "bucket" / "array-record"),
    )
    assert shard_requests(server) > 20 and max(spans(server)) == 10_000


def test_the_cache_is_bounded_and_keeps_what_was_used_last(
    server: ObjectServer, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = open_store(url_of(server, "http", "array-record"))
    assert caught == []
    entries = store.manifest["shards"]
    names, sizes = [entry["sha256"] for entry in entries], [entry["bytes"] for entry in entries]
    monkeypatch.setenv("EO_JAX_CACHE_GB", str((sizes[0] + sizes[1]) / 1e9))
    with pytest.warns(UserWarning, match="GB of shards for a cache of"):
        open_store(store.path.root)
    for i in (0, 5):
        store.read(i)
    for name, seconds in ((names[0], 2), (names[1], 1)):
        os.utime(cache / name, (time.time() - seconds,) * 2)
    store.read(1)  # the first shard again, so the second is the one to go
    store.read(11)
    assert set(shards(cache)) == {names[0], names[2]}
    store.read(5)
    assert set(shards(cache)) >= {names[1]} and sum(shards(cache).values()) <= sizes[0] + sizes[1]


def test_a_shard_that_is_read_stays(
    server: ObjectServer, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(url_of(server, "http", "array-record"))
    first, second = store.manifest["shards"][:2]
    monkeypatch.setenv("EO_JAX_CACHE_GB", str(max(first["bytes"], second["bytes"]) / 1e9))
    with shard_cache.local_copy(store.path / first["file"], first["bytes"], first["sha256"]):
        store.read(5)
        # Beyond the limit, rather than waiting for ever.
        assert set(shards(cache)) == {
            first["sha256"],
            second["sha256"],
        }
    store.read(11)
    assert set(shards(cache)).isdisjoint({first["sha256"], second["sha256"]})


def test_a_cache_limit_that_is_too_small_or_not_a_number(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(url_of(server, "http", "array-record"))
    monkeypatch.setenv("EO_JAX_CACHE_GB", "0.00001")
    with pytest.raises(StoreError, match=r"does not fit into EO_JAX_CACHE_GB=1e-05; raise it"):
        store.read(0)
    monkeypatch.setenv("EO_JAX_CACHE_GB", "much")
    with pytest.raises(StoreError, match="EO_JAX_CACHE_GB: 'much'; expected a number"):
        store.read(0)


def test_a_damaged_shard_in_the_cache_is_fetched_again(
    server: ObjectServer, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(url_of(server, "http", "array-record"))
    list(store)
    for name in shards(cache):
        data = bytearray((cache / name).read_bytes())
        data[len(data) // 2] ^= 1
        (cache / name).write_bytes(data)
    (cache / name).unlink()
    monkeypatch.setattr(shard_cache, "_verified", set())  # as in another process
    assert_same_samples(store, open_store(folder / "bucket" / "array-record"))


def test_what_others_keep_in_the_folder_stays(
    server: ObjectServer, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.mkdir()
    (cache / "thesis.tex").write_text("years")
    store = open_store(url_of(server, "http", "array-record"))
    monkeypatch.setenv(
        "EO_JAX_CACHE_GB", str(max(entry["bytes"] for entry in store.manifest["shards"]) / 1e9)
    )
    list(store)
    assert (cache / "thesis.tex").read_text() == "years" and len(shards(cache)) == 1


READ = (
    "import sys; from eo_jax.data import open_store; store = open_store(sys.argv[1]); "
    "print(sum(int(s.pixels.sum()) for s in store))"
)


def start(url: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", READ, url], stdout=subprocess.PIPE, text=True)


def test_two_processes_share_downloads(server: ObjectServer, folder: Path, cache: Path):
    server.latency = 0.3
    processes = [start(url_of(server, "http", "array-record")) for _ in range(2)]
    said = {process.communicate(timeout=60)[0] for process in processes}
    samples = open_store(folder / "bucket" / "array-record")
    assert said == {f"{sum(int(sample.pixels.sum()) for sample in samples)}\n"}
    assert shard_requests(server) == 3 and len(shards(cache)) == 3
    assert not list(cache.glob("*.partial"))


def test_a_killed_download_is_in_nobodys_way(server: ObjectServer, folder: Path, cache: Path):
    process = start(url_of(server, "http", "array-record"))
    server.fail("hang", times=99, on="array_record")
    while not list(cache.glob("*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = cache.glob("*.partial")
    server.forget()
    store, first = (
        open_store(url_of(server, "http", "array-record")),
        left.name.removesuffix(".partial"),
    )
    other = next(
        i for i in range(12) if store.manifest["shards"][store.index["shard"][i]]["sha256"] != first
    )
    store.read(other)
    assert not left.exists() and len(shards(cache)) == 1
    assert_same_samples(store, open_store(folder / "bucket" / "array-record"))
