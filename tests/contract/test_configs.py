"""Tests of the files in configs/: each opens with its command, lists its variants, and every
variant builds with all defaults filled in.
"""

from __future__ import annotations

import dataclasses
import re
import sys

import golden_text
import jax
import pytest
from absl import flags
from ml_collections import config_flags

from eo_jax import rules
from eo_jax.config import find_module
from eo_jax.experiment import make_experiment
from eo_jax.optim import optimizers


@pytest.mark.parametrize("name", golden_text.names())
def test_the_docstring_opens_with_the_command(name):
    command = rf"^ *python -m eo_jax\.train --config=configs/{name}\.py(:\w+)? --workdir=\S+"
    head = golden_text.load(name)["__doc__"].split("\n\n", 2)[1]
    one_line_each = re.sub(r" \\\n +", " ", head)
    assert re.search(command, one_line_each, re.MULTILINE)


HEADING = "Departures from the released code:"
EXAMPLES = ("barlow_scene", "mae_demo", "mae_potsdam", "mae_scene", "mae_sensors")  # of no paper
WITHOUT_CODE = (
    "barlow_pixels",
    "semi_supervised_pixels",
    "supervised_pixels",
)  # papers whose code was never released


@pytest.mark.parametrize("name", [name for name in golden_text.names() if name not in EXAMPLES])
def test_the_docstring_says_what_to_compare_with_and_where_it_departs(name):
    text = golden_text.load(name)["__doc__"]
    assert "Published figures" in text
    assert "not available to us" in text if name in WITHOUT_CODE else HEADING in text


