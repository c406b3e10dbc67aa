"""The workloads of `benchmarks.step`: experiment, batch and compiled train step per objective."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from eo_jax.augment import views
from eo_jax.config import complete, modules
from eo_jax.experiment import Experiment, make_recipe
from eo_jax.schema import Batch
from eo_jax.sensors import Sensor
from eo_jax.step import TrainSession

SEED = 0
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Workload:
    """The data and settings on which an objective is measured.

    Attributes:
        sensor: its id; patches have `side` pixels.
        stem: of ViTs; ResNets have their own.
        crops, section: of the config; missing keys have their defaults.
        beside: sensor of a second source: another sensor at the same locations, or the same sensor
            with a shared stem; "" for none.
        labelled: the source with labels of the whole patch; "" for none.
    """

    sensor: str
    side: int
    stem: Mapping[str, Any]
    crops: Mapping[str, Mapping[str, Any]]
    section: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: str = ""
    labelled: str = ""


_DISTORTED = {
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "jitter_prob": 0.8,
    "grayscale_prob": 0.2,
    "blur_prob": 0.5,
}
_CROPPED = {"size": 96, "scale": (0.2, 1.0)}
_GLOBAL = {**_CROPPED, **_DISTORTED}
_LOCAL = {"size": 48, "views": 4, "scale": (0.05, 0.2), **_DISTORTED}
_PAIR, _MULTI = (
    {"global": {"views": 2, **_GLOBAL}},
    {"global": {"views": 2, **_GLOBAL}, "local": _LOCAL},
)
_SENTINEL = functools.partial(Workload, "sentinel2_l1c", 128, {"name": "patch_embed", "patch": 16})
# Narrower than in the papers, where the optimizer would otherwise dominate a step of few samples.
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
    "decur": _SENTINEL(
        _PAIR | {"beside/global": {"views": 2, **_CROPPED}},
        {"common": 1536, **_PROJECTOR},
        beside="sentinel1_grd",
    ),
    "clip": _SENTINEL({"global": _GLOBAL, "beside/global": _CROPPED}, beside="sentinel1_grd"),
    "semi_supervised": _SENTINEL(
        _PAIR, {"classes": CLASSES, "support": "beside"}, beside="sentinel2_l1c", labelled="beside"
    ),
    "supervised": _SENTINEL(
        {"global": _GLOBAL}, {"task": "classification", "outputs": CLASSES}, labelled="eo"
    ),
}
DEFAULT = _SENTINEL(_PAIR)  # of objectives that are not listed
_VITS = {"vit_nano": "nano", "vit_s": "small", "vit_b": "base", "vit_l": "large"}
BACKBONES = {name: {"name": "vit", "size": size} for name, size in _VITS.items()} | {
    "resnet50": {"name": "resnet", "depth": 50}
}
TOKENS_ONLY = ("mae", "data2vec")
OPTIM = {
    "lr": 1e-4,
    "schedule": "constant",
    "weight_decay": 0.05,
    "clip_norm": 0.0,
    "decay_rules": ((".*", 1.0),),
}


def config_of(
    objective: str, backbone: str, batch: int, of_vits: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The config of a workload, whose store does not exist. `of_vits` is merged into the config of
    ViT trunks. ValueError for unknown names.
    """
    for name, known in ((objective, modules("objectives")), (backbone, BACKBONES)):
        if name not in known:
            raise ValueError(f"no {name!r}; there are {', '.join(known)}")
    trunk = BACKBONES[backbone]
    trunk = trunk | of_vits if trunk["name"] == "vit" else trunk
    return complete_config(objective, WORKLOADS.get(objective, DEFAULT), trunk, batch)


def complete_config(
    objective: str, work: Workload, trunk: Mapping[str, Any], batch: int
) -> dict[str, Any]:
    """The config of an objective on a workload, with this `config.model.trunk`."""
    sources, stems = (
        {"eo": {"store": "none", "sensor": work.sensor}},
        {"eo": dict(work.stem) if trunk["name"] == "vit" else {"name": "conv"}},
    )
    if work.beside:
        alike = work.beside == work.sensor
        sources["beside"] = {
            "store": "none",
            "sensor": work.beside,
            "paired_with": "" if alike else "eo",
        }
        stems["beside"] = "eo" if alike else stems["eo"]
    if work.labelled:
        sources[work.labelled]["label"] = "class"
    config = ml_collections.ConfigDict()
    config.data = {"sources": sources, "batch_size": batch, "crop": work.side}
    config.augment = {"crops": {name: dict(crop) for name, crop in work.crops.items()}}
    config.model = {"stems": stems, "trunk": dict(trunk), "dtype": "auto"}
    config.objective = {"name": objective, **work.section}
    config.optim = dict(OPTIM)
    config.run = {"steps": 1_000_000, "seed": SEED}
    return complete(config)


