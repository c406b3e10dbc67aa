"""Tests of `eo_jax.config`: every mistake in a config is a readable error, before a device is
touched.
"""

from __future__ import annotations

import dataclasses
import inspect
import json

import golden_text
import jax
import ml_collections
import pytest
from tiny_objectives import LABELLED, experiment_of
from toy_objective import Toy

from eo_jax import run
from eo_jax.config import complete, find_module, modules, parse_section
from eo_jax.experiment import (
    check_keep_best,
    compute_dtype,
    make_experiment,
    with_compute_dtype,
)
from eo_jax.objectives import base, mae


def raw() -> dict:
    """The least that a config has to say, before defaults are added."""
    return {
        "data": {
            "sources": {"enmap": {"store": "stores/x", "sensor": "enmap"}},
            "batch_size": 8,
            "crop": 32,
        },
        "augment": {"crops": {"global": {"size": 32}}},
        "model": {
            "stems": {"enmap": {"name": "spectral_adapter", "patch": 8}},
            "trunk": {"name": "vit", "size": "tiny", "depth": 1},
        },
        "objective": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    }


def completed(**overrides) -> ml_collections.ConfigDict:
    """`raw` completed, then overridden: {"optim.lr": 1}."""
    config = complete(ml_collections.ConfigDict(raw()))
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture
def no_device(monkeypatch):
    """Fails where a device, or the choice of one, is asked for."""

    def touched(*_, **__):
        raise AssertionError("a device was touched")

    for name in ("devices", "local_devices", "device_count", "default_backend", "device_put"):
        monkeypatch.setattr(jax, name, touched)


# --- unknown and missing keys


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("data.bach_size", "batch_size"),
        ("data.sources.enmap.stor", "store"),
        ("augment.statistic", "statistics"),
        ("augment.crops.global.sizes", "size"),
        ("model.stems.enmap.pach", "patch"),
        ("model.trunk.dept", "depth"),
        ("objective.mask_ration", "mask_ratio"),
        ("optim.wieght_decay", "weight_decay"),
        ("sharding.fdsp", "fsdp"),
        ("run.save_evry", "save_every"),
        ("evals.reconstruction.mask", "masks"),
        ("evals.linear_probe.labels", "label"),
    ],
)
def test_an_unknown_key_of_any_section_names_itself_and_the_nearest(no_device, path, meant):
    values = raw() | {
        "optim": {},
        "sharding": {},
        "run": {},
        "evals": {"reconstruction": {}, "linear_probe": {"label": "landuse"}},
    }
    *folders, key = path.split(".")
    section = values
    for folder in folders:
        section = section[folder]
    section[key] = 1
    with pytest.raises(
        ValueError, match=rf"config\.{path}: unknown key; .* Did you mean '{meant}'\?"
    ):
        complete(ml_collections.ConfigDict(values))


def test_an_unknown_section_names_the_nearest(no_device):
    with pytest.raises(ValueError, match=r"config\.optimm: unknown key; .* Did you mean 'optim'\?"):
        complete(ml_collections.ConfigDict(raw() | {"optimm": {}}))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"objective": {"mask_ratio": 0.5}},
            r"config\.objective: `name` must be given; one of .*mae",
        ),
        (
            {"objective": {"name": "mea"}},
            r"no objectives named 'mea'; there are .*mae.* Did you mean 'mae'\?",
        ),
        (
            {"model": raw()["model"] | {"trunk": {"name": "vti"}}},
            r"no models/trunks named 'vti'; .* Did you mean 'vit'\?",
        ),
        (
            {"model": raw()["model"] | {"head": {}}},
            r"config\.model: has .*head.*; expected stems, trunk, trunk_sharing, dtype and init",
        ),
        (
            {"evals": {"reconstructions": {}}},
            r"no evaluators named 'reconstructions'; .* Did you mean 'reconstruction'\?",
        ),
        (
            {"data": {"sources": {"enmap": {"sensor": "enmap"}}}},
            r"config\.data\.sources\.enmap: store must be given",
        ),
    ],
)
def test_a_section_that_names_nothing_or_something_unknown(no_device, section, message):
    with pytest.raises(ValueError, match=message):
        complete(ml_collections.ConfigDict(raw() | section))


