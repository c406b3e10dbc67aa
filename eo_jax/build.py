"""From a config section to the thing it describes: the folder listing is the registry.

A section {name: "mae", mask_ratio: 0.75} of folder "objectives" means module
`eo_jax.objectives.mae` and its frozen dataclass `Config`, whose fields are the allowed keys, with
their defaults and docs. A section without a name belongs to one module, and its dataclass is given
by the caller.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from eo_jax import optim, run, sharding
from eo_jax.augment import views
from eo_jax.augment.crops import CropSet
from eo_jax.data import pipeline
from eo_jax.data.mixture import EntryConfig
from eo_jax.data.source import SourceConfig, sensor_of
from eo_jax.evaluators.base import Context, Evaluator
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.objectives import shared_trunk
from eo_jax.objectives.base import Objective, check_views
from eo_jax.sensors import Sensor

# The sections that have one shape; the others name a module of a folder.
_FIXED = {
    "data": pipeline.Config,
    "augment": views.Config,
    "optim": optim.Config,
    "sharding": sharding.Config,
    "run": run.Config,
}
_SECTIONS = ("data", "augment", "model", "objective", "optim", "sharding", "run", "evals")


def modules(folder: str) -> dict[str, ModuleType]:
    """The modules that sections of this folder may name: those that define a `Config`."""
    package = importlib.import_module(f"eo_jax.{folder}")
    found = {
        info.name: importlib.import_module(f"eo_jax.{folder}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {
        name: module
        for name, module in found.items()
        if "Config" in vars(module) and module.Config.__module__ == module.__name__
    }


def module(folder: str, name: str) -> ModuleType:
    """The module `eo_jax.<folder>.<name>`; ValueError with the nearest name where there is none."""
    found = modules(folder)
    if name not in found:
        raise ValueError(
            f"config: no {folder} named {name!r}; there are "
            f"{', '.join(found)}.{_did_you_mean(name, found)}"
        )
    return found[name]


def splat(config_class: type, section: Any, where: str) -> Any:
    """`config_class(**section)`. An unknown key is a ValueError that names the section and the
    nearest key, before any device is touched.
    """
    values = _plain(section)
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in values:
        if key not in known:
            raise ValueError(
                f"config.{where}.{key}: unknown key; {where} has "
                f"{', '.join(known)}.{_did_you_mean(key, known)}"
            )
    missing = [
        f.name for f in dataclasses.fields(config_class) if f.name not in values and _required(f)
    ]
    if missing:
        raise ValueError(f"config.{where}: {', '.join(missing)} must be given")
    return config_class(**{key: _frozen(value) for key, value in values.items()})


def named(folder: str, section: Any, where: str) -> tuple[ModuleType, Any]:
    """(module, its Config) of a section with a `name`."""
    values = _plain(section)
    if "name" not in values:
        raise ValueError(
            f"config.{where}: `name` must be given; one of {', '.join(modules(folder))}"
        )
    chosen = module(folder, values.pop("name"))
    return chosen, splat(chosen.Config, values, where)


def fixed(config: Any, section: str) -> Any:
    """The frozen dataclass of a section that has one shape: data, augment, optim, sharding, run."""
    values = _plain(config[section])
    if section == "data":
        for field, kind in (("sources", SourceConfig), ("entries", EntryConfig)):
            values[field] = {
                name: splat(kind, about, f"data.{field}.{name}")
                for name, about in values.get(field, {}).items()
            }
    if section == "augment" and "crops" in values:
        values["crops"] = {
            name: splat(CropSet, crop, f"augment.crops.{name}")
            for name, crop in values["crops"].items()
        }
    return splat(_FIXED[section], values, section)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config describes that needs neither data nor a device: the frozen sections, the
    encoders and the objective.

    `views` is {"<source>/<crop set>": (number, size in pixels)}.
    """

    data: pipeline.Config
    augment: views.Config
    optim: optim.Config
    sharding: sharding.Config
    run: run.Config
    encoders: Mapping[str, Encoder]
    views: Mapping[str, tuple[int, int]]
    objective: Objective
    objective_name: str

    @property
    def same_encoder(self) -> dict[str, tuple[str, ...]]:
        """{source: names of the sources that share its encoder, its own among them}."""

        def sharing(weights):
            return tuple(
                name for name, encoder in self.encoders.items() if encoder.weights == weights
            )

        return {source: sharing(encoder.weights) for source, encoder in self.encoders.items()}

    def multiply_adds(self) -> float:
        """Of the forward passes of one sample that carry a gradient: the mean over the entries of a
        mixture, by their weights.
        """
        if not self.data.entries:
            return self.objective.multiply_adds(self.views)
        total = sum(entry.weight for entry in self.data.entries.values())

        def shown(entry):
            return {
                name: shape
                for name, shape in self.views.items()
                if name.partition("/")[0] in entry.sources
            }

        return sum(
            entry.weight / total * self.objective.multiply_adds(shown(entry))
            for entry in self.data.entries.values()
        )


