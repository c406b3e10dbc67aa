"""Measures the train step: samples/s, FLOP/s, compile time and memory of each objective and backbone, and MAE, DINO and Barlow Twins against PyTorch.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.step --json /tmp/step.json
    python -m benchmarks.step --objectives mae,moco --backbones vit_s,resnet50 --batch 8 --no-peers

The first table is the whole step of `eo_jax.step`, from a batch of digital numbers on the device: augmentation, forward, backward, AdamW, teacher,
checks that all is finite; state donated; bfloat16 on accelerators, float32 on CPU. FLOP are those of the model: 6 a multiply-add of the forward
passes that carry a gradient; heads and teachers of joint objectives are left out. Memory is what XLA plans: arguments and temporaries. On CPU,
blocks of ViT encoders are unrolled and nothing is recomputed (`config.model.trunk`: loop, remat). Compile times of a shallow and a deep trunk are
compared as they are by default, scanned. The environment variable gives large arrays pages of 2 MB on Linux, ours and PyTorch's: XLA takes fresh
ones in each step.

The second table is ours against PyTorch twins (`benchmarks/step_peers.py`) with the same weights, on the same device, with as many threads, in turns,
the best turn of each. Inside the time are forward, backward, AdamW and the teacher's moving average; views are made once by our recipe and given to
both, so no side augments. The first loss of a twin must equal ours, or the ratio means nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console
from rich.table import Table

from eo_jax import build, optim
from eo_jax.augment import views
from eo_jax.data.stores import write_atomically
from eo_jax.metrics import peak_flops
from eo_jax.schema import Batch, Views
from eo_jax.step import init_state, make_train_step

TURNS = 6  # more of them rather than longer ones: what else the machine does then spoils a turn, not the figure
SEED = 0
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Workload:
    """What an objective is measured on.

    Attributes:
        sensor: whose patches; of `side` pixels.
        stem: of tokens; ResNets have their own.
        crops, section: of the config; what is left out has its default.
        beside: a second source, of another sensor at the same places, or of the same sensor and with a stem in common; "" for none.
        labelled: the source with labels of the whole patch; "" for none.
    """

    sensor: str
    side: int
    stem: Mapping[str, Any]
    crops: Mapping[str, Mapping[str, Any]]
    section: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: str = ""
    labelled: str = ""


_DISTORTED = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "jitter_odds": 0.8, "grey_odds": 0.2, "blur_odds": 0.5}
_CROPPED = {"size": 96, "scale": (0.2, 1.0)}
_GLOBAL = {**_CROPPED, **_DISTORTED}
_LOCAL = {"size": 48, "views": 4, "scale": (0.05, 0.2), **_DISTORTED}
_PAIR, _MULTI = {"global": {"views": 2, **_GLOBAL}}, {"global": {"views": 2, **_GLOBAL}, "local": _LOCAL}
_SENTINEL = functools.partial(Workload, "sentinel2_l1c", 128, {"name": "patch_embed", "patch": 16})
# Projectors are narrower than the papers' where those would make the optimizer most of a step of few samples.
_PROJECTOR = {"projector": (2048, 2048, 2048)}
WORKLOADS = {
    "mae": Workload(
        "enmap",
        128,
        {"name": "spectral_adapter", "patch": 16},
        {"global": {"size": 128, "gain": (0.9, 1.1)}},
        {"mask_ratio": 0.75, "decoder_depth": 1},
    ),
    "data2vec": _SENTINEL({"global": _GLOBAL}),
    "dino": _SENTINEL(_MULTI),
    "swav": _SENTINEL(_MULTI),
    "barlow_twins": _SENTINEL(_PAIR, _PROJECTOR),
    "vicreg": _SENTINEL(_PAIR, _PROJECTOR),
    "moco": _SENTINEL(_PAIR, {"bn_group": 4}),
    "moco_v3": _SENTINEL(_PAIR),
    "simclr": _SENTINEL(_PAIR),
    "byol": _SENTINEL(_PAIR),
    "simsiam": _SENTINEL(_PAIR),
    "decur": _SENTINEL(_PAIR | {"beside/global": {"views": 2, **_CROPPED}}, {"common": 1536, **_PROJECTOR}, beside="sentinel1_grd"),
    "clip": _SENTINEL({"global": _GLOBAL, "beside/global": _CROPPED}, beside="sentinel1_grd"),
    "semi_supervised": _SENTINEL(_PAIR, {"classes": CLASSES, "support": "beside"}, beside="sentinel2_l1c", labelled="beside"),
    "supervised": _SENTINEL({"global": _GLOBAL}, {"task": "classification", "outputs": CLASSES}, labelled="eo"),
}
_VITS = {"vit_nano": "nano", "vit_s": "small", "vit_b": "base", "vit_l": "large"}
BACKBONES = {name: {"name": "vit", "size": size} for name, size in _VITS.items()} | {"resnet50": {"name": "resnet", "depth": 50}}
TOKENS_ONLY = ("mae", "data2vec")
OPTIM = {"lr": 1e-4, "schedule": "constant", "weight_decay": 0.05, "clip_norm": 0.0, "decay_rules": ((".*", 1.0),)}
# {platform: {(objective, way of the twin): samples/s of ours to the twin's, at least}}
GOALS = {
    "cpu": {("mae", "compiled"): 1.2, ("mae", "all pixels"): 3.0, ("dino", "eager"): 1.0, ("barlow_twins", "eager"): 1.0},
    "gpu": {("mae", "compiled"): 1.3, ("mae", "all pixels"): 3.0, ("dino", "compiled"): 1.3, ("barlow_twins", "compiled"): 1.3},
}
LOSS_TOLERANCE = {"cpu": 1e-4, "gpu": 2e-2}  # relative; bfloat16 has 3 digits
# How ViTs run where they are timed.
TRUNKS: dict[str, dict[str, str]] = {"cpu": {"loop": "unrolled", "remat": "none"}}
# Scanned blocks make a deep trunk compile like a shallow one.
SCAN, SCAN_AT_MOST = ("vit_s", "vit_l"), 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 where a goal is missed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.step", description=__doc__, formatter_class=raw)
    several = functools.partial(str.split, sep=",")
    parser.add_argument("--objectives", type=several, default=["mae", "dino", "barlow_twins"], metavar="A,B", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--backbones", type=several, default=["vit_s", "resnet50"], metavar="A,B", help=f"of {', '.join(BACKBONES)}")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="samples a step (default: 8)")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help=f"steps of each of the {TURNS} turns (default: 1)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there")
    parser.add_argument("--no-peers", action="store_true", help="without the PyTorch twins")
    args = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with PyTorch
    jax.config.update("jax_enable_compilation_cache", False)  # compile times would be those of a file's reading
    twins, notes = ([], []) if args.no_peers else available_twins()
    try:
        figures = measure(args.objectives, args.backbones, args.batch, args.steps, twins)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = {**environment(), "batch": args.batch, "steps": args.steps, **figures, "notes": notes + figures["notes"]}
    figures["goals"] = goals(figures)
    _print(figures)
    if args.json:
        write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0 if all(goal["reached"] for goal in figures["goals"]) else 3


def available_twins() -> tuple[list[str], list[str]]:
    """(objectives that have a twin here, why not)."""
    if importlib.util.find_spec("torch") is None:
        return [], ["no PyTorch twins: pip install torch"]
    import torch

    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return [], ["no PyTorch twins: this PyTorch has no GPU, and they must run on the device that ours runs on"]
    from benchmarks import step_peers

    torch.set_num_threads(_threads())
    return list(step_peers.TWINS), []


def environment() -> dict[str, Any]:
    """{"date", "platform", "device", "threads", "malloc", "versions"}."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch")
    versions = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    return {
        "date": datetime.date.today().isoformat(),
        "platform": jax.default_backend(),
        "device": f"{jax.devices()[0].device_kind} ({platform.machine()})",
        "threads": _threads(),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": {"python": platform.python_version(), **versions},
    }