def test_modules_without_a_config_of_their_own_cannot_be_named():
    assert set(modules("objectives")) >= {"mae"} and "base" not in modules("objectives")
    stems, trunks = modules("models/stems"), modules("models/trunks")
    assert set(trunks) >= {"vit", "resnet"} and set(stems) >= {"spectral_adapter", "conv"}
    assert not set(stems) & set(trunks)


# --- wrong values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.stems.enmap.patch", 5, r"patch: 5; expected 4, 8 or 16"),
        ("model.trunk.size", "tony", r"config\.model\.trunk\.size: 'tony'; expected one of tiny"),
        ("model.trunk.depth", -1, r"config\.model\.trunk\.depth: -1"),
        (
            "model.trunk.remat",
            "full",
            r"config\.model\.trunk\.remat: 'full'; expected one of none, cheap, block",
        ),
        (
            "model.dtype",
            "float16",
            r"config\.model\.dtype: 'float16'; expected auto, float32 or bfloat16",
        ),
        (
            "augment.crops.global.flips",
            "up",
            r"config\.augment\.crops\.global\.flips: 'up'; expected one of none, left_right, both, "
            r"d4",
        ),
        (
            "augment.crops.global.size",
            36,
            r"config\.augment\.crops\.global\.size: 36 is not a multiple of the patch of source "
            r"'enmap', 8",
        ),
        (
            "augment.statistics",
            "imagenet",
            r"config\.augment\.statistics: 'imagenet'; expected one of published, store",
        ),
        (
            "augment.crops.global.scale",
            (0.5, 0.2),
            r"config\.augment\.crops\.global\.scale: \(0\.5, 0\.2\); expected 0 < low <= high <= 1",
        ),
        ("objective.mask_ratio", 1.0, r"config\.objective\.mask_ratio: 1\.0"),
        (
            "objective.decoder_heads",
            3,
            r"config\.objective\.decoder_width: 32; expected a multiple of 4 and of decoder_heads "
            r"3",
        ),
        (
            "data.sources.enmap.sensor",
            "enmpa",
            r"no sensor 'enmpa' in the table; .* Did you mean 'enmap'\?",
        ),
        ("data.sources.enmap.missing", "skip", r"missing: 'skip'; expected 'repeat' or 'drop'"),
        ("data.batch_size", 0, r"config\.data\.batch_size: 0; expected at least 1"),
        ("data.crop", 0, r"config\.data\.crop: 0; expected at least 1"),
        ("optim.accum", 0, r"config\.optim\.accum: 0; expected at least 1"),
        ("sharding.fsdp", 0, r"config\.sharding\.fsdp: 0; expected at least 1"),
        ("run.steps", 0, r"config\.run\.steps: 0; expected at least 1"),
        (
            "run.keep_every",
            750,
            r"config\.run\.keep_every: 750; expected a multiple of save_every, 500, or 0",
        ),
        (
            "run.keep_best_mode",
            "highest",
            r"config\.run\.keep_best_mode: 'highest'; expected 'max' or 'min'",
        ),
        (
            "run.writers",
            ("wandb",),
            r"config\.run\.writers: \('wandb',\); expected \('tensorboard',\) or \(\)",
        ),
    ],
)
def test_a_wrong_value_names_its_key_what_was_found_and_what_was_expected(key, value, message):
    with pytest.raises(ValueError, match=message):
        make_experiment(completed(**{key: value}))


def test_every_source_needs_a_stem():
    config = completed()
    config.data.sources.other = config.data.sources.enmap
    with pytest.raises(
        ValueError,
        match=r"config\.model\.stems: \['enmap'\], but config\.data\.sources: \['enmap', "
        r"'other'\]; expected one stem per source",
    ):
        make_experiment(config)


