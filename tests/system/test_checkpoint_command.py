"""`python -m eo_jax.checkpoint`: what it prints, and 1 where something is damaged or differs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from run_results import end_of
from saved_states import CONFIG, files_of, halve, like, save_two, state_of

from eo_jax.checkpoint import Checkpoints
from eo_jax.checkpoint import __main__ as command
from eo_jax.checkpoint.saved import Saved


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return save_two(tmp_path_factory.mktemp("two"))


@pytest.fixture
def saved(two, tmp_path) -> Path:
    """A workdir with checkpoints 2 and 5."""
    return shutil.copytree(two, tmp_path / "run")


@pytest.fixture
def run(monkeypatch, capsys):
    """(exit code, lines on standard output) of the command with these arguments."""

    def with_arguments(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["checkpoint", *map(str, arguments)])
        code = command.main()
        return code, capsys.readouterr().out.splitlines()

    return with_arguments


def save(workdir: Path, step: int, state: dict, config: dict = CONFIG, scores=None) -> Path:
    checkpoints = Checkpoints(workdir)
    checkpoints.save(step, state, config, None, scores)
    checkpoints.wait()
    return workdir


def test_ls_says_size_arrays_the_rule_that_keeps_it_and_scores(saved, run):
    config = {"run": CONFIG["run"] | {"max_to_keep": 1, "keep_best": "eval/knn/accuracy"}}
    save(saved, 7, state_of(), config, {"eval/knn/accuracy": 0.5})
    save(saved, 9, state_of(), config)
    code, lines = run("ls", saved)
    assert code == 0
    assert [line.split("  ")[0] for line in lines] == ["step 2", "step 5", "step 7", "step 9"]
    assert all("  0.0 MB  5 arrays  kept: " in line for line in lines)
    assert [line.split("kept: ")[1] for line in lines] == [
        "by no rule",
        "by no rule",
        "best eval/knn/accuracy  eval/knn/accuracy 0.5",
        "newest",
    ]


def test_ls_names_a_damaged_manifest_and_lists_the_others(saved, run):
    halve([path for path in files_of(saved, 5) if "manifest" in path.parts])
    code, lines = run("ls", saved)
    assert code == 1
    assert "DAMAGED: manifest/metadata: " in lines[1] and "kept: newest" in lines[0]


def test_verify_reads_every_checkpoint_or_one(saved, run):
    code, lines = run("verify", saved)
    assert code == 0
    assert [line.split(": ")[1] for line in lines] == ["5 arrays are intact, 0.0 MB"] * 2
    code, lines = run("verify", saved / "checkpoints" / "2")
    assert code == 0 and len(lines) == 1


def test_verify_names_each_damaged_array_and_goes_on(saved, run):
    manifest = Checkpoints(saved).at(2).manifest
    halve([path for path in files_of(saved, 2) if "manifest.ocdbt" in path.name])
    code, lines = run("verify", saved)
    assert code == 1
    damaged = [line for line in lines if "checkpoints/2: DAMAGED: leaf " in line]
    assert [line.split("leaf ")[1].split(": ")[0] for line in damaged] == list(manifest.leaves)
    assert "checkpoints/5: 5 arrays are intact" in lines[-1]


def test_verify_does_not_call_damaged_what_a_run_deletes_meanwhile(saved, run, monkeypatch):
    sound = Saved.problems

    def deleting(self):
        if self.step == 2:
            shutil.rmtree(self.folder)
        return sound(self)

    monkeypatch.setattr(Saved, "problems", deleting)
    code, lines = run("verify", saved)
    assert code == 0
    assert "checkpoints/2: deleted meanwhile" in lines[0] and "5 arrays are intact" in lines[1]


def test_diff_says_which_arrays_differ_and_by_how_much(saved, run, tmp_path):
    state = state_of()
    kernel = state["params"]["kernel"].at[0, 0].add(0.5).at[1, 1].set(jnp.nan)
    state["params"] |= {"kernel": kernel, "bias": jnp.zeros(5), "scale": jnp.ones(2)}
    del state["optimizer"]
    other = save(tmp_path / "other", 5, state)
    code, lines = run("diff", saved, other / "checkpoints" / "5")
    assert code == 1
    assert lines[:3] == [
        "optimizer/0/mu: only in the first",
        "optimizer/1/count: only in the first",
        "params/bias: float32[4] and float32[5]",
    ]
    assert lines[3].startswith("params/kernel: 2 of 384 values differ, by at most 0.5; the largest")
    assert lines[4] == "params/scale: only in the second"
    assert lines[5].startswith("5 of 6 arrays differ: ") and len(lines) == 6


def test_diff_of_equal_states_is_0_although_they_hold_nan_and_minus_0_is_not_0(
    saved, run, tmp_path
):
    odd = {"a": jnp.array([jnp.nan, 0.0])}
    first = save(tmp_path / "a", 1, odd)
    code, lines = run("diff", first, save(tmp_path / "b", 3, odd))
    assert code == 0 and lines[0].startswith("all 1 arrays are equal: ")
    code, lines = run("diff", first, save(tmp_path / "c", 1, {"a": jnp.array([jnp.nan, -0.0])}))
    assert code == 1 and lines[0].startswith("a: 1 of 2 values differ, by at most 0;")


def test_diff_does_not_compare_what_is_damaged(saved, monkeypatch, capsys):
    halve([path for path in files_of(saved, 5) if "state" in path.parts])
    monkeypatch.setattr(sys, "argv", ["checkpoint", "diff", str(saved), str(saved)])
    code, error = end_of(capsys, command.main)
    assert code == 1 and "checkpoints/5: checkpoint cannot be restored (" in error


def test_hash_prints_every_leaf_and_the_whole(saved, run):
    code, (*leaves, whole) = run("hash", saved)
    assert code == 0
    assert [line.split()[1] for line in leaves] == [
        "optimizer/0/mu",
        "optimizer/1/count",
        "params/bias",
        "params/kernel",
        "step",
    ]
    assert whole.split()[1:] == ["whole", "state,", "step", "5"] and len(whole.split()[0]) == 64


def test_average_is_the_mean_of_weights_and_the_rest_is_the_last_ones(saved, run, tmp_path):
    (saved / "data.json").write_text("{}")
    output = tmp_path / "mean"
    code, lines = run(
        "average", saved / "checkpoints/2", saved / "checkpoints/5", "--output", output
    )
    assert code == 0 and lines[-1].endswith("2 arrays are the mean of 2 checkpoints")
    made = Checkpoints(output).newest()
    kernels = [state_of(seed)["params"]["kernel"] for seed in (0, 1)]
    np.testing.assert_allclose(made.array("params/kernel"), sum(kernels) / 2, atol=1e-7)
    last = Checkpoints(saved).at(5)
    for path in ("step", "optimizer/0/mu", "optimizer/1/count"):
        np.testing.assert_array_equal(made.array(path), last.array(path))
    assert made.manifest.config == last.manifest.config and made.step == 5
    assert made.manifest.empty == last.manifest.empty
    assert (output / "data.json").read_text() == "{}"
    assert last.restore(like(state_of()))  # the sources are as they were
    assert made.restore(like(state_of()))["step"] == 5


def test_average_refuses_another_network_and_a_folder_that_holds_a_run(
    saved, run, tmp_path, capsys
):
    other = save(tmp_path / "other", 3, {**state_of(), "params": {"kernel": jnp.zeros((2, 2))}})
    for arguments, message in (
        ((other, saved, "--output", tmp_path / "new"), "array params/bias is absent, but float32"),
        ((saved, "--output", other), "holds a run already"),
    ):
        with pytest.raises(ValueError, match=message):
            run("average", *arguments)


def test_average_refuses_equal_shapes_of_other_heads_objectives_and_bands(saved, run, tmp_path):
    def about(heads: int, objective: str, sensor: str) -> dict:
        sections = {"model": {"trunk": {"heads": heads}}, "objective": {"name": objective}}
        workdir = save(tmp_path / f"{heads}{objective}{sensor}", 3, state_of(), CONFIG | sections)
        (workdir / "data.json").write_text(json.dumps({"s": {"sensor": {"id": sensor}}}))
        return workdir

    first = about(3, "mae", "s2")
    for other, message in (
        (about(6, "mae", "s2"), r"config\.model\.trunk\.heads is 6, but 3"),
        (about(3, "dino", "s2"), r"config\.objective\.name is 'dino', but 'mae'"),
        (about(3, "mae", "l8"), r"data\.json\.s\.sensor\.id is 'l8', but 's2'"),
    ):
        with pytest.raises(ValueError, match=message):
            run("average", other, first, "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_average_is_never_without_its_provenance(saved, run, tmp_path, monkeypatch):
    (saved / "data.json").write_text("{}")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(Checkpoints, "save", stop)
        run("average", saved, "--output", tmp_path / "mean")
    assert (tmp_path / "mean" / "data.json").exists()
    assert run("average", saved, "--output", tmp_path / "mean")[0] == 0  # the same command again


def test_slice_writes_the_arrays_that_match(saved, run, tmp_path):
    output = tmp_path / "part.npz"
    code, lines = run("slice", saved, "--paths", "params/|optimizer/0", "--output", output)
    assert code == 0 and "3 arrays" in lines[-1]
    with np.load(output) as arrays:
        assert sorted(arrays) == ["optimizer/0/mu", "params/bias", "params/kernel"]
        np.testing.assert_array_equal(arrays["params/kernel"], state_of(0)["params"]["kernel"])
        assert arrays["optimizer/0/mu"].dtype == np.float32
    with pytest.raises(ValueError, match="matches no array"):
        run("slice", saved, "--paths", "nothing", "--output", output)
    with pytest.raises(ValueError, match="is not a regex"):
        run("slice", saved, "--paths", "(", "--output", output)
    with pytest.raises(ValueError, match=r"expected a file \.npz"):
        run("slice", saved, "--paths", "params", "--output", tmp_path / "part.txt")


@pytest.mark.parametrize("task", ["ls", "verify", "hash"])
def test_a_workdir_without_checkpoints_and_a_step_that_is_not_there_say_so(
    tmp_path, saved, task, monkeypatch, capsys
):
    absent = saved / "checkpoints" / "3"
    for path, message in (
        (tmp_path, "no checkpoint there; train first: "),
        *([] if task == "ls" else [(absent, "no checkpoint of step 3; there are 2, 5")]),
    ):
        monkeypatch.setattr(sys, "argv", ["checkpoint", task, str(path)])
        code, error = end_of(capsys, command.main)
        assert code == 1 and message in error


@pytest.mark.parametrize("task", ["ls", "verify", "diff", "hash", "average", "slice"])
def test_help_shows_an_example(task, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["checkpoint", task, "--help"])
    with pytest.raises(SystemExit):
        command.main()
    assert f"example: python -m eo_jax.checkpoint {task} runs/" in capsys.readouterr().out
