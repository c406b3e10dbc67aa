"""A run that goes on with other numbers of devices and processes trains on the same batches."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest
from several_processes import Processes

from eo_jax.monitor import writers

ROWS, STEPS = 8, 12
SAME = (f"--config.data.batch_size={ROWS}", f"--config.run.steps={STEPS}")


def train(store: Path, folder: Path, *more: str, stop: int = STEPS, **of_processes: int) -> list:
    """Exit codes of the processes of a run in `folder`, which stops after batch number `stop`."""
    program = ("-m", "multidevice.recorded", str(folder), str(stop))
    count = of_processes.get("count", 1)
    programs = dict.fromkeys(range(count), program)
    with Processes(store, folder / "run", *SAME, *more, programs=programs, **of_processes) as run:
        codes, outputs = run.ends()
    assert set(codes) <= {0, 143}, outputs
    return codes


def batches(folder: Path) -> dict[int, dict[int, str]]:
    """{number of a batch: {row: digest}} of all processes; what was seen twice is the same."""
    found = collections.defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl")):
        for number, rows in map(json.loads, path.read_text().splitlines()):
            for row, digest in rows.items():
                assert found[number].setdefault(int(row), digest) == digest, (number, row)
    return dict(found)


def losses(folder: Path) -> list[float]:
    lines = [line for line in writers.read_metrics(folder / "run") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.mark.slow
def test_a_run_on_8_2_and_4_devices_and_1_2_and_1_processes_is_the_run_on_one_device(
    tiny_store, tmp_path
):
    one, moved = tmp_path / "one", tmp_path / "moved"
    for folder in (one, moved):
        folder.mkdir()
    assert train(tiny_store, one, devices=1, count=1) == [0]
    over_data, on_host = (
        "--config.sharding.moments=over_data",
        "--config.sharding.moments_memory=host",
    )
    assert train(tiny_store, moved, over_data, devices=8, count=1, stop=3) == [143]
    assert train(tiny_store, moved, devices=2, count=2, stop=7) == [143, 143]
    split = "--config.sharding.fsdp=2"
    assert train(tiny_store, moved, split, on_host, devices=4, count=1, stop=10) == [143]
    assert train(tiny_store, moved, split, over_data, devices=4, count=1) == [0]
    assert batches(moved) == batches(one)
    assert [sorted(rows) for _, rows in sorted(batches(one).items())] == [list(range(ROWS))] * STEPS
    np.testing.assert_allclose(losses(moved), losses(one), rtol=1e-5)
    assert len(set(losses(one))) == STEPS