def batch_of(experiment: Experiment) -> Batch:
    """Digital numbers [b, 1, c, h, w] on the device, in the sensor's dtype, distributed as
    `statistics_of` says, without no-data. Labels [b, 1].
    """
    data, random = experiment.data, np.random.default_rng(SEED)
    batch: Batch = {}
    for source, encoder in experiment.encoders.items():
        sensor = encoder.sensor
        numbers = statistics_of(sensor)
        mean, std = (x.astype(np.float32)[:, None, None] for x in (numbers.mean, numbers.std))
        values = mean + std * random.standard_normal(
            (data.batch_size, 1, len(sensor.bands), data.crop, data.crop), np.float32
        )
        if np.issubdtype(np.dtype(sensor.dtype), np.integer):
            values = np.clip(values, 1, min(10_000, np.iinfo(sensor.dtype).max))
        batch[source] = {"pixels": values.astype(sensor.dtype)}
        if data.sources[source].label:
            batch[source]["label"] = random.integers(1, CLASSES + 1, (data.batch_size, 1))
    return jax.device_put(batch)


# Views in place of batches: for races on the same views.
NO_AUGMENTATION = views.Recipe(train=lambda views, key: views, evaluate=lambda views: views)


def recipe_of(experiment: Experiment) -> views.Recipe:
    """The experiment's augmentation, normalised by `statistics_of` its sensors."""
    numbers = {
        source: statistics_of(encoder.sensor) for source, encoder in experiment.encoders.items()
    }
    return make_recipe(experiment, numbers)


def statistics_of(sensor: Sensor) -> views.Normalisation:
    """The published ones, or those of an average photograph if nobody published any."""
    if sensor.mean:
        return views.normalisation("published", sensor, None)
    bands = len(sensor.bands)
    return views.Normalisation(np.full(bands, 120.0), np.full(bands, 60.0), "assumed")


@dataclasses.dataclass
class Step:
    """A compiled train step and its state."""

    session: TrainSession
    compiled: Any
    batch: Any
    state: Any
    compile_s: float

    @classmethod
    def of(cls, experiment: Experiment, recipe: views.Recipe, batch: Any) -> Step:
        """Compiles the step and initialises its state."""
        session = session_of(experiment, recipe)
        compiled, seconds = compile_step(session, batch)
        return cls(session, compiled, batch, session.init(), seconds)

    def run(self, steps: int) -> float:
        """Runs `steps` steps to their end; the last one's loss."""
        for _ in range(steps):
            self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def seconds(self, steps: int) -> float:
        """Runs `steps` steps; seconds per step."""
        start = time.perf_counter()
        self.run(steps)
        return (time.perf_counter() - start) / steps

    def pooled_seconds(self, times: int) -> float:
        """Computes the features for collapse metrics `times` times, as after a logged step; seconds
        per time.
        """
        start = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(self.session.pooled(self.state, self.batch))
        return (time.perf_counter() - start) / times

    def memory_mb(self) -> float:
        """Arguments and temporaries, as XLA plans them."""
        planned = self.compiled.memory_analysis()
        return (planned.argument_size_in_bytes + planned.temp_size_in_bytes) / 1e6


def session_of(experiment: Experiment, recipe: views.Recipe) -> TrainSession:
    """The train session of an experiment on one device."""
    one_device = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    return TrainSession(experiment, recipe, one_device)


def compile_step(session: TrainSession, batch: Any) -> tuple[Any, float]:
    """(the compiled step, seconds of tracing, lowering and compiling); nothing runs."""
    start = time.perf_counter()
    compiled = session.step.lower(session.shapes, batch).compile()
    return compiled, time.perf_counter() - start
