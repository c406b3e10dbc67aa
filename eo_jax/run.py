"""Run settings, provenance files and resume checks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import eo_jax
from eo_jax import topology
from eo_jax.augment.views import Normalisation
from eo_jax.data.pipeline import Pipeline, Source
from eo_jax.data.store.files import write_atomically, writing
from eo_jax.plan import memory as step_memory
from eo_jax.schema import Batch, TrainState
from eo_jax.step import CompiledStep


@dataclasses.dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        steps: number of optimizer steps; schedules end there.
        seed: seeds weights, order of samples, crops and masks.
        log_every: steps between log lines; each costs a forward pass of at most 256 samples, for
            collapse metrics.
        save_every: steps between checkpoints; the last step is saved anyway.
        max_to_keep: newest checkpoints to keep.
        keep_every: keep those at multiples of so many steps, too; 0 for none.
        keep_best: keep the one with the best value of this score, too, as in "eval/knn/accuracy" or
            "eval/knn/s2/accuracy"; "" for none.
        keep_best_mode: "max" if a higher value is better, "min" if a lower one is.
        max_skipped: steps of a mixture component in a row that may be skipped because they are not
            finite or spikes; one more ends the run.
        writers: writers besides metrics.jsonl: ("tensorboard",) or ().
        init_from: workdir of a run whose encoder gives the initial weights, or a file of a PyTorch
            network (safetensors, npz); "" for random ones.
        init_layout: layout of such a file, a name in exchange/layouts; "" for the first that fits.
        init_encoder: which of its encoders, as in "enmap.teacher"; "" for the objective's first.
        init_rules: regex on paths of this run -> path in that encoder; () for its encoder, and its
            teacher's, as a whole. See warm_start.py.
    """

    steps: int = 1000
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    max_to_keep: int = 2
    keep_every: int = 0
    keep_best: str = ""
    keep_best_mode: str = "max"
    max_skipped: int = 10
    writers: tuple[str, ...] = ()
    init_from: str = ""
    init_layout: str = ""
    init_encoder: str = ""
    init_rules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        for field in ("steps", "log_every", "save_every", "max_to_keep", "max_skipped"):
            if getattr(self, field) < 1:
                raise ValueError(f"config.run.{field}: {getattr(self, field)}; expected at least 1")
        if self.keep_every < 0 or self.keep_every % self.save_every:
            raise ValueError(
                f"config.run.keep_every: {self.keep_every}; expected a multiple of save_every, "
                f"{self.save_every}, or 0"
            )
        if self.keep_best_mode not in ("max", "min"):
            raise ValueError(
                f"config.run.keep_best_mode: {self.keep_best_mode!r}; expected 'max' or 'min'"
            )
        if set(self.writers) - {"tensorboard"}:
            raise ValueError(
                f"config.run.writers: {self.writers!r}; expected ('tensorboard',) or ()"
            )


# May differ between a run and its resumption, since none of it changes a weight. A store may also
# move (its content hash counts), and a cache changes no batch. Skipping bad records changes no
# batch that can be read.
_FREE = (
    "data.threads",
    "data.prefetch",
    "data.undo_differences",
    "data.on_error",
    "data.max_bad_fraction",
    "augment.sampling",
    "sharding.",
    "run.log_every",
    "run.save_every",
    "run.max_to_keep",
    "run.keep_",
    "run.max_skipped",
    "run.writers",
    "evals.",
)


def check_same_run(saved: dict, config: dict, workdir: str, *, extend: bool) -> None:
    """Raises ValueError, listing every difference that matters, where `workdir` holds a run of
    another config; with `extend`, steps may differ.
    """
    free = (*_FREE, "run.steps") if extend else _FREE
    before, now = (
        dict(_flat(saved)),
        dict(_flat(json.loads(json.dumps(config)))),
    )  # JSON has no tuples, and the saved config is JSON
    changed = [
        f"  {key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
        and not key.startswith(free)
        and not key.endswith((".store", ".cache"))
    ]
    if changed:
        listing = "\n".join(changed)
        raise ValueError(
            f"{workdir} holds a run of another config:\n{listing}\nUse another --workdir, or undo "
            "the change. "
            "To train the same run for longer, give --extend-to=STEPS instead of changing "
            "run.steps." + _dtype_hint(before, now)
        )


