"""From a config section to the thing it describes: the folder listing is the registry.

A section {name: "mae", mask_ratio: 0.75} of folder "objectives" means module `eo_jax.objectives.mae` and its frozen dataclass `Config`,
whose fields are the allowed keys, with their defaults and docs. A section without a name belongs to one module, and its dataclass is given
by the caller.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from eo_jax import optim, run, sharding
from eo_jax.augment import views
from eo_jax.data import pipeline
from eo_jax.data.pipeline import SourceConfig
from eo_jax.evaluators.base import Context, Evaluator
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.objectives.base import Objective, check_views
from eo_jax.sensors import get_sensor

# The sections that have one shape; the others name a module of a folder.
_FIXED = {"data": pipeline.Config, "augment": views.Config, "optim": optim.Config, "sharding": sharding.Config, "run": run.Config}
_SECTIONS = ("data", "augment", "model", "objective", "optim", "sharding", "run", "evals")


def modules(folder: str) -> dict[str, ModuleType]:
    """The modules that sections of this folder may name: those that define a `Config`."""
    package = importlib.import_module(f"eo_jax.{folder}")
    found = {info.name: importlib.import_module(f"eo_jax.{folder}.{info.name}") for info in pkgutil.iter_modules(package.__path__)}
    return {name: module for name, module in found.items() if "Config" in vars(module) and module.Config.__module__ == module.__name__}


def module(folder: str, name: str) -> ModuleType:
    """The module `eo_jax.<folder>.<name>`; ValueError with the nearest name where there is none."""
    found = modules(folder)
    if name not in found:
        raise ValueError(f"config: no {folder} named {name!r}; there are {', '.join(found)}.{_did_you_mean(name, found)}")
    return found[name]


def splat(config_class: type, section: Any, where: str) -> Any:
    """`config_class(**section)`. An unknown key is a ValueError that names the section and the nearest key, before any device is touched."""
    values = _plain(section)
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in values:
        if key not in known:
            raise ValueError(f"config.{where}.{key}: unknown key; {where} has {', '.join(known)}.{_did_you_mean(key, known)}")
    missing = [f.name for f in dataclasses.fields(config_class) if f.name not in values and _required(f)]
    if missing:
        raise ValueError(f"config.{where}: {', '.join(missing)} must be given")
    return config_class(**{key: _frozen(value) for key, value in values.items()})


def named(folder: str, section: Any, where: str) -> tuple[ModuleType, Any]:
    """(module, its Config) of a section with a `name`."""
    values = _plain(section)
    if "name" not in values:
        raise ValueError(f"config.{where}: `name` must be given; one of {', '.join(modules(folder))}")
    chosen = module(folder, values.pop("name"))
    return chosen, splat(chosen.Config, values, where)


def fixed(config: Any, section: str) -> Any:
    """The frozen dataclass of a section that has one shape: data, augment, optim, sharding, run."""
    values = _plain(config[section])
    if section == "data":
        values["sources"] = {name: splat(SourceConfig, source, f"data.sources.{name}") for name, source in values["sources"].items()}
    return splat(_FIXED[section], values, section)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config describes that needs neither data nor a device: the frozen sections, the encoders and the objective."""

    data: pipeline.Config
    augment: views.Config
    optim: optim.Config
    sharding: sharding.Config
    run: run.Config
    encoders: Mapping[str, Encoder]
    objective: Objective
    objective_name: str


def experiment(config: Any) -> Experiment:
    """The Experiment of a completed config. Every mistake that can be seen without data is a ValueError here, before any device is touched."""
    sections = {name: fixed(config, name) for name in _FIXED}
    data, augment = sections["data"], sections["augment"]
    if set(config["model"]["stems"]) != set(data.sources):
        raise ValueError(
            f"config.model.stems: {sorted(config['model']['stems'])}, but config.data.sources: {sorted(data.sources)}; one stem a source"
        )
    encoders = {source: _encoder(config["model"], source, data.sources[source].sensor) for source in data.sources}
    for source, encoder in encoders.items():
        if augment.size % encoder.patch:
            raise ValueError(f"config.augment.size: {augment.size} is no multiple of the patch of source {source!r}, {encoder.patch}")
    name = config["objective"]["name"]
    _, objective_config = named("objectives", config["objective"], "objective")
    objective = objective_config.build(encoders)
    check_views(objective, name, views.crop_sets(augment.recipe), augment.recipe)
    if objective.couples_batch and sections["optim"].accum > 1:
        raise ValueError(f"config.optim.accum: objective {name!r} compares the samples of a batch, so microbatches would change it; use accum=1")
    return Experiment(**sections, encoders=encoders, objective=objective, objective_name=name)


