"""A cluster that takes a JobSet, runs its pods on this machine and restarts them by its policies,
until it is done or has failed. EVICT=N sends SIGTERM to the pods of the first N attempts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from common import FOLDER, ROOT, called, code_of, entry_point


def pods(job: dict, attempt: int) -> Iterator[subprocess.Popen]:
    """Starts the pods of a job."""
    container = job["template"]["spec"]["containers"][0]
    for index in range(job["parallelism"]):
        field = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        fields = {field: str(index)}
        given = {
            entry["name"]: entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            for entry in container["env"]
        }
        yield subprocess.Popen(
            [*entry_point(container["image"]), *container["args"]],
            env=os.environ | {"WORKER": str(index)} | given,
            cwd=ROOT,
        )
    while len(list(FOLDER.glob(f"started-{attempt}-*"))) < job["parallelism"]:
        time.sleep(0.01)


def reason(job: dict, code: int) -> str:
    """Why a job with a pod of this exit code has failed."""
    name = job["template"]["spec"]["containers"][0]["name"]
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and codes["containerName"] == name and code in codes["values"]:
            assert (rule["action"], codes["operator"]) == ("FailJob", "In")
            return "PodFailurePolicy"
    assert job["backoffLimit"] == 0
    return "BackoffLimitExceeded"


def run(jobset: dict) -> int:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job, policy = replicated["template"]["spec"], jobset["spec"]["failurePolicy"]
    counted = 0
    for attempt in range(10):
        processes = list(pods(job, attempt))
        if attempt < int(os.environ.get("EVICT", 0)):
            for process in processes:
                process.send_signal(signal.SIGTERM)
        codes = [code_of(process) for process in processes]
        if not any(codes):
            return 0
        why = reason(job, next(code for code in codes if code))
        (rule,) = policy["rules"]
        if why in rule["onJobFailureReasons"]:
            assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
            continue
        counted += 1
        if counted > policy["maxRestarts"]:
            return 1
    raise AssertionError("restarted for ever")


called()
assert sys.argv[1:3] == ["apply", "-f"]
sys.exit(run(yaml.safe_load(Path(sys.argv[3]).read_text())))
