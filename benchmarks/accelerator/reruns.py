"""Equal runs of the train command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.patches import write_store
from benchmarks.accelerator.scale import Scale

ROOT = Path(__file__).parents[2]


def equal_runs(scale: Scale) -> Iterator[dict[str, Any]]:
    """Whether two runs of the train command in fresh processes end with the same bits; if not,
    whether a third one does that starts with the first one's choice of kernels.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_store(work / "store", "zarr", 8, scale.pick(128, 32))
        steps = scale.pick(50, 4)
        first, second = (_trained(work, name, scale, steps) for name in ("first", "second"))
        yield {"steps": steps, "first": first, "second": second, "equal": first == second}
        kernels = list((work / "first").glob("autotuning-*.pb"))
        if first == second or not kernels:
            return
        (work / "third").mkdir()
        for file in kernels:
            (work / "third" / file.name).write_bytes(file.read_bytes())
        third = _trained(work, "third", scale, steps)
        yield {"with_same_kernels": third, "equal_with_same_kernels": first == third}


def _trained(work: Path, name: str, scale: Scale, steps: int) -> str:
    """SHA-256 of the state after training in the workdir `name`."""
    settings = scale.pick(("model.stems.enmap.patch=8", "data.batch_size=64"), ())
    variant = scale.pick("vit_s", "smoke")
    overrides = (
        f"data.sources.enmap.store={work / 'store'}",
        f"run.steps={steps}",
        "evals.collapse.max_samples=64",  # it runs at the end and changes nothing
        *settings,
    )
    _output(
        "eo_jax.train",
        f"--config=configs/mae_spectral_earth.py:{variant}",
        f"--workdir={work / name}",
        *(f"--config.{override}" for override in overrides),
    )
    return _output("eo_jax.checkpoint", "hash", str(work / name)).split()[-5]


def _output(module: str, *arguments: str) -> str:
    """What a command prints; RuntimeError with its last lines if it fails."""
    command: Sequence[str] = (sys.executable, "-m", module, *arguments)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-3:]
        raise RuntimeError(f"{module} ended with exit code {ended.returncode}: {' / '.join(last)}")
    return ended.stdout
