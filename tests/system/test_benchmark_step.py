"""The benchmark of the train step: its command at toy size, and PyTorch twins that compute what
ours computes.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_objectives import OBJECTIVES

from benchmarks import step, step_race
from benchmarks.step_workloads import (
    BACKBONES,
    NO_AUGMENTATION,
    WORKLOADS,
    Step,
    Workload,
    batch_of,
    complete_config,
    config_of,
    recipe_of,
)
from eo_jax.experiment import Experiment, make_experiment

STEPS = 3
PUBLISHED = dict(WORKLOADS), dict(BACKBONES)  # before a test puts toys there
SMALL = (24, 16)
HEADS = {
    "dino": {"prototypes": 24, "hidden": 20, "bottleneck": 12},
    "swav": {"prototypes": 24, "projector": SMALL},
    "barlow_twins": {"projector": SMALL},
    "vicreg": {"projector": SMALL},
    "simclr": {"projector": SMALL},
    "simsiam": {"projector": (24, 20, 16), "predictor": (8,)},
    "byol": {"projector": SMALL, "predictor": SMALL},
    "moco_v3": {"projector": (24, 20, 16), "predictor": SMALL},
    "moco": {"projector": SMALL, "queue_size": 64, "bn_group": 4},
    "data2vec": {"average_top_k_layers": 2},
    "semi_supervised": {"projector": (24, 20, 16), "classes": 10, "support": "beside"},
    "clip": {"projector": SMALL},
    "decur": {"projector": SMALL, "common": 12},
    "supervised": {"task": "classification", "outputs": 10},
}
MAE = {"mask_ratio": 0.75, "decoder_depth": 2, "decoder_width": 32, "decoder_heads": 4}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Workloads and backbones of seconds under the same names, and the compilation cache
    as it was.
    """
    toys = {name: toy(PUBLISHED[0][name], head) for name, head in HEADS.items()}
    toys["mae"] = Workload(
        "enmap", 32, {"name": "spectral_adapter", "patch": 8}, {"global": {"size": 32}}, MAE
    )
    replace(monkeypatch, WORKLOADS, toys)
    sizes = {"vit_s": ("nano", 2), "vit_l": ("tiny", 4)}
    trunks = {
        name: {"name": "vit", "size": size, "depth": depth} for name, (size, depth) in sizes.items()
    }
    replace(monkeypatch, BACKBONES, trunks | {"resnet50": {"name": "resnet", "depth": 18}})
    cached = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", cached)


def replace(monkeypatch, table: dict, contents: dict) -> None:
    """What a table of the benchmark holds, for the length of a test."""
    for name, value in contents.items():
        monkeypatch.setitem(table, name, value)


def toy(work: Workload, section: dict) -> Workload:
    """The same with small views and these settings of the objective."""
    crops = {
        name: {"views": crop.get("views", 1), "size": 8 if name == "local" else 16}
        for name, crop in work.crops.items()
    }
    return dataclasses.replace(
        work, side=16, stem={"name": "patch_embed", "patch": 4}, crops=crops, section=section
    )


def experiment_of(objective: str, backbone: str, batch: int) -> Experiment:
    return make_experiment(config_of(objective, backbone, batch))


def start(objective: str, backbone: str = "vit_s", batch: int = 8) -> tuple:
    """(experiment, views, our step on them before its first run), for a comparison with PyTorch."""
    pytest.importorskip("torch")
    experiment = experiment_of(objective, backbone, batch)
    shown = jax.jit(recipe_of(experiment).train)(batch_of(experiment), jax.random.key(1))
    return experiment, shown, Step.of(experiment, NO_AUGMENTATION, shown)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_there_is_a_workload_for_every_objective(objective, monkeypatch):
    replace(monkeypatch, WORKLOADS, PUBLISHED[0])
    replace(monkeypatch, BACKBONES, PUBLISHED[1])
    experiment = experiment_of(objective, "vit_nano", 8)
    shown = jax.eval_shape(recipe_of(experiment).train, batch_of(experiment), jax.random.key(1))
    state = jax.eval_shape(experiment.objective.init, jax.random.key(0))
    loss, _ = jax.eval_shape(experiment.objective.loss, *state, shown, jax.random.key(2), 0.5)
    assert loss.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mae", *HEADS])
def test_twin_has_our_first_loss_and_learns_as_we_do(objective):
    masks = objective in (
        "mae",
        "data2vec",
    )  # ours hides other tokens at each step, the twin does not
    theirs, mine = losses_of_both(objective, "vit_s", 1 if masks else 1 + STEPS)
    np.testing.assert_allclose(theirs[0], mine[0], rtol=1e-4)
    np.testing.assert_allclose(theirs, mine, rtol=1e-3)
    assert masks or abs(mine[-1] - mine[0]) > 5 * abs(
        mine[-1] - theirs[-1]
    )  # they changed by far more than they differ


@pytest.mark.slow
def test_twin_of_mae_without_a_spectral_adapter_has_our_first_loss():
    pytest.importorskip("torch")
    stem, crops = {"name": "patch_embed", "patch": 8}, {"global": {"size": 32}}
    work = Workload("geonrw_rgb", 32, stem, crops, MAE)
    experiment = make_experiment(complete_config("mae", work, BACKBONES["vit_s"], 8))
    shown = jax.jit(recipe_of(experiment).train)(batch_of(experiment), jax.random.key(1))
    ours = Step.of(experiment, NO_AUGMENTATION, shown)
    twin = step_race.twin_of(experiment, "eager", ours.state, shown)
    np.testing.assert_allclose(twin.run(1), ours.run(1), rtol=1e-4)


