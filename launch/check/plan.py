"""What the check of a launch file says: rows to print, and findings with their lines."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version

from launch.xla_flags import exports

COORDINATOR, COUNT, NUMBER = "EO_JAX_COORDINATOR", "EO_JAX_NUM_PROCESSES", "EO_JAX_PROCESS_ID"
STOPPED = 143  # exit code of a run that was stopped with its state saved
# A step and a save take longer than schedulers wait by default (30 s).
LEAST_S = 60


@dataclasses.dataclass
class Plan:
    """What a launch file would do.

    Attributes:
        title: kind of the file.
        rows: (label, text) to print.
        findings: (line, message) of each thing that a run misses.
    """

    title: str
    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    findings: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def show(self, label: str, text: str) -> None:
        """Adds a row."""
        self.rows.append((label, text))

    def expect(self, condition: object, line: int, message: str) -> None:
        """Adds a finding unless the condition holds."""
        if not condition:
            self.findings.append((line, message))

    def show_command(self, words: Sequence[str], line: int, arguments: Sequence[str]) -> None:
        """Adds rows with the command of a process and its XLA flags; checks both.

        Args:
            words: of the command, from the interpreter or a wrapper on.
            line: where it is.
            arguments: for `eo_jax.train`, from the command line of the check; may be empty.
        """
        self.show("command", shlex.join(words))
        self.expect(
            "eo_jax.train" in words, line, "the command does not run `python -m eo_jax.train`"
        )
        for option in ("--config", "--workdir") if arguments else ():
            self.expect(
                any(word == option or word.startswith(f"{option}=") for word in words),
                line,
                f"the arguments have no {option}",
            )
        self.show_flags(words, line)

    def expect_distributed(self, words: Sequence[str], line: int, environment: bool) -> None:
        """Adds a finding if the processes of a command would not find each other.

        Args:
            words: of the command.
            line: where it is.
            environment: whether EO_JAX_COORDINATOR is set for it, which the option would hide.
        """
        option = next((word for word in words if word.startswith("--distributed")), "")
        self.expect(
            option or environment,
            line,
            "the command has no --distributed: its processes would not find each other; expected "
            "--distributed=auto or HOST:PORT",
        )
        self.expect(
            not (option and environment),
            line,
            f"{option} wins over {COORDINATOR}, which the environment sets; leave it out",
        )

    def show_flags(self, words: Sequence[str], line: int) -> None:
        """Adds a row with the XLA flags that with_flags.sh sets."""
        wrapper = next(
            (i for i, word in enumerate(words) if word.endswith("with_flags.sh")), len(words)
        )
        platform = next(iter(words[wrapper + 1 :]), "")
        if not re.fullmatch("cpu|gpu|tpu", platform):
            self.expect(
                False,
                line,
                "the command does not start with `launch/with_flags.sh cpu`, gpu or tpu, so it "
                "runs without XLA flags and may fall back to the CPU",
            )
            return
        for name, value in exports(platform, {}, version("jaxlib")).items():
            self.show("environment", f"{name}={value}")


def no_hyper_parameters(plan: Plan, text: str) -> None:
    """Adds a finding for each line outside comments that sets a value of the config."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.search(r"--config\.[\w.]+", line.split("# ")[0]):
            plan.expect(
                line.lstrip().startswith("#"),
                number,
                f"{found[0]}: a launch file sets the environment only; give overrides on the "
                "command line",
            )