def _threads() -> int:
    return len(os.sched_getaffinity(0))


# ------------------------------------------------------------------ what is measured


def experiment_of(objective: str, backbone: str, batch: int, of_vits: Mapping[str, str] = MappingProxyType({})) -> build.Experiment:
    """The experiment of a workload; its store is not there. `of_vits` is more of the config of a ViT. ValueError for names that are not known."""
    for name, known in ((objective, WORKLOADS), (backbone, BACKBONES)):
        if name not in known:
            raise ValueError(f"no {name!r}; there are {', '.join(known)}")
    work, trunk = WORKLOADS[objective], BACKBONES[backbone]
    trunk = trunk | of_vits if trunk["name"] == "vit" else dict(trunk)
    sources, stems = {"eo": {"store": "none", "sensor": work.sensor}}, {"eo": dict(work.stem) if trunk["name"] == "vit" else {"name": "conv_stem"}}
    if work.beside:
        alike = work.beside == work.sensor
        sources["beside"] = {"store": "none", "sensor": work.beside, "follows": "" if alike else "eo"}
        stems["beside"] = "eo" if alike else stems["eo"]
    if work.labelled:
        sources[work.labelled]["label"] = "class"
    config = ml_collections.ConfigDict()
    config.data = {"sources": sources, "batch_size": batch, "crop": work.side}
    config.augment = {"crops": {name: dict(crop) for name, crop in work.crops.items()}}
    config.model = {"stems": stems, "trunk": trunk, "dtype": "auto"}
    config.objective = {"name": objective, **work.section}
    config.optim = dict(OPTIM)
    config.run = {"steps": 1_000_000, "seed": SEED}
    return build.experiment(build.complete(config))


