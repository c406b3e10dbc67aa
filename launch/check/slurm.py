"""Checks of a batch script for SLURM."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from launch.check import shell
from launch.check.plan import LEAST_S, STOPPED, Plan, no_hyper_parameters

_LONG = {"-J": "job-name", "-N": "nodes", "-c": "cpus-per-task", "-o": "output", "-t": "time"}


def plan(text: str, arguments: Sequence[str]) -> Plan:
    """What the job would run with `arguments`; options of sbatch itself are those in the file."""
    found = Plan("SLURM job")
    shell.check_script(found, text)
    no_hyper_parameters(found, text)
    lines = shell.statements(text)
    first = lines[0].line if lines else 1
    options = _directives(found, text, first)
    _check_size(found, options, first)
    _check_stop(found, options, first)
    step = shell.find(lines, r"^srun\b")
    if step:
        _check_step(found, step, shell.words(step.text, shell.defaults(text), arguments), arguments)
    found.expect(step, first, "no srun: JAX finds the processes of a job only under srun")
    _check_requeue(found, lines)
    return found


def _directives(found: Plan, text: str, first: int) -> dict[str, tuple[str, int]]:
    """{name of an option: (value, line)} of the #SBATCH lines that SLURM reads."""
    options = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"#SBATCH\s+(?:--([\w-]+)|(-\w))(?:[=\s]\s*(\S+))?", line)
        if not match:
            continue
        found.expect(number < first, number, "SLURM ignores #SBATCH lines after the first command")
        options[match[1] or _LONG.get(match[2], match[2])] = (match[3] or "", number)
    return options


def _check_size(found: Plan, options: Mapping[str, tuple[str, int]], first: int) -> None:
    nodes, _ = options.get("nodes", ("1", first))
    tasks, line = options.get("ntasks-per-node", ("", first))
    gpus, _ = options.get("gpus-per-node", ("", first))
    found.expect(tasks.isdigit(), line, "no --ntasks-per-node=NUMBER; expected one task per GPU")
    found.expect(
        tasks == gpus.rpartition(":")[2],
        line,
        f"--ntasks-per-node is {tasks or 'absent'} and --gpus-per-node {gpus or 'absent'}; "
        "expected the same number, since JAX gives each process one GPU",
    )
    if "gpus-per-task" in options:
        found.expect(
            False,
            options["gpus-per-task"][1],
            "--gpus-per-task shows a task one GPU only, and JAX takes the one with the number of "
            "the task; use --gpus-per-node",
        )
    found.expect("time" in options, first, "no --time: the limit of the partition applies")
    if nodes.isdigit() and tasks.isdigit():
        total = int(nodes) * int(tasks)
        found.show("processes", f"{total}: {nodes} node(s) with {tasks} tasks, one GPU each")


def _check_stop(found: Plan, options: Mapping[str, tuple[str, int]], first: int) -> None:
    signal, line = options.get("signal", ("", first))
    match = re.fullmatch(r"(B:|R:|BR:|RB:)?(?:SIG)?(?:TERM|15)@(\d+)", signal)
    found.expect(
        match and "B" not in (match[1] or ""),
        line,
        f"--signal is {signal or 'absent'}; expected TERM@SECONDS, without B:, which would signal "
        "the batch shell only",
    )
    if match:
        found.expect(
            int(match[2]) >= LEAST_S,
            line,
            f"--signal leaves {match[2]} s to finish a step and save; expected at least {LEAST_S}",
        )
        limit = options.get("time", ("of the partition", 0))[0]
        found.show("signals", f"TERM to every process {match[2]} s before the limit, {limit}")
    found.expect("requeue" in options, first, "no --requeue: a lost node would end the job")
    found.expect(
        options.get("open-mode", ("",))[0] == "append",
        first,
        "no --open-mode=append: a job that is queued again would overwrite its log",
    )


def _check_step(
    found: Plan, step: shell.Statement, words: Sequence[str], arguments: Sequence[str]
) -> None:
    start = next((i for i, word in enumerate(words) if i and not word.startswith("-")), len(words))
    options, command = words[1:start], words[start:]
    found.expect(
        "--gpu-bind=none" in options,
        step.line,
        "srun has no --gpu-bind=none: every task must see all GPUs of its node, JAX picks one",
    )
    found.expect(
        "--kill-on-bad-exit=0" in options,
        step.line,
        "srun has no --kill-on-bad-exit=0: SLURM would end the other processes by SIGTERM, and "
        f"their exit code {STOPPED} would queue a job with an error again",
    )
    found.show_command(command, step.line, arguments)
    found.expect_distributed(command, step.line, environment=False)


def _check_requeue(found: Plan, lines: Sequence[shell.Statement]) -> None:
    requeue = shell.find(lines, r"\bscontrol requeue\b")
    test = shell.find(lines, rf"\b{STOPPED}\b")
    last = lines[-1].line if lines else 1
    found.expect(
        requeue and test and test.line <= requeue.line,
        requeue.line if requeue else last,
        f"exit code {STOPPED} does not lead to `scontrol requeue $SLURM_JOB_ID`: a run that was "
        "stopped would not go on",
    )
    if requeue and test:
        found.show(
            "restart",
            f"exit code {STOPPED}: scontrol requeue, with the same job id; lost node: --requeue",
        )