def test_the_table_of_departures_is_that_of_the_docstrings():
    """Of which each item opens with its kind."""
    text = (golden_text.ROOT / "docs" / "objectives.md").read_text()
    section = text.partition("| departure |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()[2:]]
    table = {kind: set(configs.split(", ")) for kind, _, configs in rows}
    assert list(table) == sorted(table) and all(explained for _, explained, _ in rows)
    listed = {name: departures(golden_text.load(name)["__doc__"]) for name in golden_text.names()}
    assert all(len(kinds) == len(set(kinds)) for kinds in listed.values()), "one item per kind"
    assert table == {
        kind: {name for name, kinds in listed.items() if kind in kinds}
        for kind in set().union(*listed.values())
    }


def departures(text: str) -> list[str]:
    """The kinds of the items below the heading, which no other text may have."""
    before, _, after = text.partition(f"{HEADING}\n\n")
    items = re.findall(r"^\* (.*)", after.partition("\n\n")[0], re.MULTILINE)
    assert not re.search(r"^\* ", before, re.MULTILINE)
    assert all(re.match(r"[A-Z][A-Za-z -]+: \S", item) for item in items), items
    return [item.partition(":")[0] for item in items]


CROPS = {  # {end of a config's name: what its crops have of kornia}
    "spectral_earth": {"interpolation": "bilinear_corners", "jitter": "multiplicative"},
    "ssl4eo_l": {"interpolation": "bilinear_corners", "jitter": "additive"},
}


@pytest.mark.parametrize(("name", "variant"), golden_text.listed())
def test_crops_and_jitter_are_kornias_where_the_released_code_is_built_on_it(name, variant):
    wanted = next((of for end, of in CROPS.items() if name.endswith(end)), None)
    for crop in golden_text.experiment_of(name, variant).augment.crops.values():
        found = {"interpolation": crop.interpolation, "jitter": crop.jitter}
        default = found["interpolation"] != "bilinear_corners" and found["jitter"] != "additive"
        assert found == wanted if wanted else default


@pytest.mark.parametrize(
    ("name", "variant", "positions", "init"),
    [
        ("moco_ssl4eo_l", "vit_s,oli_tirs_toa", "learned", "default"),
        ("simclr_ssl4eo_l", "vit_s,oli_tirs_toa", "learned", "default"),
        ("moco_v3_ssl4eo_s12", "vit_s", "sincos_moco_v3", "default"),
        ("mae_ssl4eo_s12", "vit_s", "sincos", "default"),
        ("data2vec_ssl4eo_s12", "vit_s", "relative", "beit"),
    ],
)
def test_positions_and_initial_weights_are_those_of_the_released_code(
    name, variant, positions, init
):
    model = golden_text.load(name)["get_config"](variant).model
    assert (model.trunk.positions, model.init) == (positions, init)
    assert model.trunk.grid == (14 if positions in ("learned", "relative") else 0)


@pytest.mark.parametrize("variant", ["vit_s", "smoke"])
def test_weight_decay_of_data2vec_spares_what_beits_does(variant):
    """Vectors (counted per block), biases and the class token."""
    experiment = golden_text.experiment_of("data2vec_ssl4eo_s12", variant)
    params, _ = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    factors = jax.tree.leaves(optimizers.decay_factors(experiment.optim, params))
    for (path, leaf), factor in zip(rules.paths(params), factors, strict=True):
        vector = leaf.ndim - rules.is_stacked(path) == 1
        assert factor == (0 if vector or path.endswith(("bias", "/cls_token")) else 1), path
    assert experiment.optim.weight_decay == 0.05


@pytest.mark.parametrize(
    ("name", "variant"),
    [("decur_ssl4eo_s12", "rda"), ("decur_ssl4eo_s12", "vit_s"), ("decur_geonrw", "rda")],
)
def test_decur_with_attention_is_trained_by_adamw_as_its_scripts_say(name, variant):
    experiment = golden_text.experiment_of(name, variant)
    optim = experiment.optim
    found = optim.name, optim.lr, optim.weight_decay, optim.beta1, optim.beta2
    assert found == ("adamw", 1e-4, 0.01, 0.9, 0.999)
    params, _ = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    for table in (optimizers.decay_factors, optimizers.lr_scales):
        assert set(jax.tree.leaves(table(optim, params))) == {1.0}


@pytest.mark.parametrize(("name", "variant"), golden_text.listed())
def test_every_variant_builds_with_every_default_filled_in(name, variant):
    config = golden_text.load(name)["get_config"](variant)
    experiment = golden_text.experiment_of(name, variant)
    assert set(config) == {
        "data",
        "augment",
        "model",
        "objective",
        "optim",
        "sharding",
        "run",
        "evals",
    }
    for section in ("data", "augment", "optim", "sharding", "run"):
        assert set(config[section]) == {
            field.name for field in dataclasses.fields(getattr(experiment, section))
        }
    for evaluator, section in config.evals.items():
        assert set(section) == {"sources"} | {
            field.name for field in dataclasses.fields(find_module("evaluators", evaluator).Config)
        }


@pytest.mark.parametrize(
    ("name", "variant"), [entry for entry in golden_text.listed() if entry[1] != "smoke"]
)
def test_every_run_that_is_published_logs_rankme_of_each_encoder_that_it_trains(name, variant):
    config = golden_text.load(name)["get_config"](variant)
    encoders = [source for source, stem in config.model.stems.items() if not isinstance(stem, str)]
    assert set(config.evals.collapse.sources or encoders[:1]) == set(encoders)


@pytest.mark.parametrize("name", golden_text.names())
def test_variants_differ_and_one_of_them_is_for_laptops(name):
    module = golden_text.load(name)
    texts = {str(module["get_config"](variant)) for variant in module["VARIANTS"]}
    assert len(texts) == len(module["VARIANTS"])
    assert str(module["get_config"]()) in texts
    smoke = module["get_config"]("smoke")
    assert smoke.run.steps <= 10 and smoke.data.batch_size <= 16 and smoke.data.crop <= 64


@pytest.mark.parametrize("name", golden_text.names())
def test_an_unknown_variant_is_an_error_that_lists_those_there_are(name):
    with pytest.raises(
        ValueError, match=rf"configs/{name}\.py: no variant 'no_such'; there are .*smoke"
    ):
        golden_text.load(name)["get_config"]("no_such")


def test_a_default_that_the_file_does_not_mention_is_overridden_on_the_command_line(monkeypatch):
    assert "beta1" not in (golden_text.ROOT / "configs" / "mae_demo.py").read_text()
    monkeypatch.chdir(golden_text.ROOT)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    command = [
        "train",
        "--config=configs/mae_demo.py:smoke",
        "--config.optim.beta1=0.8",
        "--config.evals.reconstruction.every=2",
    ]
    command.append('--config.augment.crops["global"].blur_prob=0.5')  # one number for a tuple
    monkeypatch.setattr(sys, "argv", command)  # ml_collections looks for overrides there
    values(command)
    assert make_experiment(holder.value).optim.beta1 == 0.8
    assert holder.value.evals.reconstruction.every == 2
    assert make_experiment(holder.value).augment.crops["global"].blur_prob == (0.5,)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("moco_rn50", "no_crop"),
        ("barlow_rn18", "crop_0_8"),
        ("simsiam_rn18", "crop_0_8"),
        ("swav_rn18", "crop_0_8"),
    ],
)
def test_every_augmentation_of_the_review_is_in_the_sweep_and_a_variant_differs_in_it_alone(
    method, own
):
    module = golden_text.load("review_bigearthnet")
    sweep = re.search(r"^ *for name in (.+); do$", module["__doc__"], re.MULTILINE).group(1).split()
    assert sorted(sweep) == sorted(module["STUDY"])
    configs = {name: module["get_config"](f"{method},{name}") for name in sweep}
    assert str(configs[own]) == str(module["get_config"](method))
    crops = {name: config.augment.crops["global"].to_dict() for name, config in configs.items()}
    for name in ("crop", "brightness", "grey", "blur", "flip", "band_drop"):
        changed = {key for key, value in crops[name].items() if value != crops["crop_0_8"][key]}
        assert changed and changed <= set(module["STUDY"][name])
        assert all(crops["all"][key] == crops[name][key] for key in changed)
    for name, config in configs.items():
        config.augment.crops["global"] = configs["crop_0_8"].augment.crops["global"]
        assert str(config) == str(configs["crop_0_8"]), name
    with pytest.raises(ValueError, match=rf"no variant '{method},colour'; there are .*crop_0_8"):
        module["get_config"](f"{method},colour")


@pytest.mark.parametrize("name", ["moco_ssl4eo_l", "simclr_ssl4eo_l"])
def test_all_fifteen_published_pairs_of_ssl4eo_l_build(name):
    """VARIANTS has each encoder and each product once."""
    module = golden_text.load(name)
    assert len(module["_PAIRS"]) == 15
    for pair in module["_PAIRS"]:
        architecture, product = pair.split(",")
        (encoder,) = make_experiment(module["get_config"](pair)).encoders.values()
        assert encoder.sensor.id == module["_SENSORS"][product]
        assert encoder.width == {"rn18": 512, "rn50": 2048, "vit_s": 384}[architecture]
