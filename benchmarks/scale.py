"""What surrounds the step of a run, and how far the numbers of `eo_jax.plan` can be trusted.

    python -m benchmarks.scale --json benchmarks/results/cpu/scale.json
    python -m benchmarks.scale --only counts scaling

* loop: the part of a training run's time in which the device waits for the loop; at most 2 %.
* save: the part in which it waits for an asynchronous save to start, in a run that saves every 100
  steps; at most 1 %.
* resume: seconds from the command to the first step of a resumed run, over those of a cold start,
  both with compiled functions in the cache; at most 1.3.
* counts: FLOP and bytes of a step without loops as plan counts them, over XLA's own, and FLOP of
  the same step with a loop; within 5 %.
* scaling: what 256 v5p chips reach of 256 times one, for ViT-L MAE with 64 samples per chip,
  nothing that is exchanged being hidden; at least 90 %.

The first two are the clock of the run itself (`eo_jax.monitor.goodput`), which is exact on a busy
machine, too; the ratio of the run's rate to the bare step's is given beside it, and is not. Rows
stop starting when --minutes have passed. The exit code is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.step import environment
from benchmarks.step_workloads import Step, batch_of, config_of, recipe_of
from eo_jax.data.store.files import write_atomically
from eo_jax.experiment import make_experiment
from eo_jax.plan import costs, roofline
from eo_jax.training_setup import make_setup

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # as pytest does; the tests import each other

import tiny_run  # noqa: E402
from tiny_store import write_tiny_store  # noqa: E402

LIMITS = {"loop": 0.02, "save": 0.01, "resume": 1.3, "counts": 0.05, "scaling": 0.9}
STEPS, SAVE_EVERY, LOG_EVERY, STARTS = 300, 100, 25, 3
# A step of some 100 ms here, as on the accelerators that the loop is for.
_NETWORK = {
    "data.batch_size": 16,
    "data.crop": 32,
    "augment.crops.global.size": 32,
    "model.trunk.size": "small",
    "model.trunk.depth": 4,
}
_COUNTED = (("mae", "vit_nano"), ("dino", "vit_nano"), ("barlow_twins", "resnet50"))
_UNROLLED = {"loop": "unrolled"}
_POD = (
    "--config=configs/mae_spectral_earth.py:vit_l",
    "--topology=v5p:8x8x4",
    "--config.data.batch_size=16384",
    "--estimate",
    "--compiles=1",
)


def loop_and_save(work: Path) -> dict[str, dict[str, float]]:
    """A run; the part of its time that is neither step nor save, and the save's."""
    settings = {"run.steps": STEPS, "run.save_every": SAVE_EVERY, "run.log_every": LOG_EVERY}
    store = write_tiny_store(work / "store", locations=24)
    bare = _bare_rate(tiny_run.config_of(store, **_NETWORK, **settings))
    command = _training(store, work / "run", _NETWORK | settings)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    text = (work / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = map(json.loads, text.splitlines())
    lines = [line for line in lines if LOG_EVERY < line["step"] < STEPS]  # neither start nor end
    wall = sum(line["time/wall_s"] for line in lines)

    def part(*phases: str) -> float:
        seconds = sum(
            line.get(f"time/{phase}", 0.0) * line["time/wall_s"]
            for line in lines
            for phase in phases
        )
        return seconds / wall

    rates = sorted(line["samples_per_s"] for line in lines if "samples_per_s" in line)
    return {
        "loop": {"value": part("data", "other"), "over_bare_rate": rates[-1] / bare},
        "save": {"value": part("checkpoint"), "wall_s": wall},
    }


def _training(store: Path, workdir: Path, settings: Mapping[str, Any]) -> list[str]:
    """The command of a tiny run with these settings and no evaluators."""
    paths = [key.replace(".global.", '["global"].') for key in settings]
    changes = [
        f"--config.{path}={value}" for path, value in zip(paths, settings.values(), strict=True)
    ]
    arguments = [*tiny_run.arguments(store, workdir), *changes, "--evals="]
    return [sys.executable, "-m", "eo_jax.train", *arguments]


def _bare_rate(config: Mapping[str, Any]) -> float:
    """Samples per second of the compiled step alone, the fastest of five parts."""
    experiment = make_experiment(config)
    setup = make_setup(experiment, experiment.sharding, lambda value: [value])
    batch = next(iter(setup.empty_batches().values()))
    batch = jax.tree.map(lambda x: x * 0 + 1, batch)
    step = setup.session.compile({"all": batch})["all"].step
    state, rates = setup.session.init(), []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        rates.append(10 * experiment.data.batch_size / (time.perf_counter() - start))
    return max(rates)


def resume(work: Path) -> dict[str, dict[str, float]]:
    """Starts a run and kills it, resumes it and kills it; the fastest of each counts."""
    store, seconds = write_tiny_store(work / "store"), {"cold": [], "resumed": []}
    _first_line(store, work / "warm", work)  # fills the cache
    for n in range(STARTS):
        workdir = work / f"run{n}"
        seconds["cold"].append(_first_line(store, workdir, work))
        seconds["resumed"].append(_first_line(store, workdir, work))
        shutil.rmtree(workdir)
    cold, resumed = min(seconds["cold"]), min(seconds["resumed"])
    return {"resume": {"value": resumed / cold, "cold_s": cold, "resumed_s": resumed}}


def _first_line(store: Path, workdir: Path, work: Path) -> float:
    """Seconds until the run has logged its first step; it is killed when it has saved one more
    checkpoint.
    """
    settings = {"run.steps": 10_000, "run.save_every": 5, "run.log_every": 1}
    command = _training(store, workdir, settings)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    before, old = _saved(workdir), _inode(workdir)  # a resumed run writes another file
    first = max(before, default=0)
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | cache,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _wait(process, lambda: _inode(workdir) != old and _last_step(workdir) > first)
        seconds = time.perf_counter() - start
        _wait(process, lambda: bool(_saved(workdir) - before))
        process.send_signal(signal.SIGKILL)
    return seconds


def _wait(run: subprocess.Popen, arrived: Callable[[], bool]) -> None:
    while not arrived():
        if run.poll() is not None:
            raise RuntimeError(f"the run ended by itself with {run.returncode}")
        time.sleep(0.01)


def _saved(workdir: Path) -> set[int]:
    return {int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()}


def _inode(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0


def _last_step(workdir: Path) -> int:
    try:
        lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def counts() -> dict[str, dict[str, float]]:
    """Plan's counts of compiled steps over XLA's; and of a step with a scan over those of the same
    step without.
    """
    found, worst = {}, 0.0
    for objective, backbone in _COUNTED:
        ours, xla = _counted(objective, backbone, _UNROLLED)
        ratios = {
            "flops": ours.whole.flops / xla["flops"],
            "bytes": ours.whole.bytes / xla["bytes accessed"],
        }
        found[f"{objective} {backbone}"] = ratios
        worst = max(worst, *(abs(ratio - 1) for ratio in ratios.values()))
        if backbone.startswith("vit"):
            scanned, _ = _counted(objective, backbone, {"loop": "scan"})
            ratios["scan_flops"] = scanned.whole.flops / xla["flops"]
            worst = max(worst, abs(ratios["scan_flops"] - 1))
    return {"counts": {"value": worst, **found}}


def _counted(
    objective: str, backbone: str, of_vits: Mapping[str, str]
) -> tuple[costs.Costs, Mapping[str, float]]:
    # Recomputation is left as XLA pleases where blocks are unrolled, so there is none in either.
    config = config_of(objective, backbone, 2, {**of_vits, "remat": "none"})
    if "decoder_remat" in config["objective"]:
        config["objective"]["decoder_remat"] = "none"
    experiment = make_experiment(config)
    compiled = Step.of(experiment, recipe_of(experiment), batch_of(experiment)).compiled
    return costs.read(compiled.as_text()), compiled.cost_analysis()


def scaling(work: Path) -> dict[str, dict[str, float]]:
    """By the partitioner, in a process of its own; products alone count for a device, since bytes
    of an estimate are an upper limit, which would flatter.
    """
    file = work / "plan.json"
    command = [sys.executable, "-m", "eo_jax.plan", *_POD, f"--json={file}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    plan = json.loads(file.read_text())
    products = plan["seconds"]["products"] / roofline.PRODUCTS
    exchanged = (plan["seconds"]["links"] + plan["seconds"]["network"]) / roofline.RATES
    return {
        "scaling": {
            "value": products / (products + exchanged),
            "products_s": products,
            "exchanged_s": exchanged,
            "at_16_per_chip": products / (products + 4 * exchanged),
            "fits": plan["fits"],
        }
    }


ROWS: Mapping[str, Callable[[Path], dict[str, dict[str, Any]]]] = {
    "loop": loop_and_save,
    "resume": resume,
    "counts": lambda work: counts(),
    "scaling": scaling,
}


def met(row: str, value: float) -> bool:
    """Whether a value is within its limit."""
    return value >= LIMITS[row] if row == "scaling" else value <= LIMITS[row]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the results are written after each row."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scale", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(ROWS), metavar="ROW", help="these rows; loop has save")
    add("--minutes", type=float, default=15, help="no row starts after so many (default: 15)")
    add("--json", type=Path, metavar="F", help="file of the results")
    args = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    began, found = time.monotonic(), {}
    for name in args.only or ROWS:
        if time.monotonic() > began + 60 * args.minutes:
            print(f"{name}: left out, {args.minutes:g} minutes have passed")
            continue
        with tempfile.TemporaryDirectory(prefix="scale-") as work:
            start = time.monotonic()
            rows = ROWS[name](Path(work))
        for row, figures in rows.items():
            figures["limit"], figures["met"] = LIMITS[row], met(row, figures["value"])
            print(f"{row}: {figures}, {time.monotonic() - start:.0f} s", flush=True)
        found |= rows
        if args.json:
            result = {**environment(), "rows": found}
            write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0 if all(figures["met"] for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
