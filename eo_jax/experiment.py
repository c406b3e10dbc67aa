"""Assembles a config into encoders, objective, recipe and evaluators, with every check that needs
neither data nor device.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from eo_jax import run, sharding, spikes
from eo_jax.augment import views
from eo_jax.config import (
    FIXED_SECTIONS,
    find_module,
    parse_evaluator,
    parse_named,
    parse_section,
    plain_dict,
)
from eo_jax.data import pipeline
from eo_jax.data.source import SourceConfig, sensor_of
from eo_jax.evaluators.base import Context, Evaluator
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.monitor import flops
from eo_jax.objectives.base import Objective, check_views
from eo_jax.objectives.ops import shared_trunk
from eo_jax.optim import optimizers
from eo_jax.schema import Batch, Views
from eo_jax.sensors import Sensor


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a config that need neither data nor a device: its frozen sections, the encoders
    and the objective.

    `views` is {"<source>/<crop set>": (number, size in pixels)}.
    """

    data: pipeline.Config
    augment: views.Config
    optim: optimizers.Config
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
                name for name, encoder in self.encoders.items() if encoder.weight_owner == weights
            )

        return {source: sharing(encoder.weight_owner) for source, encoder in self.encoders.items()}


def make_experiment(config: Any) -> Experiment:
    """The Experiment of a completed config. Raises ValueError for every mistake that shows without
    data, before any device is touched.
    """
    sections = {name: parse_section(config, name) for name in FIXED_SECTIONS}
    sections["data"] = _with_device(sections["data"])
    data, augment = sections["data"], sections["augment"]
    encoders = _encoders(config["model"], data.sources)
    shown = _view_shapes(augment, encoders)
    name = config["objective"]["name"]
    _, objective_config = parse_named("objectives", config["objective"], "objective")
    objective = _objective(objective_config, encoders, config["model"]["trunk_sharing"], data)
    if objective.couples_batch and sections["optim"].accum > 1:
        raise ValueError(
            f"config.optim.accum: objective {name!r} compares the samples of a batch, so "
            "microbatches would change it; use accum=1"
        )
    spikes.check_sigma(sections["optim"].spike_sigma, sections["run"].max_skipped)
    check_views(objective, name, shown, list(data.sources))
    _check_dates(augment, data.sources)
    objective.check_batch(data.batch_size // sections["optim"].accum)  # what the loss sees at once
    _check_labels(objective, name, data.sources)
    return Experiment(
        **sections, encoders=encoders, views=shown, objective=objective, objective_name=name
    )


def _objective(
    config: Any, encoders: Mapping[str, Encoder], trunk_sharing: str, data: pipeline.Config
) -> Objective:
    """The objective on encoders with a trunk per stem, or one trunk for all stems."""
    if trunk_sharing not in ("none", "all"):
        raise ValueError(
            f"config.model.trunk_sharing: {trunk_sharing!r}; expected 'none' for one trunk per "
            "stem, or 'all' for one trunk behind all stems"
        )
    if trunk_sharing == "none":
        return config.build(encoders)
    together = [component for component, about in data.mixture.items() if len(about.sources) > 1]
    if not data.mixture or together:
        raise ValueError(
            "config.model.trunk_sharing: 'all' trains on one source per step; give each source a "
            "component of its own in config.data.mixture; components with several sources: "
            f"{', '.join(together) or 'no mixture given'}"
        )
    return shared_trunk.build(config, encoders)


def _encoders(model: Any, sources: Mapping[str, SourceConfig]) -> dict[str, Encoder]:
    """{source: its encoder}; a stem given as the name of another source shares its weights."""
    stems = plain_dict(model["stems"])
    if set(stems) != set(sources):
        raise ValueError(
            f"config.model.stems: {sorted(stems)}, but config.data.sources: {sorted(sources)}; "
            "expected one stem per source"
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
                f"config.model.stems.{source}: {owner!r} is not a source with a stem of its own; "
                f"there are {', '.join(made)}"
            )
        if sensors[source] != sensors[owner]:
            raise ValueError(
                f"config.model.stems.{source}: sensor {sensors[source].id!r} cannot use the stem "
                f"of source {owner!r}, which reads {sensors[owner].id!r}; give it a stem of its own"
            )
    return {source: made[owner] for source, owner in owners.items()}


def _encoder(model: Any, source: str, sensor: Sensor) -> Encoder:
    _, stem = parse_named("models/stems", model["stems"][source], f"model.stems.{source}")
    _, trunk = parse_named("models/trunks", model["trunk"], "model.trunk")
    dtype = compute_dtype(model["dtype"])
    return make_encoder(stem, trunk, sensor, dtype, source, model.get("init", "default"))


def _view_shapes(
    augment: views.Config, encoders: Mapping[str, Encoder]
) -> dict[str, tuple[int, int]]:
    """{"<source>/<crop set>": (number, size in pixels)}; ValueError where tokens do not divide a
    view.
    """
    views.crop_sets(augment, encoders)
    for source, encoder in encoders.items():
        for name, crop in augment.for_source(source).items():
            if encoder.kind == "tokens" and crop.size % encoder.patch:
                raise ValueError(
                    f"config.augment.crops.{name}.size: {crop.size} is not a multiple of the patch "
                    f"of source {source!r}, {encoder.patch}"
                )
    return {
        f"{source}/{name}": (crop.views, crop.size)
        for source in encoders
        for name, crop in augment.for_source(source).items()
    }


def _check_dates(augment: views.Config, sources: Mapping[str, SourceConfig]) -> None:
    for source, about in sources.items():
        for name, crop in augment.for_source(source).items():
            if crop.dates != "first" and about.dates == 1:
                raise ValueError(
                    f"config.augment.crops: the dates of '{source}/{name}' are {crop.dates!r}, but "
                    f"one date is read; set config.data.sources.{source}.dates, or dates='first' "
                    "for these crops"
                )


def _check_labels(objective: Objective, name: str, sources: Mapping[str, SourceConfig]) -> None:
    for source in objective.labelled:
        if not sources[source].label:
            raise ValueError(
                f"config.data.sources.{source}.label: objective {name!r} learns from labels; name "
                "a label of the store"
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


def with_compute_dtype(config: dict) -> dict:
    """The config with the compute type that "auto" means on this machine, so that a run that is
    resumed on another one has the same type or is refused.
    """
    name = compute_dtype(config["model"]["dtype"]).name
    return {**config, "model": {**config["model"], "dtype": name}}


def _with_device(data: pipeline.Config) -> pipeline.Config:
    """Where "auto" undoes band differences: XLA's code for a CPU takes several times numpy's."""
    if data.undo_differences != "auto":
        return data
    where = "host" if jax.default_backend() == "cpu" else "device"
    return dataclasses.replace(data, undo_differences=where)


def make_normalisation(
    experiment: Experiment, opened: pipeline.Pipeline
) -> dict[str, views.Normalisation]:
    """{source: mean and std for its views}, from the sensor table or the stores' manifests."""
    numbers = {}
    for name, source in opened.sources.items():
        numbers[name] = views.normalisation(
            experiment.augment.statistics, experiment.encoders[name].sensor, source.statistics
        )
    return numbers


def check_labels(experiment: Experiment, opened: pipeline.Pipeline) -> None:
    """Raises ValueError where a store has more classes than the objective was built for; its loss
    would be NaN or wrong.
    """
    for name, classes in experiment.objective.labelled.items():
        config, store = experiment.data.sources[name], opened.sources[name].store
        values = store.manifest["labels"][config.label].get("values") or {}
        largest = max(map(int, values), default=0)
        if classes and largest > classes:
            raise ValueError(
                f"{store.path}: label {config.label!r} has class {largest}, objective "
                f"{experiment.objective_name!r} knows classes 1 to {classes}; 0 is unlabelled"
            )


def make_recipe(experiment: Experiment, numbers: Mapping[str, views.Normalisation]) -> views.Recipe:
    """The augmentation recipe for the sources of an experiment."""
    return views.make_recipe(
        experiment.augment,
        {name: (experiment.encoders[name].sensor, numbers[name]) for name in numbers},
    )


def sample_flops(
    experiment: Experiment, make_views: Callable[[Batch, jax.Array], Views], batch: Batch
) -> float:
    """FLOP of loss and gradient per sample, recomputation and augmentation left out, for batches
    with the fields of this one; `batch` may have fewer rows.
    """
    objective, key = experiment.objective, jax.random.key(0)
    rows = experiment.data.batch_size // experiment.optim.accum  # what the loss sees at once
    seen = {
        source: {
            name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)
            for name, array in fields.items()
        }
        for source, fields in batch.items()
    }
    made = jax.eval_shape(make_views, seen, key)
    params, carry = jax.eval_shape(objective.init, key)
    return flops.count(objective.loss, params, carry, made, key, jnp.float32(0)).train / rows


def mean_sample_flops(
    experiment: Experiment,
    make_views: Callable[[Batch, jax.Array], Views],
    opened: pipeline.Pipeline,
) -> float:
    """`sample_flops` averaged over the mixture components."""
    return sum(
        fraction * sample_flops(experiment, make_views, opened.empty_batch(component))
        for component, fraction in opened.mixture.fractions.items()
    )


def _never_stop() -> None:
    pass


def make_context(
    experiment: Experiment,
    numbers: Mapping[str, views.Normalisation],
    mesh: jax.sharding.Mesh,
    source: str = "",
    poll: Callable[[], None] = _never_stop,
    announce: Callable[[Exception], None] = sharding.raise_error,
) -> Context:
    """The context of evaluators on a source, the first by default; rows are sharded, and each
    process reads its own.
    """
    source = source or next(iter(experiment.encoders))
    encoder = experiment.encoders[source]
    views_of = make_recipe(experiment, numbers)
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
        rows=sharding.local_rows(mesh, experiment.data.batch_size),
        place=functools.partial(sharding.to_global, mesh=mesh),
        whole=functools.partial(sharding.whole, mesh=mesh),
        poll=poll,
        announce=announce,
        replicated=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
        seed=experiment.run.seed,
    )


