"""Checks of a task for SkyPilot's managed jobs."""

from __future__ import annotations

from collections.abc import Sequence

from launch.check import shell
from launch.check.plan import STOPPED, Plan, no_hyper_parameters
from launch.check.yaml_file import Document, check_schema

# Fields by skypilot-org/skypilot, docs/source/reference/yaml-spec.rst; `object` is not looked into.
_SCHEMA = {
    "name": str,
    "num_nodes": int,
    "workdir": (str, dict),
    "setup": str,
    "run": str,
    **dict.fromkeys(("envs", "secrets", "file_mounts", "volumes"), dict),
    "config": object,
    "api_server_access": bool,
    "resources": {
        "accelerators": (str, dict, list),
        "use_spot": bool,
        "job_recovery": {
            "strategy": str,
            "max_restarts_on_errors": int,
            "recover_on_exit_codes": (int, list),
        },
        **dict.fromkeys(("infra", "image_id", "instance_type", "disk_tier"), object),
        **dict.fromkeys(("accelerator_args", "any_of", "ordered", "autostop", "labels"), object),
        **dict.fromkeys(("cpus", "memory", "disk_size", "ports", "network_tier"), object),
        **dict.fromkeys(("cloud", "region", "zone", "priority"), object),
    },
}
_NODES = ("SKYPILOT_NODE_IPS", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES")


def plan(text: str, arguments: Sequence[str]) -> Plan:
    """What every node would run with `arguments` in ARGUMENTS."""
    found, document = Plan("SkyPilot job"), Document(text)
    check_schema(found, document, _SCHEMA)
    if found.findings:
        return found  # what follows counts on the fields being right
    no_hyper_parameters(found, text)
    nodes, gpus = document.get("num_nodes") or 1, document.get("resources", "accelerators")
    found.show("processes", f"{nodes}: one per node, with {gpus} each")
    found.expect(gpus, document.line("resources"), "resources.accelerators: absent; no accelerator")
    _check_run(found, document, arguments)
    _check_mounts(found, document, arguments)
    _check_recovery(found, document)
    return found


def _check_run(found: Plan, document: Document, arguments: Sequence[str]) -> None:
    script, line = document.get("run") or "", document.line("run")
    shell.check_script(found, script, line + 1)
    for variable in _NODES:
        found.expect(
            variable in script, line, f"run does not use {variable}: JAX does not know SkyPilot"
        )
    lines = shell.statements(script)
    command = shell.find(lines, r"eo_jax\.train")
    found.expect(command, line, "run does not start `python -m eo_jax.train`")
    if not command:
        return
    words = shell.words(command.text.removeprefix("exec "), {}, arguments)
    found.show_command(words, line + command.line, arguments)
    found.expect_distributed(words, line + command.line, environment=False)
    found.expect(
        lines[-1] == command and command.text.startswith("exec "),
        line + command.line,
        "expected `exec` before the command, at the end of run: signals must reach it, and "
        "SkyPilot its exit code",
    )


def _check_mounts(found: Plan, document: Document, arguments: Sequence[str]) -> None:
    shared = [*(document.get("file_mounts") or ()), *(document.get("volumes") or ())]
    folders = [word[10:] for word in arguments if word.startswith("--workdir=")]
    found.expect(
        shared and all(folder.startswith(tuple(shared)) for folder in folders),
        document.line("file_mounts"),
        f"--workdir is {', '.join(folders) or 'not given'}; expected a folder that all nodes "
        f"share: {', '.join(shared) or 'file_mounts and volumes have none'}",
    )
    if shared:
        found.show("folders", f"{', '.join(shared)}, shared by all nodes")


def _check_recovery(found: Plan, document: Document) -> None:
    recovery = document.get("resources", "job_recovery") or {}
    codes = recovery.get("recover_on_exit_codes", ())
    found.expect(
        STOPPED in (codes if isinstance(codes, list) else [codes]),
        document.line("resources", "job_recovery"),
        f"job_recovery.recover_on_exit_codes has no {STOPPED}: a run that is stopped would end",
    )
    found.show("signals", "TERM when a node is stopped; a spot node may vanish without")
    found.show(
        "restart",
        f"exit code {STOPPED}, lost node: always; other exit codes but 0: "
        f"{recovery.get('max_restarts_on_errors', 0)} times",
    )
