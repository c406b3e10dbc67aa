"""Checks of the scripts that start processes by themselves: on this machine, and on a TPU slice."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from launch.check import shell
from launch.check.plan import COORDINATOR, COUNT, NUMBER, STOPPED, Plan, no_hyper_parameters


def local(text: str, arguments: Sequence[str]) -> Plan:
    """What the script would start for `arguments`: N COMMAND..."""
    found = Plan("processes on this machine")
    shell.check_script(found, text)
    no_hyper_parameters(found, text)
    lines = shell.statements(text)
    count, *command = arguments or ["N", "COMMAND"]
    found.expect(
        not arguments or (re.fullmatch(r"[1-9]\d*", count) and command),
        1,
        f"arguments {' '.join(arguments)!r}; expected N COMMAND..., N at least 1",
    )
    found.show("processes", f"{count}, numbered from 0")
    start = shell.find(lines, r"with_flags\.sh")
    for variable in (COORDINATOR, COUNT, NUMBER):
        found.expect(
            shell.find(lines, rf"\b{variable}="),
            start.line if start else 1,
            f"{variable} is not set: the processes would not find each other",
        )
    found.show("environment", f"{COORDINATOR}=127.0.0.1:PORT {COUNT}={count} {NUMBER}=0...")
    platform = shell.defaults(text).get("PLATFORM", "cpu")
    wrapped = ["launch/with_flags.sh", platform] if start else []
    if "eo_jax.train" in command:
        found.show_command([*wrapped, *command], 1, command)
        found.expect_distributed(command, 1, environment=True)
    else:
        found.show("command", shlex.join([*wrapped, *command]))
        found.show_flags(wrapped, 1)
    trap = shell.find(lines, r"^trap \w+ .*\bTERM\b")
    found.expect(trap, 1, "no trap for TERM: a stop would not reach the processes")
    found.show("signals", "TERM and INT: TERM to every process; an error of one stops the others")
    found.show("restart", "none: the same command resumes")
    return found


def tpu(text: str, arguments: Sequence[str]) -> Plan:
    """What the script would do for `arguments`: NAME, then those of `eo_jax.train`."""
    found = Plan("TPU queued resource")
    shell.check_script(found, text)
    no_hyper_parameters(found, text)
    lines = shell.statements(text)
    name, *rest = arguments or ["NAME"]
    everything = "\n".join(line.text for line in lines)
    ssh = shell.find(lines, r"tpu-vm ssh")
    line = ssh.line if ssh else 1
    found.show("processes", "one per host of the slice TYPE, with all of its chips")
    found.expect(
        ssh and "--worker=all" in ssh.text, line, "no `tpu-vm ssh --worker=all`: all hosts must run"
    )
    found.expect(
        "--distributed=auto" in everything,
        line,
        "the command has no --distributed=auto: the hosts would not find each other",
    )
    run = re.search(r"docker run .*", everything)
    found.expect(run, line, "no `docker run`: the hosts would run nothing")
    if run:
        plain = re.sub(r"\$\(printf '?%q '? ?(.*?)\)", r"\1", run[0]).removesuffix('"')
        found.show("command", f"{name}, all hosts: {shlex.join(shell.words(plain, {}, rest))}")
    found.show_flags(["with_flags.sh", "tpu"], line)  # the entry point of the image
    for verb, why in {"create": "nothing asks for a slice", "delete": "it would cost on"}.items():
        found.expect(shell.find(lines, rf"\b{verb}\b"), line, f"no queued-resources {verb}: {why}")
    found.expect(
        re.search(rf"\b{STOPPED}\)", everything) and re.search(r"\bSUSPENDED\)", everything),
        line,
        f"exit code {STOPPED} and state SUSPENDED do not both lead to a restart",
    )
    found.show("signals", "TERM from the host when the slice is taken away")
    found.show(
        "restart", f"exit code {STOPPED}: on the same slice; SUSPENDED: deleted and asked for again"
    )
    return found