def batch_of(experiment: build.Experiment) -> Batch:
    """Digital numbers [b, 1, c, h, w] on the device, in the sensor's dtype, spread as its published statistics say; all are data. Labels [b, 1]."""
    data, random = experiment.data, np.random.default_rng(SEED)
    batch: Batch = {}
    for source, encoder in experiment.encoders.items():
        sensor = encoder.sensor
        mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (sensor.mean, sensor.std))
        values = mean + std * random.standard_normal((data.batch_size, 1, len(sensor.bands), data.crop, data.crop), np.float32)
        whole = np.issubdtype(np.dtype(sensor.dtype), np.integer)
        batch[source] = {"pixels": (np.clip(values, 1, 10_000) if whole else values).astype(sensor.dtype)}
        if data.sources[source].label:
            batch[source]["label"] = random.integers(1, CLASSES + 1, (data.batch_size, 1))
    return jax.device_put(batch)


def recipe_of(experiment: build.Experiment) -> views.Recipe:
    """Its augmentation, normalised by published statistics."""
    published = {source: views.normalisation("published", encoder.sensor, None) for source, encoder in experiment.encoders.items()}
    return build.recipe(experiment, published)


@dataclasses.dataclass
class Step:
    """A compiled train step and its state."""

    compiled: Any
    batch: Any
    state: Any
    compile_s: float

    @classmethod
    def of(cls, experiment: build.Experiment, make_views: Callable, batch: Any) -> Step:
        """Compiled, its weights made."""
        make_state, step = _make(experiment, make_views)
        compiled, seconds = compile_step(make_state, step, batch)
        return cls(compiled, batch, jax.jit(make_state)(), seconds)

    def run(self, steps: int) -> float:
        """So many steps, to their end; the last one's loss."""
        for _ in range(steps):
            self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def memory_mb(self) -> float:
        """Arguments and temporaries, as XLA plans them."""
        planned = self.compiled.memory_analysis()
        return (planned.argument_size_in_bytes + planned.temp_size_in_bytes) / 1e6


def _make(experiment: build.Experiment, make_views: Callable) -> tuple[Callable, Any]:
    """(what makes the state, the jitted step)."""
    objective, steps = experiment.objective, experiment.run.steps
    shapes, _ = jax.eval_shape(lambda: objective.init(jax.random.key(0)))
    optimizer = optim.make_optimizer(experiment.optim, shapes, steps)
    step = make_train_step(objective, optimizer, make_views, seed=SEED, steps=steps, accum=1)
    return functools.partial(init_state, objective, optimizer, SEED), jax.jit(step, donate_argnums=0)


def compile_step(make_state: Callable, step: Any, batch: Any) -> tuple[Any, float]:
    """(the compiled step, seconds of tracing, lowering and compiling); nothing runs."""
    like = jax.eval_shape(make_state)
    start = time.perf_counter()
    compiled = step.lower(like, batch).compile()
    return compiled, time.perf_counter() - start


# ------------------------------------------------------------------ measuring


