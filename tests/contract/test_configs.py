"""Tests of the files in configs/: each opens with its command, lists its variants, and every
variant builds with all defaults filled in.
"""

from __future__ import annotations

import dataclasses
import re
import sys

import golden_text
import pytest
from absl import flags
from ml_collections import config_flags

from eo_jax.config import find_module
from eo_jax.experiment import make_experiment


@pytest.mark.parametrize("name", golden_text.names())
def test_the_docstring_opens_with_the_command(name):
    command = rf"^ *python -m eo_jax\.train --config=configs/{name}\.py(:\w+)? --workdir=\S+"
    head = golden_text.load(name)["__doc__"].split("\n\n", 2)[1]
    one_line_each = re.sub(r" \\\n +", " ", head)
    assert re.search(command, one_line_each, re.MULTILINE)


EXAMPLES = ("mae_demo", "mae_potsdam", "mae_sensors")  # of no paper
WITHOUT_CODE = (
    "barlow_pixels",
    "semi_supervised_pixels",
    "supervised_pixels",
)  # papers whose code was never released


@pytest.mark.parametrize("name", [name for name in golden_text.names() if name not in EXAMPLES])
def test_the_docstring_says_what_to_compare_with_and_where_it_departs(name):
    text = golden_text.load(name)["__doc__"]
    assert "Published figures" in text
    assert "not available to us" in text if name in WITHOUT_CODE else "Departures from " in text


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
