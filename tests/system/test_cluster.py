"""Conversion on a Dask cluster: a real scheduler and real workers, one of them killed midway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import pytest
import tiny_archives
import yaml

from data_prep.__main__ import main
from data_prep.jobs import executors

REPOSITORY = Path(__file__).parents[2]
OPTIONS = ("--labels", "landuse", "--shard-mb", "0.5")  # one patch per shard


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
        protocol="tcp://",
    ) as cluster:
        yield cluster


def convert(archive: Path, store: Path, *more: str) -> int:
    return main(
        [
            "convert",
            "spectral-earth",
            "--input",
            str(archive),
            "--output",
            str(store),
            *OPTIONS,
            *more,
        ]
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_changes_no_byte(cluster: distributed.LocalCluster, tmp_path: Path) -> None:
    archive = tiny_archives.spectral_earth(tmp_path / "archive", "landuse")
    assert convert(archive, tmp_path / "plain", "--workers", "1") == 0
    with distributed.Client(cluster) as client:
        client.run(slow_down)
        victim = sorted(worker.pid for worker in cluster.workers.values())[0]
    command = [
        sys.executable,
        "-m",
        "data_prep",
        "convert",
        "spectral-earth",
        "--input",
        str(archive),
        "--output",
        str(tmp_path / "store"),
        *OPTIONS,
    ]
    command += ["--executor", "dask", "--scheduler", cluster.scheduler_address]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    wait_for(lambda: list((tmp_path / "store").glob(".partial/0*.json")))
    os.kill(victim, signal.SIGKILL)
    assert process.wait(120) == 0
    assert victim not in {worker.pid for worker in cluster.workers.values()}
    assert tiny_archives.files(tmp_path / "store") == tiny_archives.files(tmp_path / "plain")


def slow_down() -> None:
    """Slows a worker down, so that it can be killed in the middle of a shard."""
    import time

    from data_prep.conversion import shard_task

    quick = shard_task.read_item

    def slow(*arguments: object) -> object:
        time.sleep(0.3)
        return quick(*arguments)

    shard_task.read_item = slow


def test_an_error_in_the_data_is_reported_as_usual(
    cluster: distributed.LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    archive = tiny_archives.spectral_earth(tmp_path / "archive", "landuse")
    (archive / "enmap" / "0000007" / "00004.tif").write_bytes(b"no GeoTIFF")
    assert (
        convert(
            archive,
            tmp_path / "store",
            "--executor",
            "dask",
            "--scheduler",
            cluster.scheduler_address,
        )
        == 1
    )
    message = capsys.readouterr().err
    assert "0000007/00004.tif" in message and "cannot be read as GeoTIFF" in message
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CONNECT_S", 1)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(executors.run_dask(len, [""], "tcp://127.0.0.1:9"))


@pytest.mark.parametrize("options", [("--executor", "dask"), ("--scheduler", "tcp://127.0.0.1:9")])
def test_executor_and_scheduler_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: tuple[str, ...]
) -> None:
    archive = tiny_archives.spectral_earth(tmp_path / "archive", "landuse")
    assert convert(archive, tmp_path / "store", *options) == 1
    assert "--executor dask and --scheduler ADDRESS go together" in capsys.readouterr().err


def test_the_examples_name_commands_that_are_there() -> None:
    """The modules and options in the SLURM and Kubernetes examples exist, and both files parse."""
    subprocess.run(["bash", "-n", str(REPOSITORY / "launch" / "convert_slurm.sbatch")], check=True)
    documents = list(
        yaml.safe_load_all((REPOSITORY / "launch" / "convert_kubernetes.yaml").read_text())
    )
    assert [document["kind"] for document in documents] == [
        "Service",
        "Deployment",
        "Deployment",
        "Job",
    ]
    commands = [
        document["spec"]["template"]["spec"]["containers"][0]["command"]
        for document in documents[1:]
    ]
    for command in commands[:2]:
        shown = subprocess.run(
            [sys.executable, "-m", command[2], "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert all(word.split("=")[0] in shown for word in command if word.startswith("--"))
    assert commands[2][1:4] == ["-m", "data_prep", "convert"]