def measure(objectives: Sequence[str], backbones: Sequence[str], batch: int, steps: int, twins: Sequence[str]) -> dict[str, Any]:
    """{"steps_of_ours": rows, "peers": rows, "scan": {backbone: seconds}, "notes": lines}."""
    rows, peers, notes = [], [], []
    for objective in objectives:
        for backbone in backbones:
            experiment = experiment_of(objective, backbone, batch, TRUNKS.get(jax.default_backend(), {})) if fits(objective, backbone) else None
            if experiment is None:
                notes.append(f"{objective} takes tokens, which {backbone} has not: left out")
                continue
            rows.append({"objective": objective, "backbone": backbone, **whole_step(experiment, steps)})
            print(f"{objective} {backbone}: {rows[-1]['samples_per_s']:.2f} samples/s", file=sys.stderr, flush=True)
            if objective in twins and BACKBONES[backbone]["name"] == "vit":
                found, failed = race(experiment, objective, steps)
                peers += [{"objective": objective, "backbone": backbone, **row} for row in found]
                notes += failed
    return {"steps_of_ours": rows, "peers": peers, "scan": scan_check(batch), "notes": notes}


def fits(objective: str, backbone: str) -> bool:
    """Whether an objective can train a backbone."""
    return objective not in TOKENS_ONLY or BACKBONES.get(backbone, {}).get("name") != "resnet"


def whole_step(experiment: build.Experiment, steps: int) -> dict[str, float | None]:
    """The figures of a step that makes its views."""
    step = Step.of(experiment, recipe_of(experiment).train, batch_of(experiment))
    seconds = best_of({"ours": step.run}, steps)["ours"]
    rate = experiment.data.batch_size / seconds
    flops, peak = rate * 6 * experiment.multiply_adds(), peak_flops()
    mfu = flops / peak if peak else None
    return {"samples_per_s": rate, "flops_per_s": flops, "mfu": mfu, "compile_s": step.compile_s, "memory_mb": step.memory_mb()}


def best_of(contenders: Mapping[str, Callable[[int], float]], steps: int) -> dict[str, float]:
    """Seconds a step of each, the best of the turns that they take one after the other; one step before the first turn."""
    for run in contenders.values():
        run(1)
    best = dict.fromkeys(contenders, math.inf)
    for _ in range(TURNS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(steps)
            best[name] = min(best[name], (time.perf_counter() - start) / steps)
    return best


def race(experiment: build.Experiment, objective: str, steps: int) -> tuple[list[dict[str, Any]], list[str]]:
    """({"contender", "samples_per_s", "first_loss", "ours_to_it"} of ours, views given, and of each twin; which could not run)."""
    shown = jax.jit(recipe_of(experiment).train)(batch_of(experiment), jax.random.key(1))
    ours = Step.of(experiment, lambda batch, key: batch, shown)
    runs, losses, failed = {}, {}, []
    for way in ways(objective):
        try:
            runs[way] = twin_of(experiment, objective, way, ours.state, shown).run
            losses[way] = runs[way](1)
        except RuntimeError as error:  # torch.compile without a compiler, memory
            del runs[way]
            failed.append(f"{objective}, PyTorch {way}: {str(error).strip().splitlines()[0]}")
    runs["ours"], losses["ours"] = ours.run, ours.run(1)
    seconds = best_of(runs, steps)
    rate = lambda way: experiment.data.batch_size / seconds[way]  # noqa: E731
    rows = [
        {"contender": way, "samples_per_s": rate(way), "first_loss": losses[way], "ours_to_it": rate("ours") / rate(way)}
        for way in ("ours", *seconds)
    ]
    return rows[:-1], failed


def ways(objective: str) -> list[str]:
    """How the twin of an objective runs here: as it is, and as the goals of this platform have it."""
    wanted = GOALS.get(jax.default_backend(), {})
    return list(dict.fromkeys(["eager", *(way for of, way in wanted if of == objective)]))


def twin_of(experiment: build.Experiment, objective: str, way: str, state: Mapping[str, Any], shown: Views) -> Any:
    """A `step_peers.Peer` with the weights of a state at step 0, on the views of its batch."""
    from benchmarks import step_peers

    inputs = {name.removeprefix("eo/"): np.asarray(view) for name, view in shown.items() if not name.endswith("/valid")}
    if objective == "mae":  # so that the same tokens stay visible: what `masking.random_split` draws at step 0
        _, key = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0))
        side = inputs["global"].shape[2] // experiment.objective.encoder.patch
        inputs["noise"] = np.asarray(jax.random.uniform(key, (len(inputs["global"]), side**2)))
    params = {**state["params"], **({"teacher": state["carry"]["teacher"]["params"]} if "teacher" in state["carry"] else {})}
    return step_peers.make(objective, way, experiment, params, inputs, {"cpu": "cpu", "gpu": "cuda"}[jax.default_backend()])


