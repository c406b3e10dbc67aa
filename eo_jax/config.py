"""From a config section to its frozen dataclass: the folder listing is the registry.

A section {name: "mae", mask_ratio: 0.75} of folder "objectives" names the module
`eo_jax.objectives.mae` and its frozen dataclass `Config`, whose fields are the allowed keys, with
their defaults and docs. A section without a name has one dataclass, listed here.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import ml_collections

from eo_jax import run, sharding
from eo_jax.augment import views
from eo_jax.augment.crops import CropSet
from eo_jax.data import pipeline
from eo_jax.data.mixture import ComponentConfig
from eo_jax.data.source import SourceConfig
from eo_jax.optim import optimizers

# Sections with one dataclass; the others name a module of a folder.
FIXED_SECTIONS = {
    "data": pipeline.Config,
    "augment": views.Config,
    "optim": optimizers.Config,
    "sharding": sharding.Config,
    "run": run.Config,
}
_SECTIONS = ("data", "augment", "model", "objective", "optim", "sharding", "run", "evals")


def modules(folder: str) -> dict[str, ModuleType]:
    """The modules that sections of this folder may name: those that define a `Config`."""
    package = importlib.import_module(f"eo_jax.{folder.replace('/', '.')}")
    found = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {
        name: module
        for name, module in found.items()
        if "Config" in vars(module) and module.Config.__module__ == module.__name__
    }


def find_module(folder: str, name: str) -> ModuleType:
    """The module `eo_jax.<folder>.<name>`; ValueError with the nearest name where there is none."""
    found = modules(folder)
    if name not in found:
        raise ValueError(
            f"config: no {folder} named {name!r}; there are "
            f"{', '.join(found)}.{_did_you_mean(name, found)}"
        )
    return found[name]


def instantiate(config_class: type, section: Any, where: str) -> Any:
    """`config_class(**section)`. An unknown key is a ValueError that names the section and the
    nearest key, before any device is touched.
    """
    values = plain_dict(section)
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in values:
        if key not in known:
            raise ValueError(unknown_key(where, key, known))
    missing = [
        f.name for f in dataclasses.fields(config_class) if f.name not in values and _required(f)
    ]
    if missing:
        raise ValueError(f"config.{where}: {', '.join(missing)} must be given")
    return config_class(**{key: _frozen(value) for key, value in values.items()})


def parse_named(folder: str, section: Any, where: str) -> tuple[ModuleType, Any]:
    """(module, its Config) of a section with a `name`."""
    values = plain_dict(section)
    if "name" not in values:
        raise ValueError(
            f"config.{where}: `name` must be given; one of {', '.join(modules(folder))}"
        )
    chosen = find_module(folder, values.pop("name"))
    return chosen, instantiate(chosen.Config, values, where)


def parse_section(config: Any, section: str) -> Any:
    """The frozen dataclass of a section without a name: data, augment, optim, sharding, run."""
    values = plain_dict(config[section])
    if section == "data":
        for field, kind in (("sources", SourceConfig), ("mixture", ComponentConfig)):
            values[field] = {
                name: instantiate(kind, about, f"data.{field}.{name}")
                for name, about in values.get(field, {}).items()
            }
    if section == "augment" and "crops" in values:
        values["crops"] = {
            name: instantiate(CropSet, crop, f"augment.crops.{name}")
            for name, crop in values["crops"].items()
        }
    return instantiate(FIXED_SECTIONS[section], values, section)


def parse_evaluator(config: Any, name: str, section: Any) -> tuple[tuple[str, ...], Any]:
    """(sources, the evaluator's Config) of a section of evals; it runs on each of `sources`, or on
    the first source of the config where there are none.
    """
    values = plain_dict(section)
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
    return sources, instantiate(find_module("evaluators", name).Config, values, f"evals.{name}")


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Adds every default to a config, in place, and checks every key: ml_collections refuses to
    override a key that is absent.

    The last line of every `get_config` is `return complete(config)`.
    """
    for section in config:
        if section not in _SECTIONS:
            raise ValueError(unknown_key("", section, _SECTIONS))
    for section in FIXED_SECTIONS:
        config[section] = _overridable(
            dataclasses.asdict(parse_section({section: config.get(section, {})}, section))
        )
    config.objective = _complete_named("objectives", config.objective, "objective")
    model = config.model
    model.stems = {source: _complete_stem(source, stem) for source, stem in model.stems.items()}
    model.trunk = _complete_named("models/trunks", model.trunk, "model.trunk")
    model.trunk_sharing = model.get("trunk_sharing", "none")
    model.dtype = model.get("dtype", "auto")
    model.init = model.get("init", "default")
    if set(model) != {"stems", "trunk", "trunk_sharing", "dtype", "init"}:
        raise ValueError(
            f"config.model: has {', '.join(sorted(model))}; expected stems, trunk, trunk_sharing, "
            "dtype and init"
        )
    config.evals = {
        name: complete_evaluator(config, name, section)
        for name, section in config.get("evals", {}).items()
    }
    return config


def _complete_stem(source: str, stem: Any) -> Any:
    """The completed section, or the name of the source whose stem it is."""
    if isinstance(stem, str):
        return stem
    return _complete_named("models/stems", stem, f"model.stems.{source}")


def complete_evaluator(config: Any, name: str, section: Any) -> dict:
    """The section of an evaluator with every default. Raises ValueError for unknown names."""
    sources, settings = parse_evaluator(config, name, section)
    return {"sources": sources, **dataclasses.asdict(settings)}


def _complete_named(folder: str, section: Any, where: str) -> dict:
    chosen, _ = parse_named(folder, section, where)
    rest = {key: value for key, value in plain_dict(section).items() if key != "name"}
    return {"name": section["name"], **_with_defaults(chosen.Config, rest, where)}


def _with_defaults(config_class: type, section: Any, where: str) -> dict:
    values = instantiate(config_class, section, where)
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}


def _overridable(values: dict) -> dict:
    """Numbers that default to None become placeholders, so that the command line can set them."""
    return {
        key: ml_collections.config_dict.placeholder(float) if value is None else value
        for key, value in values.items()
    }


def plain_dict(section: Any) -> dict:
    """A section as a new dict."""
    return section.to_dict() if isinstance(section, ml_collections.ConfigDict) else dict(section)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def unknown_key(where: str, key: str, known: Sequence[str]) -> str:
    """The message about a key that section `where`, "" for the whole config, does not have."""
    section = f"config.{where}" if where else "config"
    return (
        f"{section}.{key}: unknown key; {section} has "
        f"{', '.join(known) or 'none'}.{_did_you_mean(key, known)}"
    )


def _did_you_mean(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
