"""`launch.check`: what a launch file would run, and each thing that it may miss, with its line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from launch.check import __main__ as command
from launch.check.plan import Plan
from launch.check.yaml_file import Document

LAUNCH = Path(__file__).parents[2] / "launch"
TRAIN = ("--config=configs/mae_demo.py", "--workdir=/data/runs/a")
FILLED = {
    "IMAGE": "registry/eo_jax:cuda",
    "QUEUE": "team",
    "CLAIM": "disk",
    "CONFIG": "configs/mae_demo.py",
    "WORKDIR": "/data/runs/a",
}
ARGUMENTS = {
    "train.sbatch": TRAIN,
    "skypilot.yaml": TRAIN,
    "Dockerfile": TRAIN,
    "tpu_queued_resource.sh": ("mae", *TRAIN),
    "local_many.sh": ("2", "python", "-m", "eo_jax.train", *TRAIN),
    "jobset.yaml": (),
    "jobset_tpu.yaml": (),
}


def text_of(file: str) -> str:
    """The file, filled in by its user."""
    text = (LAUNCH / file).read_text()
    if not file.startswith("jobset"):
        return text
    return re.sub(rf"\b({'|'.join(FILLED)})\b", lambda match: FILLED[match[0]], text)


def check(folder: Path, file: str, text: str) -> Plan:
    path = folder / file
    path.write_text(text)
    return command.check(path, ARGUMENTS[file])


@pytest.mark.parametrize("file", ARGUMENTS)
def test_our_files_miss_nothing(file: str, tmp_path: Path) -> None:
    plan = check(tmp_path, file, text_of(file))
    assert plan.findings == []
    rows = dict(plan.rows)
    assert "eo_jax.train" in rows["command"] or "docker run" in rows["command"]
    assert rows["command"].count(TRAIN[1]) == 1
    assert "--xla_" in " ".join(text for label, text in plan.rows if label == "environment")


def test_what_is_printed_for_slurm(capsys, monkeypatch) -> None:
    file = LAUNCH / "train.sbatch"
    monkeypatch.setattr(sys, "argv", ["check", str(file), *TRAIN])
    assert command.main() == 0
    assert "8: 1 node(s) with 8 tasks, one GPU each" in (printed := capsys.readouterr().out)
    assert "TERM to every process 300 s before the limit, 24:00:00" in printed
    assert "exit code 143: scontrol requeue" in printed
    assert (
        "launch/with_flags.sh gpu .venv/bin/python -m eo_jax.train --distributed=auto "
        "--config=configs/mae_demo.py --workdir=/data/runs/a" in printed
    )


def test_what_nobody_filled_in_is_named_by_line(capsys, monkeypatch) -> None:
    file = LAUNCH / "jobset.yaml"
    monkeypatch.setattr(sys, "argv", ["check", str(file)])
    assert command.main() == 1
    lines = file.read_text().splitlines()
    found = re.findall(r"jobset.yaml:(\d+): (\w+) is not filled in", capsys.readouterr().err)
    assert {word for _, word in found} == FILLED.keys()
    assert all(word in lines[int(number) - 1] for number, word in found)


# File, what is taken out of it, what takes its place; a part of the finding and of its line.
SLURM = [
    ("#SBATCH --requeue\n", "", "no --requeue", "set -euo"),
    ("#SBATCH --open-mode=append\n", "", "would overwrite its log", "set -euo"),
    ("TERM@300", "B:TERM@300", "which would signal the batch shell only", "--signal"),
    ("TERM@300", "USR1@300", "--signal is USR1@300; expected TERM@SECONDS", "--signal"),
    ("TERM@300", "TERM@10", "leaves 10 s to finish a step and save", "--signal"),
    ("--gpus-per-node=8", "--gpus-per-node=h200:4", "--ntasks-per-node is 8", "--ntasks"),
    ("#SBATCH --nodes=1", "#SBATCH --gpus-per-task=1", "shows a task one GPU only", "per-task=1"),
    ("#SBATCH --time=24:00:00\n", "", "no --time", "set -euo"),
    ("set -euo pipefail", "set -euo pipefail\n#SBATCH --nice", "after the first", "--nice"),
    ("set -euo pipefail", "set -e", "no `set -euo pipefail`", "#!/bin/bash"),
    ("srun --gpu-bind=none", "srun", "must see all GPUs of its node", "srun --kill"),
    ("--kill-on-bad-exit=0", "--kill-on-bad-exit=1", "queue a job with an error again", "srun --g"),
    ("srun ", "mpirun ", "only under srun", "set -euo"),
    ("--distributed=auto ", "", "would not find each other", "srun --g"),
    ("-m eo_jax.train", "train.py", "does not run `python -m eo_jax.train`", "srun --g"),
    ("launch/with_flags.sh gpu ", "", "runs without XLA flags", "srun --g"),
    ('"$@" ||', '--config.optim.lr=1 "$@" ||', "sets the environment only", "--config.optim"),
    ('scontrol requeue "$SLURM_JOB_ID"', "true", "would not go on", 'exit "$code"'),
    ("-eq 143", "-eq 15", "exit code 143 does not lead to", "scontrol requeue"),
]
JOBSET = [
    ("backoffLimit", "backofLimit", "did you mean backoffLimit?", "backofLimit"),
    ("backoffLimit: 0", "backoffLimit: 3", "backoffLimit is 3; expected 0", "backoffLimit"),
    ("backoffLimit: 0", "backoffLimit: none", "'none'; expected int", "backoffLimit"),
    ("completions: 2", "completions: 3", "parallelism is 2, completions 3", "parallelism"),
    ("completionMode: Indexed", "completionMode: NonIndexed", "expected Indexed", "completionMode"),
    ("restartPolicy: Never", "restartPolicy: OnFailure", "expected Never", "restartPolicy"),
    ("GracePeriodSeconds: 300", "GracePeriodSeconds: 30", "expected at least 60", "GracePeriod"),
    ("values: [143]", "values: [42]", "no rule FailJob for exit code 143", "podFailurePolicy"),
    ("containerName: train", "containerName: main", "of container train", "podFailurePolicy"),
    (
        "action: RestartJobSetAndIgnoreMaxRestarts",
        "action: RestartJobSet",
        "is stopped",
        "failureP",
    ),
    ("maxRestarts: 3", "maxRestarts: 0", "the first error would end the run", "failurePolicy"),
    ("labels: {kueue.x-k8s.io/queue-name: team}", "labels: {}", "Kueue would not", "metadata"),
    ("train-hosts-0-0.train:", "train-0.train:", "train-hosts-0-0.train:PORT", "env:"),
    ('PROCESSES, value: "2"', 'PROCESSES, value: "4"', "expected 2, the number of pods", "env:"),
    ('PROCESSES, value: "2"', "PROCESSES, value: 2", "2; expected str", "EO_JAX_NUM_PROCESSES"),
    ("replicas: 1", "replicas: 2", "counts within its job", "replicas"),
    ("{nvidia.com/gpu: 8}", "{cpu: 8}", "no accelerator", "resources"),
    ("--config", "--distributed=auto, --config", "wins over EO_JAX_COORDINATOR", "args:"),
    ("EO_JAX_COORDINATOR", "COORDINATOR", "no --distributed", "args:"),
    (
        "value: /data/cache/jax",
        "value: /cache",
        "JAX_COMPILATION_CACHE_DIR is /cache",
        "volumeMounts",
    ),
    ("--workdir=/data/runs/a", "--workdir=/runs/a", "--workdir is /runs/a", "volumeMounts"),
    ("persistentVolumeClaim: {claimName: disk}", "emptyDir: {}", "there is none", "volumeMounts"),
    ("containers:", "initContainers:", "no container in spec", "spec:"),
    ("args:", "command: [python]\n                  args:", "hands SIGTERM", "command:"),
]
SKYPILOT = [
    ("num_nodes: 2", "num_nodes: two", "num_nodes: 'two'; expected int", "num_nodes"),
    ("use_spot", "use_spots", "did you mean use_spot?", "use_spots"),
    ("[143]", "[1]", "recover_on_exit_codes has no 143", "job_recovery"),
    ("exec launch", "launch", "expected `exec` before the command", "launch/with_flags.sh"),
    ("$SKYPILOT_NODE_RANK", "0", "run does not use SKYPILOT_NODE_RANK", "run:"),
    ("/data: {source", "/disk: {source", "expected a folder that all nodes share", "file_mounts"),
    ("  accelerators: H200:8\n", "", "no accelerator", "resources"),
]
DOCKER = [
    ("USER 1000", "USER root", "has no USER other than root", "FROM base AS"),
    ("-c constraints.txt .\n", ".\n", "versions that CI has not run", "--no-cache-dir .\n"),
    ("PYTHONUNBUFFERED=1", "HF_TOKEN=x", "looks like a secret", "HF_TOKEN"),
    ('["tini", "--", ', "tini ", "a shell between would not hand SIGTERM on", "ENTRYPOINT tini"),
]
SHELL = [
    ("local_many.sh", "trap stop_all TERM INT", "true", "a stop would not reach", "#!/bin/bash"),
    ("local_many.sh", "EO_JAX_PROCESS_ID=", "RANK=", "EO_JAX_PROCESS_ID is not set", "with_flags"),
    ("tpu_queued_resource.sh", "--worker=all", "", "all hosts must run", "tpu-vm ssh"),
    (
        "tpu_queued_resource.sh",
        "--distributed=auto",
        "",
        "hosts would not find each other",
        "tpu-vm ssh",
    ),
    ("tpu_queued_resource.sh", "        143)", "        42)", "lead to a restart", "tpu-vm ssh"),
]
MISSING = [
    *(("train.sbatch", *case) for case in SLURM),
    *(("jobset.yaml", *case) for case in JOBSET),
    *(("skypilot.yaml", *case) for case in SKYPILOT),
    *(("Dockerfile", *case) for case in DOCKER),
    *SHELL,
]


@pytest.mark.parametrize("file", sorted({case[0] for case in MISSING}))
def test_what_is_missing_is_found_and_its_line_named(file: str, tmp_path: Path) -> None:
    for _, old, new, message, place in (case for case in MISSING if case[0] == file):
        text = text_of(file)
        assert old in text, old
        plan = check(tmp_path, file, changed := text.replace(old, new))
        lines = [line for line, found in plan.findings if message in found]
        assert lines, f"{old!r} -> {new!r}: {plan.findings}"
        near = "".join(changed.splitlines(keepends=True)[lines[0] - 1 :][:2])
        assert place in near, f"{old!r} -> {new!r}: line {lines[0]} is {near!r}"


@pytest.mark.parametrize("file", sorted(ARGUMENTS.keys() - {"jobset_tpu.yaml"}))
def test_a_file_without_one_of_its_lines_is_judged_not_tripped_over(
    file: str, tmp_path: Path
) -> None:
    lines = text_of(file).splitlines(keepends=True)
    judged = 0
    for number in range(len(lines)):
        try:
            check(tmp_path, file, "".join(lines[:number] + lines[number + 1 :]))
            judged += 1
        except ValueError as error:
            assert str(tmp_path / file) in str(error)
    assert judged > len(lines) // 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: JobSet\na: &a [1]\nb: *a", "line 3: *a is an alias; write its parts out"),
        ("kind: JobSet\na: [", "not valid YAML"),
        ("kind: JobSet\na: " + "[" * 20_000, "line 2: more than 40 levels"),
        ("kind: JobSet\na: !!python/object/apply:os.getpid []", "not valid YAML"),
        ("# kind: JobSet", "there is nothing but comments in it"),
        ("kind: JobSet\n---\nkind: JobSet", "expected a single document"),
        ("#SBATCH -N 1\n\nsrun 'a\n", "line 3: unexpected EOF while looking for matching"),
        ("num_nodes: 1\nrun: |\n  if\n", "line 4: syntax error: unexpected end of file"),
        ("kind: Job\n", "is not a launch file: it has none of #SBATCH, kind: JobSet"),
        ("#" * (1 << 17), "131072 bytes; expected at most 65536"),
    ],
)
def test_files_that_cannot_be_read_as_launch_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        command.check(tmp_path / "a.yaml")


def test_arguments_of_the_run_are_looked_at() -> None:
    findings = command.check(LAUNCH / "train.sbatch", ["--config=configs/mae_demo.py"]).findings
    assert [message for _, message in findings] == ["the arguments have no --workdir"]


def test_lines_of_yaml() -> None:
    document = Document("a:\n  b:\n    - c: 1\n    - d\n")
    assert document.get("a", "b", 0, "c") == 1 and document.get("a", "x", 0) is None
    assert [document.line("a", "b", index) for index in (0, 1)] == [3, 4]
    assert document.line("a", "b") == 2 and document.line("a", "b", 1, "absent") == 4
