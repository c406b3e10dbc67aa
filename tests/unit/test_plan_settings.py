"""Batch and recomputation of a config, as a plan changes them and as a command line says it."""

from __future__ import annotations

import copy

import pytest

from eo_jax.plan import compiling, planning

MAE = {
    "data": {"batch_size": 64},
    "model": {"trunk": {"name": "vit", "remat": "block"}, "dtype": "auto"},
    "objective": {"name": "mae", "decoder_remat": "cheap"},
    "augment": {"sampling": "auto"},
}


def test_another_batch_leaves_what_is_recomputed():
    before = copy.deepcopy(MAE)
    found = compiling.with_settings(MAE, 128, "block")
    assert found == {**MAE, "data": {"batch_size": 128}} and before == MAE
    assert compiling.overrides(MAE, 128, "block") == ["--config.data.batch_size=128"]


def test_another_recomputation_is_that_of_trunk_and_decoder():
    found = compiling.with_settings(MAE, 64, "none")
    assert found["model"]["trunk"]["remat"] == found["objective"]["decoder_remat"] == "none"
    assert compiling.overrides(MAE, 64, "none") == [
        "--config.model.trunk.remat=none",
        "--config.objective.decoder_remat=none",
    ]
    assert compiling.overrides(MAE, 64, "block") == []


def test_auto_means_what_it_does_on_the_chip():
    for platform, sampling in (("tpu", "products"), ("gpu", "gather")):
        found = compiling.for_chip(MAE, platform)
        assert found["model"]["dtype"] == "bfloat16"
        assert found["augment"]["sampling"] == sampling
    chosen = {**MAE, "augment": {"sampling": "gather"}}
    assert compiling.for_chip(chosen, "tpu")["augment"]["sampling"] == "gather"


def test_a_batch_is_that_of_all_slices():
    assert planning._of_slice(64, 4) == 16
    with pytest.raises(ValueError, match=r"batch_size: 66 does not divide over 4 slices; .*: 64$"):
        planning._of_slice(66, 4)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 42.75G of 31.25G hbm. "
            "Exceeded hbm capacity by 11.50G.",
            42.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (372.65G) exceeds available HBM (15.75G).",
            374.65,
        ),
    ],
)
def test_the_compiler_says_how_much_is_too_much(message, size):
    error = compiling.too_large(RuntimeError(message), 2 * 2**30)
    assert isinstance(error, compiling.TooLarge)
    assert error.bytes / 2**30 == pytest.approx(size)


def test_another_error_of_the_compiler_stays():
    error = RuntimeError("INTERNAL: something else")
    assert compiling.too_large(error, 0) is error
