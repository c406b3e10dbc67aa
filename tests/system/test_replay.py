"""Tests of `python -m eo_jax.replay`: the step that it repeats is the step of the run."""

from __future__ import annotations

import json
import shutil
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run as tiny_run_module
from PIL import Image
from run_results import end_of

from eo_jax import replay as command
from eo_jax import sharding, train
from eo_jax.checkpoint import Checkpoints
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment
from eo_jax.monitor import writers


def logged(workdir, step: int) -> dict:
    (line,) = [
        line for line in writers.read_metrics(workdir) if line["step"] == step and "loss" in line
    ]
    return line


@pytest.fixture(scope="module")
def first(tiny_run, tmp_path_factory):
    """(a copy of the run without checkpoints, its third step)."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("replay") / "run")
    shutil.rmtree(workdir / "checkpoints")
    return workdir, command.replay(workdir, 3)


def assert_equals_the_run(workdir, replayed) -> None:
    line = logged(workdir, replayed.step)
    for name in ("loss", "grad_norm", "skipped", "valid_fraction/enmap"):
        assert replayed.values[name] == line[name]
    norms = np.array(list(replayed.gradient_norms.values()))
    assert np.sqrt(np.square(norms).sum()) == pytest.approx(line["grad_norm"], rel=1e-5)


def test_a_step_from_step_0_is_that_of_the_run(first, tiny_store):
    workdir, replayed = first
    assert replayed.started == 0
    assert_equals_the_run(workdir, replayed)
    config = tiny_run_module.config_of(tiny_store)
    batch = Pipeline(make_experiment(config).data, config["run"]["seed"]).batch(2)
    for name, array in replayed.batch["enmap"].items():
        np.testing.assert_array_equal(array, batch["enmap"][name])
    assert not (workdir / "checkpoints").exists()


@pytest.mark.slow
def test_a_step_after_a_checkpoint_goes_on_from_there(tiny_run):
    before = sorted(tiny_run.rglob("*"))
    replayed = command.replay(tiny_run, tiny_run_module.STEPS)
    assert replayed.started == tiny_run_module.STEPS - tiny_run_module.SAVE_EVERY
    assert_equals_the_run(tiny_run, replayed)
    assert sorted(tiny_run.rglob("*")) == before


def test_the_lines_say_which_samples_and_that_the_loss_is_the_same(first, tiny_store):
    workdir, replayed = first
    lines = list(command.lines_of(replayed, logged(workdir, 3)))
    assert lines[0] == "step 3, repeated from step 0"
    assert lines[1] == replayed.setup.pipeline.describe(2)
    (numbers,) = replayed.setup.pipeline.samples(2).values()
    ids = replayed.setup.pipeline.sources["enmap"].store.index["id"]
    assert lines[1].startswith(
        f"batch 2, source 'enmap' ({tiny_store}): samples {ids[numbers[0, 0]]}"
    )
    assert "pixels enmap [4, 1, 202, 16, 16] int16: from " in lines[2]
    assert lines[3].startswith("views enmap/global [1, 16, 16, 202]: ")
    assert lines[5].startswith("logged loss ") and lines[5].endswith(": the same")
    assert "gradients of" in lines[6] and ", 0 of them not finite" in lines[6]
    other = dict(logged(workdir, 3), loss=0.5)
    differing = list(command.lines_of(replayed, other))[5]
    assert f"logged loss 0.5: differs from {replayed.values['loss']!r}; it is the" in differing


def test_gradients_that_are_not_finite_come_first():
    lines = list(command._gradient_lines({"a": 9.0, "b": float("nan"), "c": 1.0}))
    assert "gradients of 3 weights, 1 of them not finite" in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == ["b", "a", "c"]


def test_the_batch_and_pictures_of_its_views_are_written(first, tmp_path):
    _, replayed = first
    batch_file, picture = command.write(replayed, tmp_path / "out")
    with np.load(batch_file) as arrays:
        np.testing.assert_array_equal(arrays["enmap/pixels"], replayed.batch["enmap"]["pixels"])
        assert arrays["enmap/samples"].shape == (4, 1)
    assert picture.name == "step_3_enmap_global.png"
    assert np.asarray(Image.open(picture)).std() > 20


@pytest.mark.slow
def test_microbatches_show_the_views_that_the_first_of_them_sees(tiny_store, tmp_path):
    config = tiny_run_module.config_of(tiny_store, **{"optim.accum": 2, "run.steps": 2})
    train.train(config | {"evals": {}}, tmp_path)
    replayed = command.replay(tmp_path, 1)
    assert_equals_the_run(tmp_path, replayed)
    assert len(replayed.views["enmap/global"]) == 2


EXTENDED = (  # {saved step: (steps of its config, origin)}; of config.json; of a step; origin
    ({4: (6, 0), 6: (6, 0), 8: (9, 6)}, 9, 5, 6, 0, 4),
    ({4: (6, 0), 6: (6, 0), 8: (9, 6)}, 9, 4, 6, 0, None),
    ({4: (6, 0), 6: (6, 0), 8: (9, 6)}, 9, 7, 9, 6, 6),
    ({4: (6, 0), 6: (6, 0), 8: (9, 6)}, 9, 9, 9, 6, 8),
    ({4: (6, 0), 6: (6, 0)}, 9, 8, 9, 6, 6),  # killed before the next save
    ({4: (6, 0), 6: (6, 0)}, 6, 6, 6, 0, 4),
    ({}, 6, 3, 6, 0, None),
    ({0: (6, 0)}, 6, 3, 6, 0, 0),  # imported weights
)


def extended(workdir, saved: dict[int, tuple[int, int]], steps: int) -> Checkpoints:
    with Checkpoints(workdir) as checkpoints:
        for step, (of, origin) in saved.items():
            checkpoints.save(step, {"a": jnp.zeros(1)}, {"run": {"steps": of}}, origin=origin)
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"run": {"steps": steps}}))
    (workdir / "data.json").write_text("{}")
    return checkpoints


@pytest.mark.parametrize(("saved", "steps", "step", "of", "origin", "start"), EXTENDED)
def test_a_step_of_an_extended_run_has_the_config_that_it_was_trained_with(
    tmp_path, saved, steps, step, of, origin, start
):
    checkpoints = extended(tmp_path / "run", saved, steps)
    assert command._config_of(tmp_path / "run", checkpoints, step) == (
        {"run": {"steps": of}},
        origin,
    )
    found = command._start_of(tmp_path / "run", checkpoints, step, origin)
    assert (found.step if found else None) == start


@pytest.mark.parametrize(
    ("saved", "step"), [({8: (9, 6), 9: (9, 6)}, 5), ({4: (6, 0), 8: (9, 6)}, 7)]
)
def test_a_step_whose_config_or_state_is_gone_is_refused(tmp_path, saved, step):
    extended(tmp_path / "run", saved, 9)
    message = rf"--step={step}: .* goes on from step 6 with another .*; expected a step from 9"
    with pytest.raises(ValueError, match=message):
        command.replay(tmp_path / "run", step)


@pytest.mark.slow
def test_steps_before_and_after_an_extension_are_those_of_the_run(tiny_store, tmp_path):
    values = {"run.steps": 3, "run.save_every": 3}
    for steps in (3, 5):
        config = tiny_run_module.config_of(tiny_store, **values | {"run.steps": steps})
        train.train(config | {"evals": {}}, tmp_path, extend=True)
    for step in (3, 5):
        assert_equals_the_run(tmp_path, command.replay(tmp_path, step))


def test_the_mesh_is_that_of_the_run_or_of_all_devices_here(tiny_store, monkeypatch):
    def chosen(**values) -> sharding.Config:
        config = tiny_run_module.config_of(tiny_store, **values)
        return command._mesh_config(make_experiment(config))

    assert chosen(**{"sharding.data": 1}).data == 1
    assert (chosen(**{"sharding.data": 2}).data, chosen(**{"sharding.fsdp": 2}).fsdp) == (-1, 1)
    assert chosen(**{"sharding.model": 2}).model == 1
    three = types.SimpleNamespace(shape={"data": 3, "fsdp": 1, "model": 1})
    monkeypatch.setattr(sharding, "make_mesh", lambda _: three)
    with pytest.raises(ValueError, match=r"batch of 4 .* show JAX another number, with CUDA"):
        chosen()


@pytest.mark.parametrize(
    ("workdir", "step", "message"),
    [
        ("run", "0", "--step=0; expected 1 to 30, the steps of"),
        ("run", "31", "--step=31; expected 1 to 30"),
        (
            "nothing",
            "1",
            "config.json: missing, so there is no run there; give the --workdir of `python -m ",
        ),
    ],
)
def test_a_step_or_run_that_is_not_there_is_one_line(
    first, tmp_path, monkeypatch, capsys, workdir, step, message
):
    folder = first[0] if workdir == "run" else tmp_path
    monkeypatch.setattr(sys, "argv", ["replay", "--workdir", str(folder), "--step", step])
    code, error = end_of(capsys, command.main)
    assert code == 1 and message in error and len(error.splitlines()) == 1