def _dtype_hint(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How to go on where "auto" means another compute type on this machine."""
    saved = before.get("model.dtype")
    if saved == now.get("model.dtype"):
        return ""
    return f" To go on in the compute type of the run, give --config.model.dtype={saved}."


def _flat(config: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "blosc2",
        "array_record",
    )
    found = {package: importlib.metadata.version(package) for package in packages}
    return {
        "eo_jax": eo_jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        **found,
    }


def data_fingerprints(pipeline: Pipeline, normalisation: Mapping[str, Normalisation]) -> dict:
    """{source: its fingerprint}."""
    return {
        name: data_fingerprint(source, normalisation[name])
        for name, source in pipeline.sources.items()
    }


def data_fingerprint(source: Source, numbers: Normalisation) -> dict:
    """The provenance of a source for checkpoint, report and export: store, content hash, counts,
    sensor row, normalisation.
    """
    return {
        "store": source.store.path.name,
        "content_sha256": source.store.content_hash,
        "licence": source.store.manifest.get("archive", {}).get("licence", "not stated"),
        "split": source.config.split,
        "locations": source.locations,
        "samples": len(source.groups.members),
        "locations_dropped": source.groups.dropped,
        "locations_repeating_dates": source.groups.count_short_of(source.config.dates),
        "sensor": source.sensor.row(),
        "normalisation": {
            "source": numbers.source,
            "mean": numbers.mean.tolist(),
            "std": numbers.std.tolist(),
        },
    }


def sizes(params: Any, pipeline: Pipeline, mesh: jax.sharding.Mesh) -> list[str]:
    """Numbers of weights, devices, and locations and samples per source, for the first log line."""
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return [
        f"parameters {weights:,}; devices {mesh.size} x {jax.devices()[0].device_kind}, mesh "
        f"{topology.described(mesh)}",
        *(_drawn_from(source, pipeline.config.batch_size) for source in pipeline.sources.values()),
    ]


def _drawn_from(source: Source, batch_size: int) -> str:
    found = (
        f"source {source.name}: {source.locations} {source.unit}, {len(source.groups.members)} "
        f"samples, {source.groups.dropped} locations dropped"
    )
    if source.locations < batch_size:
        found += f", FEWER than the batch of {batch_size}: some are in a batch twice"
    dates = source.config.dates
    if dates == 1:
        return found
    short = source.groups.count_short_of(dates)
    return f"{found}, {short} have fewer than {dates} dates and repeat some"


def memory(
    compiled: Mapping[str, CompiledStep], shapes: TrainState, batches: Mapping[str, Batch]
) -> Iterator[str]:
    """The memory of the compiled train step per mixture component and kind, and what a logged step
    takes after it: a copy of the weights and the features for collapse metrics.

    Args:
        shapes: of the state, with shardings.
        batches: {component: a global batch}.
    """
    for component, (step, pooled) in compiled.items():
        planned = step.compiled.memory_analysis()
        arguments, temporary, after = (
            size / 2**20
            for size in (
                planned.argument_size_in_bytes,
                planned.temp_size_in_bytes,
                pooled.memory_analysis().temp_size_in_bytes,
            )
        )
        yield (
            f"compiled; memory per device: arguments {arguments:.0f} MiB, temporary "
            f"{temporary:.0f} MiB (component {component}); after logged steps the weights once "
            f"more and temporary {after:.0f} MiB"
        )
        of_kinds = step_memory.of_step(shapes, batches[component], step.compiled)
        yield from (f"  {line}" for line in step_memory.lines(of_kinds))


def check_steps(workdir: Path, first: int, steps: int) -> None:
    """Raises ValueError where a run is asked to end before its newest checkpoint."""
    if first > steps:
        raise ValueError(
            f"{workdir}: already trained to step {first}, but --extend-to={steps}; give more than "
            f"{first}"
        )


def check_same_data(workdir: Path, fingerprint: dict) -> None:
    """Raises ValueError where a store changed since the run in `workdir` began."""
    before = json.loads((workdir / "data.json").read_text())
    for name, now in fingerprint.items():
        if before[name]["content_sha256"] != now["content_sha256"]:
            raise ValueError(
                f"{workdir}: source {name!r} was trained on content "
                f"{before[name]['content_sha256'][:12]}..., store {now['store']} now holds "
                f"{now['content_sha256'][:12]}...; point config.data.sources.{name}.store at the "
                "old store, or use another --workdir"
            )


def write_provenance(workdir: Path, config: dict, fingerprint: dict) -> None:
    """WORKDIR/config.json, data.json and versions.json, by process 0."""
    if jax.process_index():
        return
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    for name, value in (("config", config), ("data", fingerprint), ("versions", versions())):
        write_atomically(workdir / f"{name}.json", (json.dumps(value, indent=1) + "\n").encode())


class Stopped(Exception):
    """Ends an evaluation, since the run is to stop."""


def closing_message(workdir: Path, step: int, steps: int, *, done: bool) -> str:
    """The last line of a run, with the next command; it is `done` or was stopped."""
    if not done and not step:
        return "stopped before the first step: nothing to save; the same command starts again"
    if not done:
        return (
            f"stopped at step {step} of {steps}, state saved; the same command resumes from there"
        )
    return (
        f"done: {workdir}; next: python -m eo_jax.export --workdir={workdir} "
        "--output=encoder.safetensors"
    )
