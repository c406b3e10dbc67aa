"""Samples in memory: the same batches, decoded once, shared, and refused where they do not fit."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_archives
from tiny_store import write_store, write_tiny_store
from traced import CROP, assert_same, sample

from eo_jax.data import Store, open_store, sample_cache
from eo_jax.data.pipeline import Config, Pipeline, in_order
from eo_jax.data.source import Source, SourceConfig
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.record import RecordError


def pipeline(path: Path, cache: str = "memory", rows: int = 4, **changes: Any) -> Pipeline:
    about = {
        name: changes.pop(name)
        for name in ("on_error", "max_bad_fraction", "threads")
        if name in changes
    }
    return Pipeline(
        Config(
            {"enmap": SourceConfig(str(path), "enmap", cache=cache, **changes)}, rows, CROP, **about
        ),
        0,
    )


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of each sample that is decoded into memory is appended."""
    found: list[int] = []
    inner = sample_cache.read_arrays
    monkeypatch.setattr(
        sample_cache,
        "read_arrays",
        lambda store, i, bands: found.append(i) or inner(store, i, bands),
    )
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bands", [(), ("B2", "B7")])
def test_batches_are_the_same_from_memory(tmp_path: Path, format: str, bands: tuple[str, ...]):
    path = write_tiny_store(tmp_path / "store", size=8, format=format)
    runs = [
        pipeline(path, cache, dates=2, label="landuse", bands=bands) for cache in ("none", "memory")
    ]
    for stored, held in zip(*(run.batches(0, 5) for run in runs), strict=True):
        assert_same(held, stored)
    sources = [
        Source("enmap", SourceConfig(str(path), "enmap", cache=cache, bands=bands), CROP)
        for cache in ("none", "memory")
    ]
    for stored, held in zip(*(in_order(source, 4, "landuse") for source in sources), strict=True):
        assert_same(held, stored)


def test_each_sample_is_decoded_once_by_all_threads_and_sources(
    tmp_path: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(6)])
    monkeypatch.setattr(Store, "read_into", None)
    held = SourceConfig(str(path), "enmap", cache="memory")
    list(Pipeline(Config({"one": held, "two": held}, 6, CROP, threads=4), 0).batches(0, 10))
    assert sorted(decodings) == list(range(6))


def test_memory_is_given_back_with_the_last_source(tmp_path: Path, decodings: list[int]):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(2)])
    for _ in range(2):
        run = pipeline(path)
        run.batch(0)
        del run
        gc.collect()
    assert sorted(decodings) == [0, 0, 1, 1]


def test_what_is_held_cannot_be_written_to(tmp_path: Path):
    source = Source(
        "enmap",
        SourceConfig(str(write_tiny_store(tmp_path / "store", size=8)), "enmap", cache="memory"),
        CROP,
    )
    pixels, labels = source.arrays(0)
    for array in (pixels, labels["landuse"]):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


# ------------------------------------------------------------------------------------------- memory


BYTES = 202 * 10 * 8 * 2  # of a sample


def test_more_than_half_of_the_free_memory_is_refused_before_anything_is_decoded(
    tmp_path: Path, decodings: list[int], monkeypatch
):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(3)])
    monkeypatch.setattr(sample_cache, "free_memory", lambda: 2 * 3 * BYTES - 2)
    message = (
        rf"sources\.enmap\.cache: 'memory' needs {3 * BYTES:,} bytes .*{path}.* at most "
        rf"{3 * BYTES - 1:,}, half of the free memory; use cache='none'"
    )
    with pytest.raises(ValueError, match=message):
        pipeline(path)
    assert not decodings
    pipeline(path, bands=("B1",))
    monkeypatch.setattr(sample_cache, "free_memory", lambda: 2 * 3 * BYTES)
    pipeline(path)


def test_what_other_sources_are_still_to_decode_counts_and_what_is_shared_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stores = [write_store(tmp_path / f"store{i}", [sample(i)]) for i in range(2)]
    monkeypatch.setattr(sample_cache, "free_memory", lambda: 2 * BYTES)
    held = [pipeline(stores[0]), pipeline(stores[0])]
    with pytest.raises(ValueError, match=f"needs {2 * BYTES:,} bytes"):
        pipeline(stores[1])
    held[0].batch(0)  # now in memory, so the system counts it
    pipeline(stores[1])


def test_label_maps_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_tiny_store(tmp_path / "store", locations=1, size=8)
    monkeypatch.setattr(sample_cache, "free_memory", lambda: 2 * (202 * 2 + 1) * 64 - 2)
    with pytest.raises(ValueError, match=f"needs {(202 * 2 + 1) * 64:,} bytes"):
        pipeline(path)


def test_free_memory_is_some():
    assert 2**20 < sample_cache.free_memory() < 2**50


# -------------------------------------------------------------------------------------- bad records


def test_bad_records_are_skipped_and_counted_as_from_the_store(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(i, i) for i in range(8)])
    damage(path, 5)
    runs = [
        pipeline(path, cache, on_error="skip", max_bad_fraction=0.2) for cache in ("none", "memory")
    ]
    said: list[list[str]] = [[], []]
    for stored, held in zip(
        *(run.batches(0, 6, lines.append) for run, lines in zip(runs, said, strict=True)),
        strict=True,
    ):
        assert_same(held, stored)
    assert said[0] == said[1] and len(said[0]) == 1 and "(id id5)" in said[0][0]


def test_a_bad_record_stops_the_run_by_name(tmp_path: Path):
    path = write_store(tmp_path / "store", [sample(0)])
    damage(path, 0)
    with pytest.raises(RecordError, match=r"record 0 \(id id0\)"):
        pipeline(path).batch(0)


def damage(path: Path, number: int) -> None:
    data, shard = open_store(path).read(number), path / f"shards/0000{number // 5}.array_record"
    tiny_archives.flip(shard, shard.read_bytes().index(data) + len(data) // 2)


def test_samples_of_another_dtype_are_read_as_what_holds_both(tmp_path: Path):
    exact = sample(1, 1).pixels.astype(np.float32) + np.float32(0.25)
    path = write_store(tmp_path / "store", [sample(0, 0), sample(1, 1, exact)])
    for n in range(3):
        assert_same(pipeline(path).batch(n), pipeline(path, "none").batch(n))
