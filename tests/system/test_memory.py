"""--memory: workers are limited to their part of it, and a file that takes too much is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from layouts import make_reader

from data_prep import convert
from data_prep.__main__ import main
from data_prep.archive import ArchiveError
from data_prep.conversion import shard_task
from data_prep.jobs import executors
from data_prep.reader import Files
from eo_jax.data import open_store
from eo_jax.schema import Sample

LIMIT = 700_000_000


def allocate(size: int) -> int:
    """A task that allocates that many bytes."""
    return int(np.ones(size, np.uint8)[::4096].sum()) * 4096


def test_a_worker_takes_no_more_than_its_memory() -> None:
    assert list(executors.run(allocate, [1 << 26], 1, LIMIT)) == [1 << 26]
    with pytest.raises(MemoryError):
        list(executors.run(allocate, [1 << 31], 1, LIMIT))


def test_a_file_that_takes_too_much_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_reader("spectral-earth", tiny_archives.spectral_earth(tmp_path))
    item = reader.items()[0]

    def greedy(*_: object) -> Sample:
        raise MemoryError

    monkeypatch.setattr(type(reader), "read", greedy)
    with pytest.raises(ArchiveError, match=r"enmap/0000001/00001.tif: .* give more --memory"):
        shard_task.read_item(reader, item, Files(reader.archive, item), None)


def test_there_are_fewer_workers_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, asked = tiny_archives.spectral_earth(tmp_path / "archive"), []

    def here(function, tasks, workers, bytes_per_worker=None):
        asked.append((workers, bytes_per_worker))
        return map(function, tasks)

    monkeypatch.setattr(convert.executors, "run", here)
    command = [
        "convert",
        "spectral-earth",
        "--input",
        str(archive),
        "--output",
        str(tmp_path / "store"),
        "--workers",
        "16",
        "--memory",
        "1.5",
    ]
    assert main(command) == 0
    ((workers, limit),) = asked
    assert 1 < workers < 16 and workers * limit <= 1.5e9
    assert len(open_store(tmp_path / "store")) == 7