def test_the_compute_type_of_a_cpu_is_float32_and_a_run_remembers_it():
    assert compute_dtype("auto") == "float32"
    assert compute_dtype("bfloat16") == "bfloat16"
    config = completed().to_dict()
    assert with_compute_dtype(config)["model"] == config["model"] | {"dtype": "float32"}
    assert config["model"]["dtype"] == "auto"


# --- the score that a run keeps its best checkpoint by


@pytest.mark.parametrize(
    ("score", "every", "message"),
    [
        ("eval/knn/acuracy", 500, r"keep_best: 'eval/knn/acuracy'; .* give eval/knn/accuracy, "),
        ("eval/linear_probe/accuracy", 500, r"the evaluators of this run give eval/knn/accuracy, "),
        ("eval/knn/s2/accuracy", 0, r"config\.evals\.knn\.every: 0; .*save_every, 500"),
        ("eval/knn/accuracy", 750, r"config\.evals\.knn\.every: 750; .*save_every, 500"),
    ],
)
def test_a_score_that_no_saved_weights_get_is_refused(score, every, message):
    evaluators = {"knn": (every, None), "knn/s2": (every, None)}
    with pytest.raises(ValueError, match=message):
        check_keep_best(run.Config(keep_best=score), evaluators)


def test_a_score_of_saved_weights_or_none_at_all_is_accepted():
    check_keep_best(run.Config(), {})
    check_keep_best(run.Config(keep_best="eval/knn/s2/kappa"), {"knn/s2": (1000, None)})


# --- objectives and what they need


def toy_instead_of_mae(monkeypatch, **attributes) -> None:
    monkeypatch.setattr(mae.Config, "build", lambda self, encoders: Toy(202, **attributes))


def test_views_that_the_recipe_does_not_give_are_refused(monkeypatch):
    toy_instead_of_mae(monkeypatch, crop_sets={"global": 2, "local": 8})
    with pytest.raises(
        ValueError,
        match=r"config\.augment\.crops\.global\.views: objective 'mae' needs 2 view\(s\) 'global' "
        r"of source 'enmap', there are 1",
    ):
        make_experiment(completed())


def test_accumulation_is_refused_where_samples_of_a_batch_are_compared(monkeypatch):
    toy_instead_of_mae(monkeypatch, couples_batch=True)
    assert make_experiment(completed()).objective.couples_batch
    with pytest.raises(
        ValueError,
        match=r"config\.optim\.accum: objective 'mae' compares the samples of a batch.*use accum=1",
    ):
        make_experiment(completed(**{"optim.accum": 2}))


def contract() -> dict[str, inspect.Signature]:
    members = inspect.getmembers(base.Objective, inspect.isfunction)
    return {
        name: inspect.signature(function) for name, function in members if not name.startswith("_")
    }


@pytest.mark.parametrize("name", sorted(modules("objectives")))
def test_every_objective_keeps_the_contract(name):
    """Names and parameters: a check of `isinstance` alone sees neither."""
    objective = experiment_of(name).objective
    assert isinstance(objective, base.Objective)
    assert isinstance(objective.couples_batch, bool) and set(objective.labelled) == (
        {LABELLED[name]} if name in LABELLED else set()
    )
    assert objective.crop_sets["global"] >= 1 and all(
        count >= 0 for count in objective.crop_sets.values()
    )
    for method, signature in contract().items():
        assert list(inspect.signature(getattr(type(objective), method)).parameters) == list(
            signature.parameters
        ), method


@pytest.mark.parametrize("name", sorted(modules("objectives")))
def test_every_setting_of_a_config_is_documented(name):
    config_class = find_module("objectives", name).Config
    undocumented = [
        field.name
        for field in dataclasses.fields(config_class)
        if field.name not in config_class.__doc__
    ]
    assert not undocumented


def test_a_completed_config_survives_json():
    """As checkpoints keep it: tuples come back as lists, and the same experiment has to
    come out.
    """
    config = golden_text.load("mae_demo")["get_config"]("smoke")
    again = json.loads(json.dumps(config.to_dict()))
    for section in ("data", "augment", "optim", "sharding", "run"):
        assert parse_section(again, section) == parse_section(config, section)