def check_keep_best(settings: run.Config, evaluators: Mapping[str, tuple[int, Evaluator]]) -> None:
    """Raises ValueError where no evaluator gives `run.keep_best`, or not of the weights that are
    saved.
    """
    if not settings.keep_best:
        return
    scores = {
        f"eval/{name}/{score}": name
        for name in evaluators
        for score in find_module("evaluators", name.split("/")[0]).METRICS
    }
    if settings.keep_best not in scores:
        raise ValueError(
            f"config.run.keep_best: {settings.keep_best!r}; the evaluators of this run give "
            f"{', '.join(scores) or 'none'}"
        )
    evaluator = scores[settings.keep_best]
    every, _ = evaluators[evaluator]
    if not every or every % settings.save_every:
        raise ValueError(
            f"config.evals.{evaluator.split('/')[0]}.every: {every}; config.run.keep_best needs "
            f"scores of saved weights: a multiple of config.run.save_every, {settings.save_every}"
        )


def make_evaluators(
    config: Any, context_of: Callable[[str], Context]
) -> dict[str, tuple[int, Evaluator]]:
    """{name: (every, evaluator)} of the evals section, {"name/source": ...} where it has `sources`;
    `context_of("")` is of the first source.

    Raises ValueError where one of them has nothing to evaluate.
    """
    context_of = functools.cache(context_of)  # evaluators of one source compile its features once
    chosen = {}
    for name, section in config["evals"].items():
        evaluator_module = find_module("evaluators", name)
        sources, settings = parse_evaluator(config, name, section)
        for source in sources or ("",):
            label = f"{name}/{source}" if source else name
            evaluator = evaluator_module.Evaluator(settings, context_of(source))
            evaluator.check()
            chosen[label] = (settings.every, evaluator)
    return chosen
