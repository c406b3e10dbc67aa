"""XLA flags per platform, each with its reason and the jaxlib versions that it is for.

    python -m launch.xla_flags gpu      # prints: export XLA_FLAGS='...'

launch/with_flags.sh, and through it every launcher, evaluates that line. EO_JAX_XLA_FLAGS=off
switches all flags off. What XLA_FLAGS or LIBTPU_INIT_ARGS holds already comes last, and the last
value of a flag wins, so that one flag is changed like this:

    XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=false

XLA ends a process that sets a flag that it does not know, hence the versions. No flag changes what
a run computes. Nothing is imported from the project, since the file also runs by its path.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Mapping
from importlib.metadata import version


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag, and why it is set.

    Attributes:
        name: without dashes.
        value: as XLA reads it.
        reason: the default it replaces, and what that costs.
        before: first jaxlib version, as "0.12", that is not given the flag.
    """

    name: str
    value: str
    reason: str
    before: str = "0.13"  # the bound of pyproject.toml: later versions have not been looked at


_FUSED = (
    "XLA sends collectives of up to 30 MiB as one message; a gradient in fewer, larger messages "
    "uses more of the network (MaxText's scripts for H100, 2026)"
)
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "cpu": (
        Flag(
            "xla_cpu_collective_call_terminate_timeout_seconds",
            "600",
            "the default of 40 s ends a healthy run where several processes or devices share a few "
            "cores and one of them is late",
        ),
    ),
    "gpu": (
        Flag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "off by default in jaxlib 0.10, where collectives then do not overlap with compute; "
            "jaxlib 0.12 accepts the flag but has no such option any more",
            before="0.12",
        ),
        Flag("xla_gpu_all_reduce_combine_threshold_bytes", str(256 << 20), _FUSED),
        Flag("xla_gpu_all_gather_combine_threshold_bytes", str(128 << 20), _FUSED),
        Flag("xla_gpu_reduce_scatter_combine_threshold_bytes", str(128 << 20), _FUSED),
    ),
    # The limit of scoped VMEM, which others raise as well, depends on chip and model.
    "tpu": (
        Flag(
            "xla_tpu_enable_data_parallel_all_reduce_opt",
            "true",
            "off by default; overlaps the gradient's all-reduce between slices with compute "
            "(MaxText's list of flags, 2026)",
        ),
        Flag(
            "xla_tpu_data_parallel_opt_different_sized_ops",
            "true",
            "lets the flag above work on weights of different shapes",
        ),
    ),
}
# libtpu has a parser of its own; XLA_FLAGS with its flags would end the process.
VARIABLE = {"cpu": "XLA_FLAGS", "gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}


def exports(platform: str, environment: Mapping[str, str], jaxlib: str) -> dict[str, str]:
    """The variable to set for `platform`, or {} if EO_JAX_XLA_FLAGS is "off" in `environment`.

    Raises ValueError for any other value of that switch than "on" or "off".
    """
    switch = environment.get("EO_JAX_XLA_FLAGS", "on")
    if switch not in ("on", "off"):
        raise ValueError(f"EO_JAX_XLA_FLAGS: {switch!r}; expected 'on' (the default) or 'off'")
    if switch == "off":
        return {}
    chosen = [
        f"--{flag.name}={flag.value}"
        for flag in FLAGS[platform]
        if _number(jaxlib) < _number(flag.before)
    ]
    set_already = environment.get(VARIABLE[platform], "").split()
    return {VARIABLE[platform]: " ".join([*chosen, *set_already])}


def _number(text: str) -> tuple[int, ...]:
    """(0, 12) of "0.12.0.1"."""
    return tuple(int(part) for part in text.split(".")[:2])


def main() -> None:
    """Prints shell commands that set the flags of the platform given."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.xla_flags",
        description="Print the shell command that sets the XLA flags of a platform.",
        epilog='example: eval "$(python -m launch.xla_flags gpu)"',
    )
    parser.add_argument("platform", choices=sorted(FLAGS))
    arguments = parser.parse_args()
    try:
        found = exports(arguments.platform, os.environ, version("jaxlib"))
    except ValueError as error:
        parser.error(str(error))
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
