"""Says before it is paid for whether a config fits a pod, and how fast it would be: compiles the
real train step for devices that are not here.

    python -m eo_jax.plan --config=configs/mae_spectral_earth.py:vit_l --topology=v5e:4x4
    python -m eo_jax.plan --config=configs/mae_spectral_earth.py:vit_g --topology=v5p:8x8x8 \\
        --config.data.batch_size=4096 --config.sharding.fsdp=8 --slices=2 --json plan.json
    python -m eo_jax.plan --config=configs/dino_ssl4eo_s12.py:vit_s --topology=h100:8x4

TPUs (v4, v5e, v5p, v6e) are compiled for by libtpu (`pip install libtpu`), a slice at a time. For
GPUs (a100, h100, h200, b200; GPUS or GPUSxNODES), and without libtpu, the program is partitioned
for as many CPU devices, and memory is a model. Stores are opened for labels alone, else nothing but
the config is read. docs/scale.md says how to read a plan.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from eo_jax import cli, compile_cache, config_flags
from eo_jax.data.store.files import write_atomically
from eo_jax.plan import compiling, planning, report, topologies

_SEE_HELP = "`python -m eo_jax.plan --help` shows examples"
_MOST_JSON = 1 << 20


def main() -> int:
    """The command."""
    values = _flags()
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, values.get_help(include_special_flags=False), sep="\n")
        return 0
    others, overrides = config_flags.split_overrides(sys.argv)
    _parse(values, others)
    topology = topologies.parse(values.topology, values.slices)
    doctor = _measured(values.doctor)
    config = config_flags.load(values.config, overrides).to_dict()
    jax.config.update("jax_platforms", "cpu")  # what is planned for is not here
    compile_cache.enable()
    target = _target(topology, estimate=values.estimate)
    config = compiling.for_chip(config, topology.chip.platform)
    plan = planning.make_plan(config, target, values.compiles, _say)
    changes = compiling.overrides(config, plan.used.batch, plan.used.remat)
    run = [f"--config={values.config}", "--workdir=runs/NAME", *overrides, *changes]
    print(report.text(plan, run, doctor))
    if values.json:
        found = report.as_json(plan, run, doctor)
        write_atomically(Path(values.json), (json.dumps(found, indent=1) + "\n").encode())
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _target(topology: topologies.Topology, *, estimate: bool) -> compiling.Target:
    """Of the chip's own compiler where there is one."""
    if topology.chip.platform == "tpu" and not estimate:
        try:
            return compiling.tpu_target(topology)
        except compiling.NoCompiler as error:
            _say(f"{error}; an estimate instead")
    return compiling.cpu_target(topology)


def _flags() -> flags.FlagValues:
    """The flags of this command, separate from those of other commands in the process."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, config_flags.HELP, flag_values=values)
    flags.DEFINE_string(
        "topology", None, "chip and shape: v5e:4x4, v5p:8x8x8, h100:8x4", flag_values=values
    )
    flags.DEFINE_integer("slices", 1, "so many slices, or times the nodes", flag_values=values)
    flags.DEFINE_integer(
        "compiles",
        3,
        "of the step at most: for the config, then to look for batch and recomputation",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "estimate", False, "do as without libtpu, which takes minutes less", flag_values=values
    )
    flags.DEFINE_string(
        "doctor", None, "file of `python -m eo_jax.doctor --json`", flag_values=values
    )
    flags.DEFINE_string("json", None, "also write the plan to this file", flag_values=values)
    return values


def _parse(values: flags.FlagValues, arguments: list[str]) -> None:
    try:
        rest = values(arguments)[1:]
    except flags.Error as error:
        raise ValueError(f"{cli.first_cause(error)}; {_SEE_HELP}") from error
    if rest or values.config is None or values.topology is None:
        raise ValueError(
            f"--config=configs/FILE.py[:variant] and --topology=CHIP:SHAPE must be given, and "
            f"nothing without dashes; {_SEE_HELP}"
        )


def _measured(path: str | None) -> Mapping[str, Any] | None:
    """What doctor wrote. Raises ValueError."""
    if path is None:
        return None
    with open(path, "rb") as file:
        content = file.read(_MOST_JSON)
    try:
        found = json.loads(content)
        rate = float(found["loader_samples_per_s"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--doctor={path}: has no loader_samples_per_s; expected a file of `python -m "
            "eo_jax.doctor --json`"
        ) from error
    if not rate > 0:
        raise ValueError(f"--doctor={path}: loader_samples_per_s is {rate}; expected above 0")
    return found


if __name__ == "__main__":
    cli.run(main)