def experiment(config: Any) -> Experiment:
    """The Experiment of a completed config. Every mistake that can be seen without data is a
    ValueError here, before any device is touched.
    """
    sections = {name: fixed(config, name) for name in _FIXED}
    data, augment = sections["data"], sections["augment"]
    encoders = _encoders(config["model"], data.sources)
    shown = _view_shapes(augment, encoders)
    name = config["objective"]["name"]
    _, objective_config = named("objectives", config["objective"], "objective")
    objective = _objective(objective_config, encoders, config["model"]["trunks"], data)
    if objective.couples_batch and sections["optim"].accum > 1:
        raise ValueError(
            f"config.optim.accum: objective {name!r} compares the samples of a batch, so "
            "microbatches would change it; use accum=1"
        )
    check_views(objective, name, shown, list(data.sources))
    _check_dates(augment, data.sources)
    objective.check_batch(data.batch_size // sections["optim"].accum)  # what the loss sees at once
    _check_labels(objective, name, data.sources)
    return Experiment(
        **sections, encoders=encoders, views=shown, objective=objective, objective_name=name
    )


def _objective(
    config: Any, encoders: Mapping[str, Encoder], trunks: str, data: pipeline.Config
) -> Objective:
    """The objective, its encoders with a trunk each, or one for all."""
    if trunks not in ("each", "one"):
        raise ValueError(
            f"config.model.trunks: {trunks!r}; expected 'each' for a trunk behind each stem, or "
            "'one' for one behind all"
        )
    if trunks == "each":
        return config.build(encoders)
    together = [entry for entry, about in data.entries.items() if len(about.sources) > 1]
    if not data.entries or together:
        raise ValueError(
            "config.model.trunks: 'one' trains on one source a step; give each source an entry of "
            "its own in config.data.entries, found "
            f"{', '.join(together) or 'none'}"
        )
    return shared_trunk.build(config, encoders)


def _encoders(model: Any, sources: Mapping[str, SourceConfig]) -> dict[str, Encoder]:
    """{source: its encoder}; where `model.stems` has the name of another source instead of a
    section, the two have the same weights.
    """
    stems = _plain(model["stems"])
    if set(stems) != set(sources):
        raise ValueError(
            f"config.model.stems: {sorted(stems)}, but config.data.sources: {sorted(sources)}; one "
            "stem a source"
        )
    owners = {source: stem if isinstance(stem, str) else source for source, stem in stems.items()}
    sensors = {source: sensor_of(about) for source, about in sources.items()}
    made = {
        source: _encoder(model, source, sensors[source])
        for source, owner in owners.items()
        if owner == source
    }
    for source, owner in owners.items():
        if owner not in made:
            raise ValueError(
                f"config.model.stems.{source}: {owner!r} is no source with a stem of its own; "
                f"there are {', '.join(made)}"
            )
        if sensors[source] != sensors[owner]:
            raise ValueError(
                f"config.model.stems.{source}: sensor {sensors[source].id!r} cannot use the stem "
                f"of source {owner!r}, which reads "
                f"{sensors[owner].id!r}; give it a stem of its own"
            )
    return {source: made[owner] for source, owner in owners.items()}


def _encoder(model: Any, source: str, sensor: Sensor) -> Encoder:
    _, stem = named("models", model["stems"][source], f"model.stems.{source}")
    _, trunk = named("models", model["trunk"], "model.trunk")
    return make_encoder(stem, trunk, sensor, compute_dtype(model["dtype"]), source)


def _view_shapes(
    augment: views.Config, encoders: Mapping[str, Encoder]
) -> dict[str, tuple[int, int]]:
    """{"<source>/<crop set>": (number, size in pixels)}; ValueError where tokens do not divide a
    view.
    """
    views.crop_sets(augment, encoders)
    for source, encoder in encoders.items():
        for name, crop in augment.of(source).items():
            if encoder.kind == "tokens" and crop.size % encoder.patch:
                raise ValueError(
                    f"config.augment.crops.{name}.size: {crop.size} is no multiple of the patch of "
                    f"source {source!r}, {encoder.patch}"
                )
    return {
        f"{source}/{name}": (crop.views, crop.size)
        for source in encoders
        for name, crop in augment.of(source).items()
    }


def _check_dates(augment: views.Config, sources: Mapping[str, SourceConfig]) -> None:
    for source, about in sources.items():
        for name, crop in augment.of(source).items():
            if crop.dates != "first" and about.dates == 1:
                raise ValueError(
                    f"config.augment.crops: the dates of '{source}/{name}' are {crop.dates!r}, but "
                    "one date is read; set "
                    f"config.data.sources.{source}.dates, or dates='first' for these crops"
                )


def _check_labels(objective: Objective, name: str, sources: Mapping[str, SourceConfig]) -> None:
    for source in objective.labelled:
        if not sources[source].label:
            raise ValueError(
                f"config.data.sources.{source}.label: objective {name!r} learns from labels; give "
                "the name of the store's label"
            )


def compute_dtype(name: str) -> jnp.dtype:
    """The compute type of `config.model.dtype`: "auto" is bfloat16 on accelerators and float32 on
    CPU, where bfloat16 is slower.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"config.model.dtype: {name!r}; expected auto, float32 or bfloat16")
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def normalisation(
    experiment: Experiment, opened: pipeline.Pipeline
) -> dict[str, views.Normalisation]:
    """{source: the numbers its views are normalised by}, from the sensor table or from the
    manifests of the opened stores.
    """
    numbers = {}
    for name, source in opened.sources.items():
        numbers[name] = views.normalisation(
            experiment.augment.statistics, experiment.encoders[name].sensor, source.statistics
        )
    return numbers


def check_labels(experiment: Experiment, opened: pipeline.Pipeline) -> None:
    """ValueError where a store has labels of more classes than the objective knows; a loss would be
    NaN there, or wrong.
    """
    for name, classes in experiment.objective.labelled.items():
        config, store = experiment.data.sources[name], opened.sources[name].store
        values = store.manifest["labels"][config.label].get("values", {})
        largest = max(map(int, values), default=0)
        if classes and largest > classes:
            raise ValueError(
                f"{store.path}: label {config.label!r} has class {largest}, objective "
                f"{experiment.objective_name!r} knows classes 1 to {classes}; "
                f"0 is unlabelled"
            )


def recipe(experiment: Experiment, numbers: Mapping[str, views.Normalisation]) -> views.Recipe:
    """The augmentation recipe for the sources of an experiment."""
    return views.make_recipe(
        experiment.augment,
        {name: (experiment.encoders[name].sensor, numbers[name]) for name in numbers},
    )


def context(
    experiment: Experiment,
    numbers: Mapping[str, views.Normalisation],
    mesh: jax.sharding.Mesh,
    source: str = "",
) -> Context:
    """What evaluators see of a source, by default the first, its rows spread over the devices."""
    source = source or next(iter(experiment.encoders))
    encoder = experiment.encoders[source]
    views_of = recipe(experiment, numbers)
    rows = sharding.batch_sharding(mesh)
    return Context(
        source=source,
        same_encoder=experiment.same_encoder[source],
        sensor=encoder.sensor,
        mean=numbers[source].mean,
        std=numbers[source].std,
        patch=encoder.patch,
        data=experiment.data,
        objective=experiment.objective,
        train_views=views_of.train,
        evaluate_views=views_of.evaluate,
        place=lambda arrays: jax.device_put(arrays, rows),
        gathered=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
        seed=experiment.run.seed,
    )


def evaluators(
    config: Any, context_of: Callable[[str], Context]
) -> dict[str, tuple[int, Evaluator]]:
    """{name: (every, evaluator)} of the evals section, {"name/source": ...} where it has `sources`;
    `context_of("")` is of the first source.

    Raises ValueError where one of them has nothing to evaluate.
    """
    context_of = functools.cache(context_of)  # evaluators of one source compile its features once
    chosen = {}
    for name, section in config["evals"].items():
        evaluator_module = module("evaluators", name)
        sources, settings = _evaluator(config, name, section)
        for source in sources or ("",):
            label = f"{name}/{source}" if source else name
            evaluator = evaluator_module.Evaluator(settings, context_of(source))
            evaluator.check()
            chosen[label] = (settings.every, evaluator)
    return chosen


def _evaluator(config: Any, name: str, section: Any) -> tuple[tuple[str, ...], Any]:
    """(sources, the evaluator's Config) of a section of evals; `sources` are those it runs on one
    after the other, none for the first alone.
    """
    values = _plain(section)
    sources, known = _frozen(values.pop("sources", ())), config["data"]["sources"]
    if isinstance(sources, str):
        raise ValueError(
            f"config.evals.{name}.sources: {sources!r}; expected names of sources, as in ('s1', "
            "'s2'), or () for the first"
        )
    for source in sources:
        if source not in known:
            raise ValueError(
                f"config.evals.{name}.sources: {source!r}; there are "
                f"{', '.join(known)}.{_did_you_mean(source, known)}"
            )
    return sources, splat(module("evaluators", name).Config, values, f"evals.{name}")


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds every default to a config, in place, and checks every key: ml_collections refuses to
    override a key that is not there.

    The last line of every `get_config` is `return build.complete(config)`.
    """
    for section in config:
        if section not in _SECTIONS:
            raise ValueError(
                f"config.{section}: unknown section; there are "
                f"{', '.join(_SECTIONS)}.{_did_you_mean(section, _SECTIONS)}"
            )
    for section in _FIXED:
        config[section] = _overridable(
            dataclasses.asdict(fixed({section: config.get(section, {})}, section))
        )
    config.objective = _complete_named("objectives", config.objective, "objective")
    model = config.model

    def shared(stem):
        return isinstance(stem, str)

    def complete_stem(source, stem):
        return stem if shared(stem) else _complete_named("models", stem, f"model.stems.{source}")

    model.stems = {source: complete_stem(source, stem) for source, stem in model.stems.items()}
    model.trunk = _complete_named("models", model.trunk, "model.trunk")
    model.trunks = model.get("trunks", "each")
    model.dtype = model.get("dtype", "auto")
    if set(model) != {"stems", "trunk", "trunks", "dtype"}:
        raise ValueError(
            f"config.model: has {', '.join(sorted(model))}; expected stems, trunk, trunks and dtype"
        )
    config.evals = {
        name: _complete_evaluator(config, name, section)
        for name, section in config.get("evals", {}).items()
    }
    return config


def _complete_evaluator(config: Any, name: str, section: Any) -> dict:
    sources, settings = _evaluator(config, name, section)
    return {"sources": sources, **dataclasses.asdict(settings)}


def _complete_named(folder: str, section: Any, where: str) -> dict:
    chosen, _ = named(folder, section, where)
    rest = {key: value for key, value in _plain(section).items() if key != "name"}
    return {"name": section["name"], **_with_defaults(chosen.Config, rest, where)}


def _with_defaults(config_class: type, section: Any, where: str) -> dict:
    values = splat(config_class, section, where)
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}


def _overridable(values: dict) -> dict:
    """None stands for a number that is not given; as a placeholder it can be given on the command
    line.
    """
    return {
        key: ml_collections.config_dict.placeholder(float) if value is None else value
        for key, value in values.items()
    }


def _plain(section: Any) -> dict:
    return section.to_dict() if isinstance(section, ml_collections.ConfigDict) else dict(section)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _did_you_mean(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