def _encoder(model: Any, source: str, sensor: str) -> Encoder:
    _, stem = named("models", model["stems"][source], f"model.stems.{source}")
    _, trunk = named("models", model["trunk"], "model.trunk")
    return make_encoder(stem, trunk, get_sensor(sensor), compute_dtype(model["dtype"]))


def compute_dtype(name: str) -> jnp.dtype:
    """The compute type of `config.model.dtype`: "auto" is bfloat16 on accelerators and float32 on CPU, where bfloat16 is slower."""
    if name not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"config.model.dtype: {name!r}; expected auto, float32 or bfloat16")
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def normalisation(experiment: Experiment, opened: pipeline.Pipeline) -> dict[str, views.Normalisation]:
    """{source: the numbers its views are normalised by}, from the sensor table or from the manifests of the opened stores."""
    numbers = {}
    for name, source in opened.sources.items():
        statistics = source.store.manifest.get("statistics", {}).get(source.config.sensor)
        numbers[name] = views.normalisation(experiment.augment.statistics, experiment.encoders[name].sensor, statistics)
    return numbers


def recipe(experiment: Experiment, numbers: Mapping[str, views.Normalisation]) -> views.Recipe:
    """The augmentation recipe for the sources of an experiment."""
    return views.make_recipe(experiment.augment, {name: (experiment.encoders[name].sensor, numbers[name]) for name in numbers})


def context(experiment: Experiment, numbers: Mapping[str, views.Normalisation], mesh: jax.sharding.Mesh) -> Context:
    """What evaluators see: the first source, evaluated whole on every device."""
    source, encoder = next(iter(experiment.encoders.items()))
    views_of = recipe(experiment, numbers)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return Context(
        source=source,
        sensor=encoder.sensor,
        mean=numbers[source].mean,
        std=numbers[source].std,
        patch=encoder.patch,
        data=experiment.data,
        objective=experiment.objective,
        train_views=views_of.train,
        evaluate_views=views_of.evaluate,
        place=lambda batch: {name: {"pixels": jax.device_put(fields["pixels"], whole)} for name, fields in batch.items()},
        seed=experiment.run.seed,
    )


def evaluators(config: Any, context: Context) -> dict[str, tuple[int, Evaluator]]:
    """{name: (every, evaluator)} of the evals section."""
    chosen = {}
    for name, section in config["evals"].items():
        evaluator_module = module("evaluators", name)
        evaluator_config = splat(evaluator_module.Config, section, f"evals.{name}")
        chosen[name] = (evaluator_config.every, evaluator_module.Evaluator(evaluator_config, context))
    return chosen


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds every default to a config, in place, and checks every key: ml_collections refuses to override a key that is not there.

    The last line of every `get_config` is `return build.complete(config)`.
    """
    for section in config:
        if section not in _SECTIONS:
            raise ValueError(f"config.{section}: unknown section; there are {', '.join(_SECTIONS)}.{_did_you_mean(section, _SECTIONS)}")
    sources = config.get("data", {}).get("sources", {})
    config.data.sources = {name: _with_defaults(SourceConfig, source, f"data.sources.{name}") for name, source in sources.items()}
    for section in _FIXED:
        config[section] = _with_defaults(_FIXED[section], config.get(section, {}), section)
    config.objective = _complete_named("objectives", config.objective, "objective")
    model = config.model
    model.stems = {source: _complete_named("models", stem, f"model.stems.{source}") for source, stem in model.stems.items()}
    model.trunk = _complete_named("models", model.trunk, "model.trunk")
    model.dtype = model.get("dtype", "auto")
    if set(model) != {"stems", "trunk", "dtype"}:
        raise ValueError(f"config.model: has {', '.join(sorted(model))}; expected stems, trunk and dtype")
    evals = config.get("evals", {})
    config.evals = {name: _with_defaults(module("evaluators", name).Config, section, f"evals.{name}") for name, section in evals.items()}
    return config


def _complete_named(folder: str, section: Any, where: str) -> dict:
    chosen, _ = named(folder, section, where)
    rest = {key: value for key, value in _plain(section).items() if key != "name"}
    return {"name": section["name"], **_with_defaults(chosen.Config, rest, where)}


def _with_defaults(config_class: type, section: Any, where: str) -> dict:
    values = splat(config_class, section, where)
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}


def _plain(section: Any) -> dict:
    return section.to_dict() if isinstance(section, ml_collections.ConfigDict) else dict(section)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _did_you_mean(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
