"""Large stores: an index takes no memory of its own; the benchmark of opening shows its figures."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from benchmarks import opening
from eo_jax.data import open_store

RECORDS = 20_000


@pytest.fixture(scope="module", params=opening.FORMATS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("opening") / request.param
    opening.write_store(store, request.param, RECORDS)
    return store


def test_opening_a_store_copies_no_column_of_its_index(path: Path):
    open_store(path)  # what is imported and cached on first use
    tracemalloc.start()
    store = open_store(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (path / "index.npz").stat().st_size
    assert len(store) == RECORDS
    assert size > 5e6
    assert held < size / 10
    assert peak < size / 4


@pytest.mark.parametrize("format", opening.FORMATS)
def test_drawing_keeps_nothing(tmp_path: Path, format: str):
    """A hundred bytes per batch would be a gigabyte after some weeks of training.

    A leak shows in every window; a table that grows once, for all that the process keeps, does not.
    """
    path = tmp_path / "store"
    opening.write_store(path, format, 2000)  # so few that the first batches have opened every file
    pipeline = opening.Pipeline(
        dataclasses.replace(opening.pipeline_config(path, "pair"), batch_size=4), seed=0
    )
    gc.freeze()  # what other tests have left is not searched at each collection
    tracemalloc.start()
    try:
        held = [_held_after(pipeline, range(first, first + 30)) for first in range(0, 120, 30)]
    finally:
        tracemalloc.stop()
    assert min(after - before for before, after in itertools.pairwise(held)) < 100 * 30


def _held_after(pipeline: opening.Pipeline, batches: range) -> int:
    """Bytes in use after these batches were drawn and dropped."""
    for n in batches:
        pipeline.batch(n)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_an_index_cannot_be_written_to(path: Path):
    """It is the file itself, mapped."""
    with pytest.raises(ValueError, match="read-only"):
        open_store(path).index["time"][0] = 0


def test_the_store_of_the_benchmark_reads_as_its_index_says(path: Path):
    store = open_store(path)
    # All shards are one file under several names.
    assert len(set(store.index["id"].tolist())) == opening.PER_SHARD
    locations, counts = np.unique(store.index["group"], return_counts=True)
    assert len(locations) == RECORDS // (opening.DATES * 2)
    assert set(counts.tolist()) == {opening.DATES * 2}
    for i in (0, 1, 999, 1000, RECORDS - 1):
        pixels = store[i].pixels
        assert (pixels.shape, pixels.dtype.name) == (
            tuple(store.index["shape"][i]),
            store.index["dtype"][i],
        )
        assert (pixels == i % opening.PER_SHARD).all()


def test_the_benchmark_prints_goals_and_writes_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(opening, "TURNS", 1)
    monkeypatch.setattr(opening, "in_new_process", lambda measure, *arguments: measure(*arguments))
    work = tmp_path / "work"
    work.mkdir()
    arguments = [
        "--records",
        "4000",
        "--batches",
        "20",
        "--work",
        str(work),
        "--json",
        str(tmp_path / "figures.json"),
    ]
    code = opening.main(arguments)
    figures, printed = json.loads((tmp_path / "figures.json").read_text()), capsys.readouterr().out
    goals = figures["goals"]
    assert code == (0 if all(goal["reached"] for goal in goals) else 3)
    assert len(goals) == 10
    for goal in goals:
        assert goal["reached"] == (goal["found"] <= goal["at_most"])
        assert goal["goal"] in printed
    assert figures["formats"]["zarr-raw"]["drawing"]["position_us"] > 0
    assert list(work.iterdir()) == []


def test_the_benchmark_refuses_incomplete_shards_and_missing_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit):
        opening.main(["--records", "1500"])
    assert "expected a multiple of 1000" in capsys.readouterr().err
    assert opening.main(["--records", "1000", "--work", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