def scan_check(batch: int) -> dict[str, float]:
    """{backbone: seconds to trace, lower and compile MAE's step}, the better of two turns; nothing runs."""
    best = dict.fromkeys(SCAN, math.inf)
    for _ in range(2):
        for backbone in SCAN:
            jax.clear_caches()
            experiment = experiment_of("mae", backbone, batch)
            _, seconds = compile_step(*_make(experiment, recipe_of(experiment).train), batch_of(experiment))
            best[backbone] = min(best[backbone], seconds)
    return best


# ------------------------------------------------------------------ what is shown


def goals(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"goal", "at_least" or "at_most", "found", "reached"} each; those of what was not measured are left out."""
    rows, where = [], figures["platform"]
    for row in figures["peers"]:
        name = f"{row['objective']} {row['backbone']}: ours / PyTorch {row['contender']}"
        if (least := GOALS[where].get((row["objective"], row["contender"]))) and row["backbone"] == SCAN[0]:
            rows.append({"goal": name, "at_least": least, "found": row["ours_to_it"]})
        if row["contender"] in ("eager", "compiled"):
            own = next(
                r["first_loss"] for r in figures["peers"] if all(r[k] == row[k] for k in ("objective", "backbone")) and r["contender"] == "ours"
            )
            apart = abs(row["first_loss"] - own) / abs(own)
            rows.append({"goal": f"{name}, first losses apart", "at_most": LOSS_TOLERANCE[where], "found": apart})
    shallow, deep = (figures["scan"][backbone] for backbone in SCAN)
    rows.append({"goal": f"compile time of {SCAN[1]} / {SCAN[0]}", "at_most": SCAN_AT_MOST, "found": deep / shallow})
    for row in rows:
        row["reached"] = row["found"] >= row["at_least"] if "at_least" in row else row["found"] <= row["at_most"]
    return rows


def _print(figures: Mapping[str, Any]) -> None:
    console = Console(width=130)
    trunks = "".join(f", {name}={value}" for name, value in TRUNKS.get(figures["platform"], {}).items())
    title = f"the whole step, batch {figures['batch']}, {figures['device']}, {figures['threads']} threads{trunks}, {figures['date']}"
    table = Table("objective", "backbone", "samples/s", "GFLOP/s", "MFU", "compile s", "memory MB", title=title)
    for row in figures["steps_of_ours"]:
        mfu = f"{row['mfu']:.1%}" if row["mfu"] else "-"
        numbers = f"{row['samples_per_s']:.2f}", f"{row['flops_per_s'] / 1e9:.1f}", mfu, f"{row['compile_s']:.1f}", f"{row['memory_mb']:.0f}"
        table.add_row(row["objective"], row["backbone"], *numbers)
    console.print(table)
    if figures["peers"]:
        table = Table(
            "objective", "backbone", "contender", "samples/s", "ours / it", "first loss", title="views given: forward, backward, AdamW, teacher"
        )
        for row in figures["peers"]:
            numbers = f"{row['samples_per_s']:.2f}", f"{row['ours_to_it']:.2f}", f"{row['first_loss']:.6g}"
            table.add_row(row["objective"], row["backbone"], {"ours": "eo_jax"}.get(row["contender"], f"PyTorch {row['contender']}"), *numbers)
        console.print(table)
    verdicts = Table("goal", "", "found", "")
    for row in figures["goals"]:
        limit = f">= {row['at_least']:g}" if "at_least" in row else f"<= {row['at_most']:g}"
        verdicts.add_row(row["goal"], limit, f"{row['found']:.3g}", "reached" if row["reached"] else "MISSED")
    console.print(verdicts)
    for note in figures["notes"]:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
