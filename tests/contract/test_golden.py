"""No weight of a listed config changes name, shape, partition, decay or learning rate unnoticed;
every config file lowers for eight devices.
"""

from __future__ import annotations

import difflib

import golden_text
import pytest

from eo_jax.experiment import make_experiment


@pytest.mark.parametrize(("name", "variant"), golden_text.listed())
def test_weights_are_as_recorded(name, variant):
    path = golden_text.file_of(name, variant)
    recorded = path.read_text() if path.exists() else ""
    found = golden_text.text(golden_text.experiment_of(name, variant))
    if found != recorded:
        changes = difflib.unified_diff(
            recorded.splitlines(), found.splitlines(), path.name, "now", n=0, lineterm=""
        )
        pytest.fail(
            "\n".join(
                [*changes, "", "If the change is meant: make golden, and commit tests/golden."]
            ),
            pytrace=False,
        )


def test_no_golden_file_is_left_of_a_config_that_is_gone():
    assert set(golden_text.FOLDER.glob("*.txt")) == {
        golden_text.file_of(*entry) for entry in golden_text.listed()
    }


def test_the_text_sees_a_change_of_shape_decay_learning_rate_and_partition():
    config = golden_text.load("mae_demo")["get_config"]("smoke")
    before = golden_text.text(golden_text.experiment_of("mae_demo", "smoke")).splitlines()
    config.optim.decay_rules = (("cls_token$", 0.5), (".*", 1.0))
    config.optim.lr_rules = (("mask_token$", 0.25), (".*", 1.0))
    config.sharding.rules = (("predict/kernel$", (None, "fsdp")), (".*", ()))
    config.model.trunk.size = "small"
    after = golden_text.text(make_experiment(config)).splitlines()

    def of(lines, path):
        return next(line for line in lines if line.startswith(path + " "))

    assert (
        of(before, "encoder/trunk/cls_token")
        == "encoder/trunk/cls_token  float32[1, 1, 192]  []  decay 1  lr 1"
    )
    assert (
        of(after, "encoder/trunk/cls_token")
        == "encoder/trunk/cls_token  float32[1, 1, 384]  []  decay 0.5  lr 1"
    )
    assert of(after, "decoder/mask_token").endswith("decay 1  lr 0.25")
    assert "[fsdp,-]" in of(before, "decoder/predict/kernel") and "[-,fsdp]" in of(
        after, "decoder/predict/kernel"
    )


def lowers(eight_devices, targets: list[str]) -> bool:
    return eight_devices("lower", *targets) == dict.fromkeys(targets, "1 module for 8 devices")


@pytest.mark.slow
def test_a_config_of_every_family_lowers_for_eight_devices(eight_devices):
    assert lowers(eight_devices, [f"{name}:smoke" for name in golden_text.FAMILIES])


@pytest.mark.slow
@pytest.mark.parametrize("name", golden_text.names())
def test_every_variant_lowers_for_eight_devices(eight_devices, name):
    assert lowers(eight_devices, [f"{name}:{variant}" for variant in golden_text.variants(name)])
