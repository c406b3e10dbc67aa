"""A checkpoint is restored on other meshes, numbers of devices and numbers of processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from multidevice import checkpoint_moves, start
from saved_states import files_of, halve

from eo_jax.checkpoint import Checkpoints


def test_a_checkpoint_moves_from_mesh_to_mesh_bit_for_bit(eight_devices):
    moved = eight_devices("checkpoint_moves", "2x4", "1x2", "2x2x2", "8x1", "1x8")
    assert moved["same"] and moved["steps"] == [1, 2, 3, 4, 5]
    assert [held[1] for held in moved["held"]] == [2, 4, 4, 8, 1]  # of 8, split over fsdp


def launch(workdir: Path, mesh: str, devices: int, *address: object) -> subprocess.Popen:
    command = [sys.executable, checkpoint_moves.__file__, workdir, mesh, *address]
    environment = start.environment() | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        list(map(str, command)), env=environment, cwd=start.ROOT, text=True, stderr=subprocess.PIPE
    )


def ends(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    """(exit code, standard error) of each."""
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def assert_done(*processes: subprocess.Popen) -> None:
    for code, error in ends(*processes):
        assert code == 0, error[-2000:]


def two_processes(workdir: Path) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [launch(workdir, "2x4", 4, address, 2, process) for process in range(2)]


@pytest.mark.slow
def test_a_checkpoint_moves_between_8_2_and_4_devices_and_one_and_two_processes(tmp_path):
    for mesh, devices in (("2x4", 8), ("1x2", 2), ("2x2", 4)):
        assert_done(launch(tmp_path, mesh, devices))
    assert_done(*two_processes(tmp_path))
    assert_done(launch(tmp_path, "1x1", 1))
    assert checkpoint_moves.same(tmp_path)
    assert Checkpoints(tmp_path).steps() == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_two_processes_agree_on_the_newest_intact_checkpoint(tmp_path):
    for _ in range(2):
        assert_done(*two_processes(tmp_path))
    halve(files_of(tmp_path, 2))
    assert_done(*two_processes(tmp_path))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["1", "2", "2.damaged"] and checkpoint_moves.same(tmp_path)