@pytest.mark.slow
# One each without a teacher, with one, with a queue, and with labels; all heads are raced with ViT.
@pytest.mark.parametrize("objective", ["barlow_twins", "byol", "moco", "supervised"])
def test_twin_of_a_resnet_has_our_first_loss_and_steps_as_we_do(objective):
    """One step: BatchNorm of single cells then blows rounding up, which AdamW's first steps turn
    into signs.
    """
    theirs, mine = losses_of_both(objective, "resnet50", 2, batch=16)
    np.testing.assert_allclose(theirs[0], mine[0], rtol=1e-4)
    assert abs(mine[1] - mine[0]) > 5 * abs(mine[1] - theirs[1])


def losses_of_both(
    objective: str, backbone: str, steps: int, batch: int = 8
) -> tuple[list[float], list[float]]:
    experiment, shown, ours = start(objective, backbone, batch)
    twin = step_race.twin_of(experiment, "eager", ours.state, shown)
    return [twin.run(1) for _ in range(steps)], [ours.run(1) for _ in range(steps)]


@pytest.mark.slow
def test_adapter_on_all_pixels_is_the_same_network_but_for_batch_statistics():
    experiment, shown, ours = start("mae")
    losses = []
    for way in ("eager", "all pixels"):
        twin = step_race.twin_of(experiment, way, ours.state, shown)
        twin._module.eval()
        losses.append(twin._loss(*twin._inputs).item())
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_weights_of_another_network_are_refused():
    pytest.importorskip("torch")
    from benchmarks import step_peers

    experiment, _, ours = start("barlow_twins")
    params = {**ours.state["params"], "unknown": {"kernel": np.zeros((2, 2))}}
    with pytest.raises(ValueError, match=r"unknown\.weight"):
        step_peers.load(step_peers.TWINS["barlow_twins"](experiment), params)


@pytest.mark.slow
def test_command(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(
        step, "GOALS", {"cpu": {("barlow_twins", "eager"): 1e9}}
    )  # nobody is so much faster
    monkeypatch.setattr(step, "scan_check", lambda batch: {"vit_s": 2.0, "vit_l": 2.5})
    path = tmp_path / "step.json"
    assert (
        step.main(
            [
                "--objectives",
                "barlow_twins",
                "--backbones",
                "vit_s",
                "--batch",
                "4",
                "--steps",
                "1",
                "--json",
                str(path),
            ]
        )
        == 3
    )
    found = json.loads(path.read_text())
    assert set(found["products"]) == {"XLA", "PyTorch"} and min(found["products"].values()) > 1e8
    (row,) = found["steps_of_ours"]
    assert (
        min(
            row[key]
            for key in (
                "samples_per_s",
                "flops_per_s",
                "compile_s",
                "memory_mb",
                "collapse_to_step",
            )
        )
        > 0
    )
    ours, twin = found["peers"]
    assert (ours["contender"], twin["contender"]) == ("ours", "eager")
    assert twin["ours_to_it"] == pytest.approx(ours["samples_per_s"] / twin["samples_per_s"])
    reached = [goal["reached"] for goal in found["goals"]]
    assert reached == [False, True, True]  # faster, the same first loss, compile times
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.slow
def test_scan_check_compiles_both_and_runs_none(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "__call__", lambda *arguments: pytest.fail("it ran"))
    found = step.scan_check(2)
    assert found["vit_l"] < 3 * found["vit_s"]  # twice as deep, twice as wide


def test_mae_of_a_resnet_is_left_out_and_said_so(monkeypatch):
    monkeypatch.setattr(step, "scan_check", lambda batch: {})
    assert step.measure(["mae"], ["resnet50"], 2, 1, []) == {
        "steps_of_ours": [],
        "peers": [],
        "scan": {},
        "notes": ["mae needs tokens, which resnet50 does not have: left out"],
        "failed": [],
    }


def test_unknown_names_are_named(capsys):
    assert step.main(["--objectives", "mea", "--no-peers"]) == 1
    assert "no 'mea'; there are" in capsys.readouterr().err


@pytest.mark.slow
def test_a_contender_that_cannot_run_says_why_and_the_others_race(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.setattr(step_race, "TURNS", 1)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    rows, failed = step_race.race(config_of("barlow_twins", "vit_s", 4), ["compiled"], 1)
    assert [row["contender"] for row in rows] == ["ours"] and "no-compiler" in failed["compiled"]


def test_a_contender_without_its_device_says_so(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(RuntimeError, match="abacus"):
        step_race.Contender(config_of("barlow_twins", "vit_s", 4), "ours")


def test_a_contender_whose_process_dies_says_with_which_code():
    with pytest.raises(ValueError, match="ours: its process ended with exit code 1"):
        step_race.Contender({}, "ours")


def test_without_our_own_step_there_is_no_race(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(ValueError, match=r"ours: .*abacus"):
        step_race.race(config_of("barlow_twins", "vit_s", 4), ["eager"], 1)


@pytest.mark.slow
def test_a_contender_that_dies_in_the_race_is_named():
    contender = step_race.Contender(config_of("barlow_twins", "vit_s", 4), "ours")
    contender._process.kill()
    with pytest.raises(ValueError, match="ours: its process ended with exit code -9"):
        contender.run(1)
