"""From a store on the disk to the step on the device: the loader, checkpoints, and equal runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accelerator.cases import config_of, repeated_batch_of
from benchmarks.accelerator.scale import Scale
from benchmarks.step_workloads import Step, recipe_of
from benchmarks.stores import write_linked_store
from eo_jax import doctor
from eo_jax.checkpoint import Checkpoints
from eo_jax.experiment import make_experiment
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

ROOT = Path(__file__).parents[2]
_LOCATIONS = 4096  # at least: Grain's shuffle of fewer is slow
_MATERIALS = 6

# ------------------------------------------------------------------ loader -> device -> step


def fed_step(scale: Scale, case: str, format: str) -> Iterator[dict[str, Any]]:
    """Batches per second of the loader alone, the step alone and both, by `eo_jax.doctor`;
    "data_wait" is the fraction of the time in which the device waits for data.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(case, scale, {}, {})
        store, side = Path(folder) / "store", config.data.crop
        write_store(store, format, scale.pick(32, 8), side)
        config.data.sources.eo.store = str(store)
        config.data.threads = max(2, len(os.sched_getaffinity(0)) // 2)  # others run the step
        size = sum(path.stat().st_size for path in _first_files(store))
        yield {"format": format, "ratio": scale.pick(32, 8) * _patch_bytes(side) / size}
        rates, setup, batch_bytes = doctor.examine(config.to_dict(), scale.pick(4.0, 0.2), print)
        yield {
            "threads": setup.threads,
            "batch_mb": batch_bytes / 1e6,
            "loader_batches_per_s": rates.loader,
            "step_batches_per_s": rates.step,
            "together_batches_per_s": rates.together,
            "samples_per_s": rates.together * config.data.batch_size,
            "data_wait": max(0.0, 1 - rates.together / rates.step),
            "bound_by": doctor.bound_by(rates),
        }


def write_store(path: Path, format: str, patches: int, side: int) -> None:
    """A store of simulated EnMAP patches that compress like real ones: smooth mixtures of smooth
    spectra, and noise.
    """
    random = np.random.default_rng(0)
    spectra = _smooth(random.standard_normal((_MATERIALS, len(ENMAP.bands))), 100)
    samples = [
        Sample(_patch(random, spectra, side), ENMAP.id, f"{i:04d}", f"{i:04d}")
        for i in range(patches)
    ]
    write_linked_store(path, format, samples, -(-_LOCATIONS // patches))


def _patch(random: np.random.Generator, spectra: np.ndarray, side: int) -> np.ndarray:
    """int16 [c, side, side]"""
    maps = _smooth(random.standard_normal((_MATERIALS, side * side)), side)
    values = 2500 + 100 * np.einsum("mc,mp->cp", spectra, maps)
    values += 10 * random.standard_normal(values.shape, np.float32)
    return np.clip(values, 1, 10_000).astype(np.int16).reshape(-1, side, side)


def _smooth(rows: np.ndarray, width: int) -> np.ndarray:
    """Moving means along each row, with standard deviation 1; float32."""
    kernel = np.ones(width) / width
    smooth = np.stack([np.convolve(row, kernel, "same") for row in rows])
    return (smooth / smooth.std(1, keepdims=True)).astype(np.float32)


def _patch_bytes(side: int) -> int:
    return len(ENMAP.bands) * side * side * 2


def _first_files(store: Path) -> list[Path]:
    """The files of the first shard, which has every patch."""
    pixels = [path for path in store.glob("pixels/*/c/0/**/*") if path.is_file()]
    return pixels or [store / "shards" / "00000.array_record"]


# ------------------------------------------------------------------ checkpoints


def checkpoint_stall(scale: Scale, case: str) -> Iterator[dict[str, Any]]:
    """Seconds that the loop loses to a save while training goes on: "call_s" in which it waits for
    the copy and the checksums, "slower_s" by which the steps during the write take longer. The
    first save compiles the checksums; the second is the figure.
    """
    config = config_of(case, scale, {}, {})
    experiment = make_experiment(config)
    step = Step.of(experiment, recipe_of(experiment), repeated_batch_of(experiment))
    alone = scale.step_s(step.run)["step_s"]
    yield {"step_s": alone}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for number in (1, 2):
            figures = _save(checkpoints, step, number, config.to_dict(), alone)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            yield {f"save_{number}": figures, "checkpoint_gb": size / number / 1e9}
            yield {"stall_s": figures["call_s"] + figures["slower_s"]}


def _save(
    checkpoints: Checkpoints, step: Step, number: int, config: dict, alone: float
) -> dict[str, float]:
    start = time.perf_counter()
    checkpoints.save(number, step.state, number, config)
    call = time.perf_counter() - start
    writing, steps = threading.Thread(target=checkpoints.wait), 0
    writing.start()
    while writing.is_alive():
        step.run(1)
        steps += 1
    writing.join()
    total = time.perf_counter() - start
    return {
        "call_s": call,
        "total_s": total,
        "steps_meanwhile": steps,
        "slower_s": max(0.0, total - call - steps * alone),
    }


# ------------------------------------------------------------------ equal runs


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
    overrides = (f"data.sources.enmap.store={work / 'store'}", f"run.steps={steps}", *settings)
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
