"""What a training run left behind: lines, hashes, the end of its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from eo_jax import checkpoint, cli
from eo_jax.monitor import writers


def numbers(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    clock = ("samples_per_s", "flops_per_s", "mfu")
    return [
        {
            key: value
            for key, value in line.items()
            if key not in clock and not key.startswith("time/")
        }
        for line in writers.read_metrics(workdir)
    ]


def steps(workdir: Path) -> list[int]:
    return [line["step"] for line in writers.read_metrics(workdir)]


def hashes(workdir: Path) -> dict[str, str]:
    return checkpoint.leaf_hashes(checkpoint.Checkpoints(workdir).newest().arrays())


def end_of(capsys, main) -> tuple[int, str]:
    """(exit code, standard error) of a command."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    return stopped.value.code, capsys.readouterr().err
