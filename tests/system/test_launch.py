"""The launch scripts run for real, on this machine, with stand-ins for the commands of clusters and
a small program in place of training.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from launch import xla_flags

ROOT = Path(__file__).parents[2]
STAND_INS = ROOT / "tests" / "stand_ins"
SCRIPTS = sorted((ROOT / "launch").glob("*.sh")) + sorted((ROOT / "launch").glob("*.sbatch"))
TRAIN = ["--config=configs/mae demo.py", "--workdir=/data/runs/it's"]  # as users quote them
DISTRIBUTED = ["--distributed=auto", *TRAIN]


class Cluster:
    """Commands of a cluster on the PATH, and what they wrote down."""

    def __init__(self, folder: Path):
        self.folder = folder / "written"
        self.folder.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        for script in STAND_INS.glob("*.py"):
            shim = self.bin / ("python" if script.stem == "trainer" else script.stem)
            site = "" if script.stem == "kubectl" else "-S"  # starts faster without packages
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} {site} {script} "$@"\n')
            shim.chmod(0o755)
        for name in ("sudo", "mountpoint"):
            (self.bin / name).symlink_to(STAND_INS / name)

    def environment(self, runs: list, **more: str) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX", "XLA", "EO_JAX", "SLURM", "LIBTPU", "CUDA"))
        }
        return inherited | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHON": str(self.bin / "python"),
            "STAND_INS": str(self.folder),
            "RUNS": json.dumps(runs),
            **more,
        }

    def run(self, *command: object, runs: list, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment(runs, **more),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, command: str, *words: str) -> list[list[str]]:
        """Arguments of the calls of a command that have all the words."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [
            call["arguments"]
            for call in map(json.loads, lines)
            if call["command"] == command and set(words) <= set(call["arguments"])
        ]

    def trained(self) -> list[dict]:
        """Every process that trained: its number, arguments and environment."""
        lines = (self.folder / "trained.jsonl").read_text().splitlines()
        return sorted(map(json.loads, lines), key=lambda line: line["process"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


# -------------------------------------------------------------------------------------- all scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK) == (script.suffix == ".sh")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    found = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


NAMED = re.findall(r"\blaunch/[\w./]*\w", (ROOT / "docs" / "clusters.md").read_text())


def test_no_launch_file_sets_a_hyper_parameter() -> None:
    for path in (ROOT / "launch").iterdir():
        if path.is_file() and path.suffix != ".py":
            commands = [line for line in path.read_text().splitlines() if line[:1] != "#"]
            assert "--config." not in "\n".join(commands), path.name


def test_the_guide_names_what_is_there() -> None:
    assert {"launch/train.sbatch", "launch/jobset_tpu.yaml"} < set(NAMED)
    assert not [name for name in NAMED if not (ROOT / name).exists()]


def test_the_queues_of_the_guide_have_the_names_that_a_job_would_use() -> None:
    text = (ROOT / "docs" / "clusters.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    flavor, queue, local, _claim = yaml.safe_load_all(block)
    (group,) = queue["spec"]["resourceGroups"]
    assert group["flavors"][0]["name"] == flavor["metadata"]["name"]
    assert group["flavors"][0]["resources"][0]["name"] in group["coveredResources"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]


# -------------------------------------------------------------------------------------------- SLURM


def sbatch(cluster: Cluster, runs: list, **more: str) -> subprocess.CompletedProcess:
    options = ("--nodes=1", "--ntasks-per-node=2")
    return cluster.run("sbatch", *options, "launch/train.sbatch", *TRAIN, runs=runs, **more)


def test_slurm_queues_a_stopped_run_again(cluster: Cluster) -> None:
    """Every process gets SIGTERM before the limit; the second start, with the same command, is
    done.
    """
    done = sbatch(cluster, [["stop", "stop"], ["done", "done"]], LIMIT="1")
    assert done.returncode == 0, done.stderr
    assert cluster.calls("scontrol") == [["requeue", "4711"]]
    trained = cluster.trained()
    assert [(run["process"], run["arguments"]) for run in trained] == [
        (0, DISTRIBUTED),
        (0, DISTRIBUTED),
        (1, DISTRIBUTED),
        (1, DISTRIBUTED),
    ]
    environment = trained[0]["environment"]
    assert environment["JAX_PLATFORMS"] == "cuda,cpu"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == f"{ROOT}/.cache/jax"
    assert "--xla_gpu_all_reduce_combine_threshold_bytes=268435456" in environment["XLA_FLAGS"]


@pytest.mark.parametrize(("run", "code"), [(["notice", 1], 75), (["done", 1], 1)])
def test_slurm_queues_no_error_again(cluster: Cluster, run: list, code: int) -> None:
    """Nor does it end a process that has no handler yet: SIGTERM would give that the exit code of a
    stop, which is the highest of all.
    """
    done = sbatch(cluster, [run, ["done", "done"]])
    assert done.returncode == code
    assert not cluster.calls("scontrol")


# ---------------------------------------------------------------------------------------------- TPU


def slice_of_tpus(cluster: Cluster, runs: list, slices: list) -> subprocess.CompletedProcess:
    return cluster.run(
        "launch/tpu_queued_resource.sh",
        "mae",
        *TRAIN,
        runs=runs,
        SLICES=json.dumps(slices),
        ZONE="us-east5-b",
        TYPE="v6e-8",
        RUNTIME="v2-alpha-tpuv6e",
        IMAGE="us-docker.pkg.dev/me/eo_jax:tpu",
        NFS="10.0.0.2:/share",
        POLL_S="0",
    )


def test_tpus_that_are_taken_away_are_asked_for_again(cluster: Cluster) -> None:
    """Twice; a run that is stopped in between goes on with the TPUs that it has."""
    runs = [[143, 143], ["done", "done"]]
    done = slice_of_tpus(cluster, runs, ["preempt", "run", "refuse", "run"])
    assert done.returncode == 0, done.stderr
    assert len(cluster.calls("gcloud", "create", "mae")) == 3
    assert len(cluster.calls("gcloud", "delete", "mae")) == 3  # two that were lost, one at the end
    assert cluster.calls("gcloud", "create")[0][3:] == [
        "create",
        "mae",
        "--zone=us-east5-b",
        "--quiet",
        "--node-id=mae",
        "--accelerator-type=v6e-8",
        "--runtime-version=v2-alpha-tpuv6e",
        "--spot",
    ]
    assert [run["arguments"] for run in cluster.trained()] == [DISTRIBUTED] * 4
    environment = cluster.trained()[0]["environment"]
    assert environment["JAX_PLATFORMS"] == "tpu,cpu"
    assert "data_parallel_all_reduce" in environment["LIBTPU_INIT_ARGS"]
    assert "XLA_FLAGS" not in environment  # they would end the process
    assert "mount 10.0.0.2:/share /data" in (cluster.folder / "sudo").read_text().splitlines()


def test_an_error_ends_the_tpus_and_is_the_exit_code(cluster: Cluster) -> None:
    done = slice_of_tpus(cluster, [[75, 1]], ["run"])
    assert done.returncode == 75
    assert len(cluster.calls("gcloud", "delete", "mae")) == 1


def test_tpus_that_do_not_answer_are_kept(cluster: Cluster) -> None:
    done = slice_of_tpus(cluster, [], ["lost"] * 5)
    assert done.returncode == 1
    assert "still exists and costs" in done.stderr
    assert not cluster.calls("gcloud", "delete")


# --------------------------------------------------------------------------------------- Kubernetes

FILLED = {"QUEUE": "team", "CLAIM": "disk", "CONFIG": "configs/mae.py", "WORKDIR": "/data/runs/a"}


def filled(file: str, image: str) -> str:
    text = (ROOT / "launch" / file).read_text()
    for word, value in (FILLED | {"IMAGE": image}).items():
        text = re.sub(rf"\b{word}\b", value, text)
    return text


def jobset(
    cluster: Cluster, runs: list, evict: int = 0, file: str = "jobset.yaml"
) -> subprocess.CompletedProcess:
    image = "eo_jax:tpu" if "tpu" in file else "eo_jax:cuda"
    path = cluster.folder / file
    path.write_text(filled(file, image).replace("maxRestarts: 3", "maxRestarts: 1"))
    return cluster.run("kubectl", "apply", "-f", path, runs=runs, EVICT=str(evict))


def test_kubernetes_restarts_a_stopped_run_without_counting(cluster: Cluster) -> None:
    """Two stops, though maxRestarts is 1."""
    done = jobset(cluster, [["stop", "stop"]] * 2 + [["done", "done"]], evict=2)
    assert done.returncode == 0, done.stderr
    trained = cluster.trained()
    assert len(trained) == 6
    assert trained[-1]["arguments"] == ["--config=configs/mae.py", "--workdir=/data/runs/a"]
    environment = trained[-1]["environment"]
    assert environment["EO_JAX_PROCESS_ID"] == "1"
    assert environment["EO_JAX_NUM_PROCESSES"] == "2"
    assert environment["EO_JAX_COORDINATOR"] == "train-hosts-0-0.train:8476"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/data/cache/jax"


def test_kubernetes_ends_a_run_after_too_many_errors(cluster: Cluster) -> None:
    assert jobset(cluster, [[1, 75]] * 2).returncode == 1
    assert len(cluster.trained()) == 4


def test_a_tpu_slice_needs_no_addresses(cluster: Cluster) -> None:
    done = jobset(cluster, [["done"] * 4], file="jobset_tpu.yaml")
    assert done.returncode == 0, done.stderr
    environments = [run["environment"] for run in cluster.trained()]
    assert len(environments) == 4
    assert cluster.trained()[0]["arguments"][0] == "--distributed=auto"
    assert not [name for name in environments[0] if name.startswith("EO_JAX")]


# ----------------------------------------------------------------------------------------- SkyPilot


def test_skypilot_tells_every_node_who_it_is(cluster: Cluster, tmp_path: Path) -> None:
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    checkout = tmp_path / "checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / "launch").symlink_to(ROOT / "launch")
    (checkout / ".venv" / "bin" / "python").symlink_to(cluster.bin / "python")
    environment = cluster.environment(
        [["done", 143]],
        SKYPILOT_NODE_RANK="1",
        SKYPILOT_NODE_IPS="10.0.0.4\n10.0.0.5",
        SKYPILOT_NUM_NODES="2",
        ARGUMENTS='--config=configs/mae.py --config.augment.crops["global"].size=32',
    )
    code = subprocess.run(["bash", "-c", task["run"]], cwd=checkout, env=environment).returncode
    assert code == 143 and code in task["resources"]["job_recovery"]["recover_on_exit_codes"]
    (run,) = cluster.trained()
    assert run["arguments"] == [
        "--distributed=10.0.0.4:8476",
        "--process-id=1",
        "--num-processes=2",
        "--config=configs/mae.py",
        '--config.augment.crops["global"].size=32',
    ]
    assert set(task["envs"].values()) == {None}  # SkyPilot then asks for them


# ------------------------------------------------------------------------------------- this machine


def local_many(cluster: Cluster, *runs: object, **more: str) -> subprocess.CompletedProcess:
    command = ("launch/local_many.sh", len(runs), "python", "-m", "eo_jax.train", *TRAIN)
    return cluster.run(*command, runs=[runs], **more)


def test_local_processes_find_each_other(cluster: Cluster) -> None:
    done = local_many(cluster, "done", "done")
    assert done.returncode == 0, done.stderr
    first, second = (run["environment"] for run in cluster.trained())
    assert (first["EO_JAX_PROCESS_ID"], second["EO_JAX_PROCESS_ID"]) == ("0", "1")
    assert first["EO_JAX_NUM_PROCESSES"] == second["EO_JAX_NUM_PROCESSES"] == "2"
    assert first["EO_JAX_COORDINATOR"] == second["EO_JAX_COORDINATOR"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", first["EO_JAX_COORDINATOR"])
    assert first["JAX_PLATFORMS"] == "cpu" and "CUDA_VISIBLE_DEVICES" not in first
    assert cluster.trained()[1]["arguments"] == TRAIN


def test_local_processes_have_a_gpu_each(cluster: Cluster) -> None:
    assert local_many(cluster, "done", "done", PLATFORM="gpu").returncode == 0
    gpus = [run["environment"]["CUDA_VISIBLE_DEVICES"] for run in cluster.trained()]
    assert gpus == ["0", "1"]


@pytest.mark.parametrize(
    ("runs", "worst"),
    [((143, "done"), 143), ((143, 75), 75), ((75, 1), 1), (("stop", 3), 3), (("early", 1), 1)],
)
def test_the_worst_exit_code_of_local_processes(cluster: Cluster, runs: tuple, worst: int) -> None:
    """An error also stops a process that waits."""
    assert local_many(cluster, *runs).returncode == worst


def _hears_interrupts() -> None:
    """A shell ignores SIGINT in what it starts in the background, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_local_processes(cluster: Cluster, sent: signal.Signals) -> None:
    command = ["launch/local_many.sh", "2", "python", "-m", "eo_jax.train"]
    environment = cluster.environment([["stop", "stop"]])
    process = subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=_hears_interrupts)
    end = time.monotonic() + 30
    while len(list(cluster.folder.glob("started-*"))) < 2:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait(30) == 143


def test_local_many_says_how_it_is_used() -> None:
    done = subprocess.run(
        ["launch/local_many.sh", "python", "x"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "usage: launch/local_many.sh N COMMAND...\n")


# ---------------------------------------------------------------------------------------- XLA flags


def exports(platform: str, **environment: str) -> Mapping[str, str]:
    return xla_flags.exports(platform, environment, xla_flags.version("jaxlib"))


def test_jax_takes_the_flags_and_each_changes_something() -> None:
    """jaxlib parses those of CPU and GPU alike, and ends a process with an unknown one. Those of
    TPUs are for libtpu's parser.
    """
    flags = f"{exports('cpu')['XLA_FLAGS']} {exports('gpu')['XLA_FLAGS']}"
    code = (
        "import jax; jax.devices(); from jaxlib import xla_client; "
        "options = xla_client.CompileOptions(); build = options.executable_build_options; "
        "print(build.debug_options)"
    )

    def options(flags: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return dict(re.findall(r"^(\w+): (.+)$", done.stdout, re.MULTILINE))

    before, after = options(""), options(flags)
    wanted = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    assert len(wanted) >= 4
    assert {name: after[name] for name in wanted} == wanted
    assert not [name for name in wanted if before[name] == wanted[name]]


def test_every_flag_has_a_reason_and_a_form_that_its_parser_reads() -> None:
    for platform, flags in xla_flags.FLAGS.items():
        for flag in flags:
            assert re.fullmatch(rf"xla_{platform}_[a-z_]+", flag.name)
            assert re.fullmatch(r"true|false|\d+", flag.value)
            assert len(flag.reason) > 40


def test_flags_of_the_user_come_last_and_all_can_be_switched_off() -> None:
    assert exports("gpu", XLA_FLAGS="--mine=1")["XLA_FLAGS"].endswith(" --mine=1")
    assert exports("tpu", XLA_FLAGS="--mine=1").keys() == {"LIBTPU_INIT_ARGS"}
    assert exports("gpu", EO_JAX_XLA_FLAGS="off") == {}
    with pytest.raises(ValueError, match="EO_JAX_XLA_FLAGS: 'no'; expected 'on'"):
        exports("gpu", EO_JAX_XLA_FLAGS="no")


def test_jaxlib_0_12_is_spared_the_flag_that_it_has_no_more() -> None:
    name = "latency_hiding_scheduler"
    assert name in xla_flags.exports("gpu", {}, "0.10.2")["XLA_FLAGS"]
    assert name not in xla_flags.exports("gpu", {}, "0.12.0.1")["XLA_FLAGS"]


def test_what_the_environment_sets_wins(cluster: Cluster) -> None:
    done = local_many(
        cluster,
        "done",
        JAX_PLATFORMS="proxy",
        JAX_COMPILATION_CACHE_DIR="/shared/cache",
        EO_JAX_XLA_FLAGS="off",
    )
    assert done.returncode == 0, done.stderr
    environment = cluster.trained()[0]["environment"]
    assert environment["JAX_PLATFORMS"] == "proxy"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/shared/cache"
    assert "XLA_FLAGS" not in environment
