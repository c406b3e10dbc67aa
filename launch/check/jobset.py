"""Checks of a JobSet of Kubernetes (jobset.x-k8s.io/v1alpha2)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

from launch.check.jobset_schema import SCHEMA
from launch.check.plan import (
    COORDINATOR,
    COUNT,
    LEAST_S,
    NUMBER,
    STOPPED,
    Plan,
)
from launch.check.yaml_file import Document, check_schema

_QUEUE = "kueue.x-k8s.io/queue-name"
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_GPU, _TPU = "nvidia.com/gpu", "google.com/tpu"
_REPLICATED: tuple[Hashable, ...] = ("spec", "replicatedJobs", 0)
_SPEC = (*_REPLICATED, "template", "spec")
_POD_SPEC = (*_SPEC, "template", "spec")
_TRAINER = (*_POD_SPEC, "containers", 0)


def plan(text: str, arguments: Sequence[str]) -> Plan:
    """What the pods would run; `arguments` are ignored, since a JobSet has its own."""
    found, document = Plan("JobSet of Kubernetes"), Document(text)
    check_schema(found, document, SCHEMA)
    if found.findings:
        return found  # what follows counts on the fields being right
    _check_placeholders(found, document)
    if not document.get(*_TRAINER):
        found.expect(False, document.line(*_TRAINER), "no container in spec.replicatedJobs")
        return found
    found.expect(
        not arguments,
        document.line(*_TRAINER, "args"),
        "a JobSet has its own arguments, args of the container; write them there",
    )
    found.expect(
        (document.get("metadata", "labels") or {}).get(_QUEUE),
        document.line("metadata"),
        f"metadata.labels has no {_QUEUE}: Kueue would not hold the job until all pods fit",
    )
    found.expect(
        len(document.get("spec", "replicatedJobs") or ()) == 1,
        document.line("spec", "replicatedJobs"),
        "spec.replicatedJobs: expected one, since all processes of a run are alike",
    )
    _check_processes(found, document)
    _check_command(found, document)
    _check_volumes(found, document)
    _check_restart(found, document)
    return found


def _check_placeholders(found: Plan, document: Document) -> None:
    for path, text in document.strings():
        for word in re.findall(r"\b(?:IMAGE|QUEUE|CLAIM|CONFIG|WORKDIR)\b", text):
            found.expect(False, document.line(*path), f"{word} is not filled in")


def _shown(value: Any) -> str:
    return "absent" if value is None else str(value)


def _environment(document: Document) -> dict[str, Any]:
    """{name: value, or the path of the field that it comes from}."""
    return {
        entry.get("name"): entry.get("value")
        or ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        for entry in document.get(*_TRAINER, "env") or ()
    }


def _check_processes(found: Plan, document: Document) -> None:
    replicas = document.get(*_REPLICATED, "replicas") or 1
    pods, completions = document.get(*_SPEC, "parallelism"), document.get(*_SPEC, "completions")
    line = document.line(*_SPEC, "parallelism")
    found.expect(
        pods and pods == completions,
        line,
        f"parallelism is {_shown(pods)}, completions {_shown(completions)}; expected the number "
        "of hosts in both",
    )
    limits = document.get(*_TRAINER, "resources", "limits") or {}
    chip = next((name for name in (_GPU, _TPU) if name in limits), None)
    found.expect(
        chip, document.line(*_TRAINER, "resources"), f"no limit of {_GPU} or {_TPU}: no accelerator"
    )
    total = replicas * (pods or 0)
    if chip:
        found.show("processes", f"{total}: one per pod, with {limits[chip]} {chip} each")
    if chip != _TPU:
        _check_addresses(found, document, total)


def _check_addresses(found: Plan, document: Document, total: int) -> None:
    """Where JAX cannot find out by itself, as on GPUs, the environment says who is who."""
    replicas = document.get(*_REPLICATED, "replicas") or 1
    found.expect(
        replicas == 1,
        document.line(*_REPLICATED, "replicas"),
        f"replicas is {replicas}; expected 1 job with more pods: the index of a pod, which numbers "
        "the processes, counts within its job",
    )
    name, subdomain = document.get("metadata", "name"), document.get("spec", "network", "subdomain")
    host = f"{name}-{document.get(*_REPLICATED, 'name')}-0-0.{subdomain or name}"
    values, line = _environment(document), document.line(*_TRAINER, "env")
    address = _shown(values.get(COORDINATOR))
    found.expect(
        re.fullmatch(re.escape(host) + r":\d+", address),
        line,
        f"{COORDINATOR} is {address}; expected {host}:PORT, the first pod",
    )
    found.expect(
        values.get(COUNT) == str(total),
        line,
        f"{COUNT} is {_shown(values.get(COUNT))}; expected {total}, the number of pods",
    )
    found.expect(
        values.get(NUMBER) == _INDEX,
        line,
        f"{NUMBER} is {_shown(values.get(NUMBER))}; expected the fieldPath {_INDEX}",
    )


def _check_command(found: Plan, document: Document) -> None:
    limits = document.get(*_TRAINER, "resources", "limits") or {}
    platform = "tpu" if _TPU in limits else "gpu"
    line = document.line(*_TRAINER, "args")
    own = document.get(*_TRAINER, "command")
    found.expect(
        not own,
        document.line(*_TRAINER, "command"),
        "command replaces the entry point of the image, which sets the XLA flags and hands SIGTERM "
        "on; give args only",
    )
    words = document.get(*_TRAINER, "args") or []
    entry = ["launch/with_flags.sh", platform, "python", "-m", "eo_jax.train"]
    found.show_command([*entry, *words], line, words or ["ARGUMENTS"])
    environment = _environment(document)
    found.expect_distributed(words, line, environment=COORDINATOR in environment)
    for name, value in environment.items():
        found.show("environment", f"{name}={value}")


def _check_volumes(found: Plan, document: Document) -> None:
    """Workdir and compile cache lie on a volume that outlives the pod."""
    kept = {
        volume.get("name")
        for volume in document.get(*_POD_SPEC, "volumes") or ()
        if "emptyDir" not in volume
    }
    mounts = [
        mount.get("mountPath", "").rstrip("/") + "/"
        for mount in document.get(*_TRAINER, "volumeMounts") or ()
        if mount.get("name") in kept
    ]
    args = document.get(*_TRAINER, "args") or ()
    workdir = next((word[10:] for word in args if word.startswith("--workdir=")), "WORKDIR")
    cache = _environment(document).get("JAX_COMPILATION_CACHE_DIR") or ""
    for what, folder in {"--workdir": workdir, "JAX_COMPILATION_CACHE_DIR": cache}.items():
        found.expect(
            folder == "WORKDIR" or folder.startswith(tuple(mounts)),
            document.line(*_TRAINER, "volumeMounts"),
            f"{what} is {folder or 'absent'}; expected a folder on a volume that all pods share: "
            f"{', '.join(mounts) or 'there is none'}",
        )


def _check_restart(found: Plan, document: Document) -> None:
    for field, path, value in (
        ("backoffLimit", _SPEC, 0),
        ("completionMode", _SPEC, "Indexed"),
        ("restartPolicy", _POD_SPEC, "Never"),
    ):
        now = document.get(*path, field)
        found.expect(
            now == value,
            document.line(*path, field),
            f"{field} is {_shown(now)}; expected {value}: all processes restart",
        )
    grace = document.get(*_POD_SPEC, "terminationGracePeriodSeconds") or 30
    found.expect(
        grace >= LEAST_S,
        document.line(*_POD_SPEC, "terminationGracePeriodSeconds"),
        f"terminationGracePeriodSeconds is {grace}; expected at least {LEAST_S}, to finish a step "
        "and save",
    )
    name = document.get(*_TRAINER, "name")
    rules = document.get(*_SPEC, "podFailurePolicy", "rules") or ()
    found.expect(
        any(_restarts(rule, name) for rule in rules),
        document.line(*_SPEC, "podFailurePolicy"),
        f"podFailurePolicy has no rule FailJob for exit code {STOPPED} of container {name}",
    )
    found.expect(
        any(rule.get("action") == "FailJob" and "onPodConditions" in rule for rule in rules),
        document.line(*_SPEC, "podFailurePolicy"),
        "podFailurePolicy has no rule FailJob for the condition DisruptionTarget: a lost host "
        "would count as an error",
    )
    policy = document.get("spec", "failurePolicy") or {}
    found.expect(
        any(
            rule.get("action") == "RestartJobSetAndIgnoreMaxRestarts"
            and "PodFailurePolicy" in rule.get("onJobFailureReasons", ())
            for rule in policy.get("rules", ())
        ),
        document.line("spec", "failurePolicy"),
        "failurePolicy has no rule RestartJobSetAndIgnoreMaxRestarts for PodFailurePolicy: a run "
        "that is stopped often would end",
    )
    found.expect(
        policy.get("maxRestarts"),
        document.line("spec", "failurePolicy"),
        "failurePolicy has no maxRestarts: the first error would end the run",
    )
    found.show("signals", f"TERM to process 1 of each pod, {grace} s before it is killed")
    found.show(
        "restart",
        f"exit code {STOPPED}, lost host: always; other exit codes but 0: "
        f"{policy.get('maxRestarts', 0)} times",
    )


def _restarts(rule: dict, container: str) -> bool:
    """Whether a rule of a podFailurePolicy ends the job for a run that was stopped."""
    codes = rule.get("onExitCodes") or {}
    return (
        rule.get("action") == "FailJob"
        and codes.get("containerName", container) == container
        and codes.get("operator") == "In"
        and STOPPED in codes.get("values", ())
    )
