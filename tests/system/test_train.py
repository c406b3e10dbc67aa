"""Tests of `eo_jax.train`: a run that is killed and resumed is the run that was not; everything a
user can get wrong ends in one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import golden_text
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run as tiny_run_module
from absl.testing import flagsaver
from run_results import end_of, hashes, numbers, steps
from tiny_run import CONFIG, SAVE_EVERY, STEPS, arguments
from tiny_store import write_store, write_tiny_store
from toy_objective import Toy

from eo_jax import checkpoint, train
from eo_jax.checkpoint import __main__ as checkpoint_command
from eo_jax.data.pipeline import Pipeline
from eo_jax.experiment import make_experiment, make_normalisation, make_recipe
from eo_jax.monitor import writers
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP
from eo_jax.step import TrainSession

SMOKE = f"--config={CONFIG}"


# ----------------------------------------------------------------- killed and resumed, as processes
# The quick tier has this with a toy: killed in `test_train_mixture`, stopped by SIGTERM below.


class Run:
    """One `python -m eo_jax.train` in a process of its own."""

    def __init__(self, store: Path, workdir: Path):
        self.workdir = workdir
        command = [sys.executable, "-m", "eo_jax.train", *arguments(store, workdir)]
        environment = os.environ | {"PYTHONPATH": str(golden_text.ROOT)}
        self.process = subprocess.Popen(
            command,
            cwd=golden_text.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, condition) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, (
                self.process.communicate()[0]
            )
            time.sleep(0.01)

    def logged(self) -> int:
        return max((line["step"] for line in writers.read_metrics(self.workdir)), default=0)

    def saved(self) -> list[int]:
        return sorted(
            int(path.name) for path in self.workdir.glob("checkpoints/*") if path.name.isdigit()
        )

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """(exit code, output), after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=240)
        return self.process.returncode, output


@pytest.fixture(scope="module")
def broken(tiny_run, tiny_store, tmp_path_factory) -> dict:
    """The run of `tiny_run` again, but killed (SIGKILL), resumed, stopped (SIGTERM) and resumed;
    what that one compiled, these load.
    """
    workdir = tmp_path_factory.mktemp("runs") / "broken"
    kill_at = int(
        np.random.default_rng().integers(SAVE_EVERY + 1, 2 * SAVE_EVERY + 1)
    )  # any step after a checkpoint is as good as any other
    run = Run(tiny_store, workdir)
    run.wait_for(lambda: run.saved() and run.logged() >= kill_at)
    killed, _ = run.end(signal.SIGKILL)
    saved, logged = run.saved()[-1], run.logged()
    run = Run(tiny_store, workdir)
    run.wait_for(lambda: run.logged() > logged)
    terminated, output = run.end(signal.SIGTERM)
    stopped_at = run.saved()[-1]
    finished, last_output = Run(tiny_store, workdir).end()
    codes = {"killed": killed, "terminated": terminated, "finished": finished}
    return {
        "workdir": workdir,
        "codes": codes,
        "saved": saved,
        "logged": logged,
        "stopped_at": stopped_at,
        "outputs": (output, last_output),
    }


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_same_state_bit_for_bit(
    tiny_run, broken, monkeypatch, capsys
):
    assert broken["codes"] == {"killed": -signal.SIGKILL, "terminated": 143, "finished": 0}, broken[
        "outputs"
    ]
    assert 0 < broken["saved"] <= broken["logged"] < STEPS, (
        "the kill came too late to prove anything"
    )
    printed = []
    for workdir in (tiny_run, broken["workdir"]):
        monkeypatch.setattr(sys, "argv", ["checkpoint", "hash", str(workdir)])
        assert checkpoint_command.main() == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and f"whole state, step {STEPS}" in printed[0]


@pytest.mark.slow
def test_all_losses_and_evaluations_are_the_same_and_none_is_logged_twice(tiny_run, broken):
    whole = numbers(tiny_run)
    assert [line["step"] for line in whole] == [
        *range(1, STEPS + 1),
        STEPS,
    ]  # the last line is the evaluation
    assert numbers(broken["workdir"]) == whole
    assert len({line["loss"] for line in whole[:-1]}) == STEPS


@pytest.mark.slow
def test_sigterm_saves_what_it_has_and_the_next_command_goes_on_there(broken):
    stopped, resumed = broken["outputs"]
    assert f"resuming at step {broken['saved']} of {STEPS}" in stopped
    assert (
        f"stopped at step {broken['stopped_at']} of {STEPS}, state saved; the same command resumes "
        "from there" in stopped
    )
    assert f"resuming at step {broken['stopped_at']} of {STEPS}" in resumed


# --------------------------------------------------------------------- one process, a toy objective


def config_of(store: Path, **values) -> dict:
    toy = {"run.steps": 6, "run.save_every": 2, "sharding.rules": ((".*", ()),)}
    return tiny_run_module.config_of(store, **toy | values) | {"evals": {}}


@contextlib.contextmanager
def training_the_toy():
    """Every config trains the toy objective; signal handlers are put back."""
    experiment, handler = make_experiment, signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train,
            "make_experiment",
            lambda config: dataclasses.replace(experiment(config), objective=Toy(202)),
        )
        yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def toy():
    with training_the_toy():
        yield


@pytest.fixture(scope="module")
def finished(tiny_store, tmp_path_factory) -> Path:
    """A finished toy run of 6 steps."""
    workdir = tmp_path_factory.mktemp("finished")
    with training_the_toy():
        assert train.train(config_of(tiny_store), workdir) == 0
    return workdir


@pytest.fixture
def workdir(toy, finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_finished_run_says_so_and_changes_nothing(workdir, tiny_store, capsys):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert train.train(config_of(tiny_store), workdir) == 0
    assert "resuming at step 6 of 6" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_evaluators_of_a_finished_run_are_added_repeated_and_left_out(workdir, tiny_store, capsys):
    """Chosen anew for the same weights; scores of the others stay in metrics.jsonl."""

    def scored(evals, **options) -> list[str]:
        before = len(writers.read_metrics(workdir))
        config = config_of(tiny_store) | {"evals": evals}
        assert train.train(config, workdir, **options) == 0
        added = writers.read_metrics(workdir)[before:]
        assert all(line["step"] == 6 for line in added)
        return sorted({key.split("/")[1] for line in added for key in line if "eval/" in key})

    present = dict(config_of(tiny_store)["evals"])
    assert scored(present | {"collapse": {"split": "val"}}) == ["collapse"]
    assert scored(present | {"collapse": {"split": "val"}}) == []
    assert scored({"collapse": {"split": "train"}}, evaluate_again=True) == ["collapse"]


def test_another_config_is_refused_with_every_difference(workdir, tiny_store):
    other = config_of(
        tiny_store, **{"optim.lr": 0.5, "run.seed": 1, "data.batch_size": 2, "data.threads": 1}
    )
    with pytest.raises(ValueError, match="holds a run of another config") as error:
        train.train(other, workdir)
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "data.batch_size: 4 -> 2",
        "optim.lr: 0.001 -> 0.5",
        "run.seed: 0 -> 1",
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"run.steps": 9},
        {"model.trunk.depth": 2},
        {"augment.crops.global.scale": (0.5, 1.0)},
        {"optim.decay_rules": ((".*", 1.0),)},
    ],
)
def test_steps_model_views_and_rules_may_not_change_either(workdir, tiny_store, more):
    with pytest.raises(ValueError, match=next(iter(more)).replace(".", r"\.") + ": .* -> "):
        train.train(config_of(tiny_store, **more), workdir)


def test_what_changes_no_weight_may_change(workdir, tiny_store):
    moved = shutil.copytree(tiny_store, workdir.parent / "moved")
    free = {
        "run.log_every": 2,
        "run.save_every": 1,
        "run.max_to_keep": 1,
        "data.threads": 1,
        "data.prefetch": 1,
        "sharding.prefetch": 2,
    }
    config = config_of(moved, **free)
    config["evals"] = {"collapse": {"every": 1, "split": "val"}}
    assert train.train(config, workdir) == 0


def test_extend_to_goes_on_and_equals_nothing_lost(workdir, tiny_store, capsys):
    with pytest.raises(
        ValueError, match=r"To train the same run for longer, give --extend-to=STEPS"
    ):
        train.train(config_of(tiny_store, **{"run.steps": 9}), workdir)
    assert train.train(config_of(tiny_store, **{"run.steps": 9}), workdir, extend=True) == 0
    assert "resuming at step 6 of 9" in capsys.readouterr().out
    assert steps(workdir) == list(range(1, 10))
    assert checkpoint.load(workdir)[1] == 9
    checkpoints = checkpoint.Checkpoints(workdir)
    assert {step: checkpoints.at(step).manifest.origin for step in checkpoints.steps()} == {
        8: 6,
        9: 6,
    }


def test_extend_to_fewer_steps_is_refused(workdir, tiny_store):
    with pytest.raises(ValueError, match=r"already trained to step 6, but --extend-to=4"):
        train.train(config_of(tiny_store, **{"run.steps": 4}), workdir, extend=True)


def test_a_store_with_other_content_is_refused_wherever_it_lies(workdir, tmp_path):
    other = write_tiny_store(tmp_path / "tiny", seed=1)
    with pytest.raises(
        ValueError,
        match=r"source 'enmap' was trained on content \w{12}\.\.\., store tiny now holds "
        r"\w{12}\.\.\.; point config",
    ):
        train.train(config_of(other, **{"run.steps": 9}), workdir, extend=True)


def test_lines_logged_after_the_checkpoint_are_cut_on_resume(workdir, tiny_store):
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "loss": 1.0}\n{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train.train(config_of(tiny_store, **{"run.steps": 8}), workdir, extend=True)
    assert steps(workdir) == list(range(1, 9))
    assert writers.read_metrics(workdir)[6]["loss"] != 1.0


@pytest.mark.slow
def test_log_every_thins_the_lines_but_keeps_first_and_last(toy, tiny_store, tmp_path):
    train.train(config_of(tiny_store, **{"run.steps": 7, "run.log_every": 3}), tmp_path)
    assert steps(tmp_path) == [1, 3, 6, 7]
    train.train(config_of(tiny_store, **{"run.steps": 7, "run.log_every": 1}), tmp_path / "all")

    def logged(line):
        return (line["update_norm"], line["param_norm"], line["rankme/enmap"])

    def watched(folder):
        return {line["step"]: logged(line) for line in writers.read_metrics(folder)}

    assert (
        watched(tmp_path).items() < watched(tmp_path / "all").items()
        and len(set(watched(tmp_path).values())) == 4
    )


def test_every_line_has_rankme_of_the_weights_after_the_step_on_its_batch_without_augmentation(
    workdir, tiny_store
):
    config = config_of(tiny_store)
    experiment = make_experiment(config)
    pipeline = Pipeline(experiment.data, experiment.run.seed)
    see = make_recipe(experiment, make_normalisation(experiment, pipeline)).evaluate
    *_, batch = pipeline.batches(0, 6)
    spectra = np.asarray(
        see({"enmap": {"pixels": jnp.asarray(batch["enmap"]["pixels"])}})["enmap/global"],
        np.float64,
    )[:, 0].mean((1, 2))
    layer = checkpoint.load(workdir)[2]["layer"]
    features = spectra @ layer["kernel"] + layer["bias"]
    share = np.sqrt(np.linalg.eigvalsh(features.T @ features))
    share /= share.sum()
    ranks = [line["rankme/enmap"] for line in writers.read_metrics(workdir)]
    assert ranks[-1] == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-3)
    assert len(set(ranks)) == 6 and all(1 < rank < 3 for rank in ranks)


def test_the_logged_learning_rate_is_the_one_that_was_used(workdir):
    lrs = [line["lr"] for line in writers.read_metrics(workdir)]
    assert lrs == pytest.approx(
        [0] + [0.5e-3 * (1 + np.cos(np.pi * k / 5)) for k in range(5)], rel=1e-4
    )
    norms = [line["update_norm"] for line in writers.read_metrics(workdir)]
    assert norms[0] == 0 and norms[1] > norms[-1] > 0


def test_provenance_lies_beside_the_metrics(workdir, tiny_store):
    written = {
        name: json.loads((workdir / f"{name}.json").read_text())
        for name in ("config", "data", "versions")
    }
    as_computed = config_of(tiny_store, **{"model.dtype": "float32"})
    assert written["config"] == json.loads(json.dumps(as_computed))
    assert (
        written["data"]["enmap"]["content_sha256"]
        == json.loads((tiny_store / "manifest.json").read_text())["content_sha256"]
    )
    assert written["versions"]["jax"] == jax.__version__


def truncate(checkpoint: Path) -> None:
    """Halves every file, as a full disk or a broken copy leaves it."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_leads_to_the_same_end(
    workdir, finished, tiny_store, capsys
):
    truncate(workdir / "checkpoints" / "6")
    assert train.train(config_of(tiny_store), workdir) == 0
    told = capsys.readouterr().out
    assert "checkpoint 6 is damaged (" in told and "resuming from checkpoint 4" in told
    assert "resuming at step 4 of 6" in told
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == [
        "4",
        "6",
        "6.damaged",
    ]
    assert hashes(workdir) == hashes(finished)
    assert steps(workdir) == list(range(1, 7))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_scratch(workdir, tiny_store):
    for path in (workdir / "checkpoints").iterdir():
        truncate(path)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match=r"none is intact:\n.*checkpoints/6: .*\n.*checkpoints/4: "):
        train.train(config_of(tiny_store), workdir)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_a_run_that_computed_in_another_type_is_refused_and_the_message_says_how_to_go_on(
    workdir, tiny_store, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # where "auto" is bfloat16
    with pytest.raises(ValueError, match=r"\n  model\.dtype: float32 -> bfloat16\n") as error:
        train.train(config_of(tiny_store), workdir)
    assert str(error.value).endswith("give --config.model.dtype=float32.")


def test_a_full_disk_ends_the_run_with_one_clear_error(toy, tiny_store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", full)
    with pytest.raises(
        OSError,
        match=r"checkpoints/2: checkpoint cannot be saved \(.*No space left.*\); free space on "
        r"that disk",
    ):
        train.train(config_of(tiny_store), tmp_path)


def test_the_checkpoint_with_the_best_score_stays_and_its_manifest_has_the_scores(
    toy, tiny_store, tmp_path, monkeypatch
):
    accuracy = iter([0.2, 0.9, 0.5, 0.4, 0.6])

    class Scripted:
        def __call__(self, weights):
            return {"accuracy": next(accuracy)}

    monkeypatch.setattr(train, "make_evaluators", lambda *_: {"knn": (2, Scripted())})
    best = {"run.steps": 10, "run.max_to_keep": 1, "run.keep_best": "eval/knn/accuracy"}
    assert train.train(config_of(tiny_store, **best), tmp_path) == 0
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert {step: checkpoints.at(step).manifest.scores for step in checkpoints.steps()} == {
        4: {"eval/knn/accuracy": 0.9},
        10: {"eval/knn/accuracy": 0.6},
    }


@pytest.mark.slow
def test_the_best_checkpoint_stays_although_a_stop_had_cut_its_evaluation_short(
    toy, tiny_store, tmp_path, monkeypatch
):
    accuracy = iter([0.2, None, 0.9, 0.5, 0.4, 0.6])

    def evaluators(config, context_of):
        def scripted(weights):
            value = next(accuracy)
            if value is None:
                os.kill(os.getpid(), signal.SIGTERM)
                context_of("").poll()
            return {"accuracy": value}

        return {"knn": (2, scripted)}

    monkeypatch.setattr(train, "make_evaluators", evaluators)
    best = {"run.steps": 10, "run.max_to_keep": 1, "run.keep_best": "eval/knn/accuracy"}
    assert train.train(config_of(tiny_store, **best), tmp_path) == 143
    assert checkpoint.Checkpoints(tmp_path).newest().manifest.scores == {}
    assert train.train(config_of(tiny_store, **best), tmp_path) == 0
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps() == [4, 10]
    assert checkpoints.at(4).manifest.scores == {"eval/knn/accuracy": 0.9}


def test_a_signal_during_evaluation_is_followed_by_a_save_and_the_run_goes_on_from_there(
    toy, finished, tiny_store, tmp_path, monkeypatch, capsys
):
    """The signal may come between the question whether to save and the question whether to stop."""

    class Interrupted:
        def __init__(self, *_):
            pass

        def __call__(self, weights):
            os.kill(os.getpid(), signal.SIGTERM)
            return {}

    config = config_of(tiny_store, **{"run.save_every": 100})
    with monkeypatch.context() as patch:
        patch.setattr(
            train, "make_evaluators", lambda config, context: {"interrupted": (3, Interrupted())}
        )
        assert train.train(config, tmp_path) == 143
    assert checkpoint.load(tmp_path)[1] == 4
    assert steps(tmp_path) == [1, 2, 3, 3, 4]
    told = "stopped at step 4 of 6, state saved; the same command resumes from there"
    assert told in capsys.readouterr().out
    assert train.train(config, tmp_path) == 0
    assert hashes(tmp_path) == hashes(finished)


PHASES = {  # where a signal arrives: what of `train` is being called
    "data": (Pipeline, "__init__"),
    "restore": (train.Checkpoints, "steps"),
    "compile": (TrainSession, "compile"),
    "just before the loop": (Pipeline, "batches"),
    "first step": (train.RunLog, "dispatched"),
}


def signal_in(phase: str, patch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM when the phase is reached for the first time."""
    owner, name = PHASES[phase]
    original, sent = getattr(owner, name), []

    def call(*arguments, **options):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return original(*arguments, **options)

    patch.setattr(owner, name, call)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_the_last_line_after_a_signal_says_truly_what_is_saved_from_the_first_moment_on(
    toy, finished, tiny_store, tmp_path, monkeypatch, capsys, phase
):
    longer = config_of(tiny_store, **{"run.steps": 9})
    resumed = shutil.copytree(finished, tmp_path / "resumed")
    for workdir, first in ((tmp_path / "fresh", 0), (resumed, 6)):
        with monkeypatch.context() as patch:
            signal_in(phase, patch)
            assert train.train(longer, workdir, extend=True) == 143
        told, step = capsys.readouterr().out.splitlines()[-1], first + (phase == "first step")
        if step:
            assert told.startswith(f"stopped at step {step} of 9, state saved; the same command")
            assert checkpoint.load(workdir)[1] == checkpoint.Checkpoints(workdir).latest() == step
        else:
            assert told.startswith("stopped before the first step: nothing to save; the same")
            assert checkpoint.Checkpoints(workdir).latest() is None


def test_a_signal_stops_an_evaluation_between_batches_and_the_next_command_repeats_it(
    toy, tiny_store, tmp_path, monkeypatch, capsys
):
    batches, config = [], config_of(tiny_store, **{"run.save_every": 100})

    def evaluators(config, context_of):
        def features(weights):
            for batch in context_of("").batches("val"):
                batches.append(batch)
                if len(batches) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
            return {"seen": len(batches)}

        return {"features": (3, features)}

    monkeypatch.setattr(train, "make_evaluators", evaluators)
    assert train.train(config, tmp_path) == 143
    assert len(batches) == 1 and checkpoint.load(tmp_path)[1] == 3
    assert "stopped at step 3 of 6, state saved" in capsys.readouterr().out
    assert train.train(config, tmp_path) == 0
    seen = [line["step"] for line in writers.read_metrics(tmp_path) if "eval/features/seen" in line]
    assert seen == [3, 6]


def test_an_error_of_an_evaluator_ends_the_run_with_the_state_saved(
    toy, tiny_store, tmp_path, monkeypatch, capsys
):
    """The same command, once the fault is gone, evaluates what was missed, and that alone."""
    calls, config = [], config_of(tiny_store, **{"run.save_every": 100})

    def first(weights):
        calls.append("first")
        return {"score": 1.0}

    def second(weights):
        calls.append("second")
        if calls.count("second") == 1:
            raise ValueError("one class of two is missing")
        return {"score": 2.0}

    monkeypatch.setattr(
        train,
        "make_evaluators",
        lambda config, context: {"first": (0, first), "second": (0, second)},
    )
    with pytest.raises(ValueError, match="one class of two is missing"):
        train.train(config, tmp_path)
    assert checkpoint.load(tmp_path)[1] == 6
    assert "step 6: state saved; the same command resumes from there" in capsys.readouterr().out
    for _ in range(2):
        assert train.train(config, tmp_path) == 0
    assert calls == ["first", "second", "second"]
    assert [
        line["eval/second/score"]
        for line in writers.read_metrics(tmp_path)
        if "eval/second/score" in line
    ] == [2.0]


def test_metrics_of_a_step_are_fetched_while_the_next_one_runs(
    toy, tiny_store, tmp_path, monkeypatch
):
    events = []
    jit, device_get = jax.jit, jax.device_get

    class Recording:
        """A function under way from tracing to a call, which is recorded."""

        def __init__(self, stage):
            self.stage = stage

        def lower(self, *arguments):
            return Recording(self.stage.lower(*arguments))

        def compile(self, options):
            compiled = self.stage.compile()

            def call(state, batch):
                events.append("step")
                result = compiled(state, batch)
                if (
                    events.count("step") <= 3
                ):  # later a checkpoint that is being written may hold the state, on CPU
                    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), (
                        "the old state is kept beside the new one"
                    )
                return result

            return call

    def recording_jit(function, **options):
        jitted = jit(function, **options)
        return Recording(jitted) if "donate_argnums" in options else jitted

    def recording_get(values):
        if isinstance(values, dict) and "loss" in values:
            events.append("fetch")
        return device_get(values)

    monkeypatch.setattr(jax, "jit", recording_jit)
    monkeypatch.setattr(jax, "device_get", recording_get)
    train.train(config_of(tiny_store, **{"run.steps": 5, "run.save_every": 3}), tmp_path)
    # Steps 3 (saved) and 5 (the last) are fetched before what follows them; every other one after
    # its successor was dispatched.
    assert events == [
        "step",
        "step",
        "fetch",
        "step",
        "fetch",
        "fetch",
        "step",
        "step",
        "fetch",
        "fetch",
    ]


def test_a_collapsed_run_says_so_in_its_lines_and_on_the_screen(
    tiny_store, tmp_path, monkeypatch, capsys
):
    class Collapsing(Toy):
        def loss(self, *arguments):
            loss, (carry, metrics) = super().loss(*arguments)
            return loss, (carry, metrics | {"feature_std": jnp.zeros(())})

    monkeypatch.setitem(globals(), "Toy", Collapsing)
    with training_the_toy():
        train.train(config_of(tiny_store, **{"run.steps": 3, "run.save_every": 3}), tmp_path)
    assert [line["collapsed"] for line in writers.read_metrics(tmp_path)] == ["feature_std"] * 3
    assert capsys.readouterr().out.count("COLLAPSED: feature_std below 0.02") == 3


def test_where_the_time_went_is_logged_and_said_at_the_end(workdir, tiny_store, capsys):
    lines = writers.read_metrics(workdir)
    for line in lines:
        assert sum(
            value
            for name, value in line.items()
            if name.startswith("time/") and name != "time/wall_s"
        ) == pytest.approx(1)
    assert {"time/start", "time/compile"} <= lines[
        0
    ].keys()  # a toy's step may be over before the host looks
    assert all("time/start" not in line for line in lines[1:])
    assert (
        "time/checkpoint" in lines[2] and "time/checkpoint" not in lines[1]
    )  # steps 2 and 4 are saved
    train.train(config_of(tiny_store, **{"run.steps": 9}), workdir, extend=True)
    assert "time/start" in writers.read_metrics(workdir)[6]
    assert "\ntime: " in capsys.readouterr().out


class NotFinite(Toy):
    def loss(self, *arguments):
        loss, rest = super().loss(*arguments)
        return loss * jnp.nan, rest


def test_a_run_that_learns_nothing_ends_with_an_error_and_the_batch_by_name(
    tiny_store, tmp_path, monkeypatch, capsys
):
    """The save under way at that moment is not lost."""
    monkeypatch.setitem(globals(), "Toy", NotFinite)
    finalize = ocp.CompositeCheckpointHandler.finalize
    monkeypatch.setattr(
        ocp.CompositeCheckpointHandler,
        "finalize",
        lambda *arguments: (time.sleep(0.2), finalize(*arguments))[1],
    )
    config = config_of(tiny_store, **{"run.steps": 12, "run.max_skipped": 4})
    with training_the_toy():
        code, error = end_of(capsys, lambda: train.train(config, tmp_path))
    assert code == 1 and len(error.splitlines()) == 1
    assert "step 5: 5 steps in a row changed nothing" in error
    assert f"batch 4, source 'enmap' ({tiny_store}): samples " in error
    assert writers.read_metrics(tmp_path)[-1]["step"] == 5
    assert checkpoint.Checkpoints(tmp_path).steps() == [2, 4]


@pytest.mark.slow
def test_a_run_that_learns_nothing_ends_although_it_is_stopped_in_between(
    tiny_store, tmp_path, monkeypatch
):
    monkeypatch.setitem(globals(), "Toy", NotFinite)
    config = config_of(tiny_store, **{"run.steps": 12, "run.max_skipped": 4})
    with training_the_toy(), monkeypatch.context() as patch:
        signal_in("first step", patch)
        assert train.train(config, tmp_path) == 143
        with pytest.raises(ValueError, match="step 5: 5 steps in a row changed nothing"):
            train.train(config, tmp_path)


def test_a_batch_without_a_valid_value_ends_the_run_before_it_is_saved(toy, tmp_path, capsys):
    pixels = np.full((202, 32, 32), ENMAP.nodata, np.int16)
    empty = [Sample(pixels, ENMAP.id, f"{k}", group=f"{k}") for k in range(6)]
    config = config_of(
        write_store(tmp_path / "store", empty), **{"augment.statistics": "published"}
    )
    code, error = end_of(capsys, lambda: train.train(config, tmp_path / "run"))
    assert code == 1 and "step 1: no view of source 'enmap' has a valid value" in error
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_dry_run_trains_nothing_and_leaves_no_checkpoint(toy, tiny_store, tmp_path, capsys):
    assert train.train(config_of(tiny_store), tmp_path, dry_run=True) == 0
    output = capsys.readouterr().out
    assert (
        "parameters 609;" in output
        and "source enmap: 4 locations, 6 samples, 0 locations dropped" in output
        and "compiled; memory per device" in output
    )
    kinds = dict(re.findall(r"^  (\w+) +([\d.]+) MiB$", output, re.M))
    assert {"weights", "moments", "teacher", "batch", "activations", "together"} <= kinds.keys()
    pixels = 4 * 202 * 16 * 16 * 2 + 4 * (4 + 8)  # and time and place
    assert float(kinds["batch"]) == round(pixels / 2**20, 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_profile_is_a_trace_with_a_table_of_its_operations(toy, tiny_store, tmp_path, capsys):
    assert train.train(config_of(tiny_store), tmp_path, profiled=range(5, 7)) == 0
    output = capsys.readouterr().out
    assert "profile of 2 steps: " in output
    assert re.search(r"^  \S+ +[\d.]+ ms +[\d.]+% +[\d.]+ times$", output, re.M)
    assert list(tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz"))


def test_a_profile_of_steps_that_the_run_does_not_have_is_refused(toy, tiny_store, tmp_path):
    with pytest.raises(ValueError, match=r"steps:5-9: this run has steps 1 to 6; choose some"):
        train.train(config_of(tiny_store), tmp_path, profiled=range(5, 10))


def test_a_batch_of_another_shape_is_an_error_that_says_what_changed(
    toy, tiny_store, tmp_path, monkeypatch, capsys
):
    """A jitted function would compile again at every such step."""
    batch = Pipeline.batch

    def smaller_from_the_third(self, n):
        return {
            source: {name: array[: 3 if n > 2 else None] for name, array in fields.items()}
            for source, fields in batch(self, n).items()
        }

    monkeypatch.setattr(Pipeline, "batch", smaller_from_the_third)
    code, error = end_of(capsys, lambda: train.train(config_of(tiny_store), tmp_path / "run"))
    assert code == 1
    assert "batch/enmap/pixels: int16[4,1,202,16,16] -> int16[3,1,202,16,16]" in error


def test_the_log_and_the_provenance_count_the_places_whose_dates_repeat(
    toy, tiny_store, tmp_path, capsys
):
    """Of the four locations in the training split two have one date and two have two."""
    train.train(config_of(tiny_store, **{"data.sources.enmap.dates": 2, "run.steps": 2}), tmp_path)
    assert (
        "source enmap: 4 locations, 6 samples, 0 locations dropped, 2 have fewer than 2 dates and "
        "repeat some" in capsys.readouterr().out
    )
    assert (
        json.loads((tmp_path / "data.json").read_text())["enmap"]["locations_repeating_dates"] == 2
    )


def test_tensorboard_gets_the_same_numbers_on_request(toy, tiny_store, tmp_path):
    train.train(config_of(tiny_store, **{"run.writers": ("tensorboard",)}), tmp_path)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"grad_norm") == 6
    assert steps(tmp_path) == list(range(1, 7))


def test_without_a_request_there_is_no_tensorboard(workdir):
    assert not (workdir / "tensorboard").exists()


# --------------------------------------------------------------------------------- the command line


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `python -m eo_jax.train` with these arguments, in this process; gives exit code and
    standard error.
    """
    monkeypatch.chdir(golden_text.ROOT)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with flagsaver.flagsaver(), contextlib.suppress(KeyError):
            return end_of(capsys, train.main)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SMOKE, "--config.optim.lrr=1"), "config.optim.lrr: unknown key"),
        ((SMOKE, "--config.optm.lr=1"), "Did you mean 'optim'?"),
        (
            (SMOKE, "--config.optim.lr=fast"),
            "--config.optim.lr=fast: could not convert string to float",
        ),
        ((SMOKE, "--config.run.steps=2.5"), "--config.run.steps=2.5"),
        ((SMOKE, "--wrkdir=x"), "Unknown command line flag 'wrkdir'"),
        ((SMOKE,), "--workdir=DIR must be given"),
        (("--workdir=x",), "--config=configs/FILE.py[:variant] and --workdir=DIR must be given"),
        (
            ("--workdir=x", "--config=configs/mae_demo.py:no_such"),
            "configs/mae_demo.py: no variant 'no_such'; there are",
        ),
        (
            (SMOKE, "--workdir=x", "--config.data.batch_size=0"),
            "config.data.batch_size: 0; expected at least 1",
        ),
        (
            (SMOKE, "--workdir=x", "--config.optim.spike_sigma=3.0"),
            "config.optim.spike_sigma: 3; where losses stay at a higher level, 13 steps in a row",
        ),
        (
            (SMOKE, "--workdir=x", "--config.model.trunk.size=tinny"),
            "config.model.trunk.size: 'tinny'; expected one of tiny",
        ),
        (
            (SMOKE, "--workdir=x", "--config.sharding.data=7"),
            "data 7 x fsdp 1 x model 1 is not 1, the number of devices",
        ),
        (
            (SMOKE, "--workdir=x", "--config.optim.accum=3"),
            "config.data.batch_size: 8 does not divide over data x fsdp = 1 devices x 3 micro",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_leaves_nothing(command, arguments, message):
    code, error = command(*arguments)
    assert code == 1
    assert message in error
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert not (golden_text.ROOT / "x").exists()


@pytest.mark.parametrize("store", ["no/such/store"])
def test_a_store_that_is_not_there_says_how_to_make_one(command, tmp_path, store):
    code, error = command(
        SMOKE, f"--workdir={tmp_path}", f"--config.data.sources.enmap.store={store}"
    )
    assert (code, len(error.splitlines())) == (1, 1)
    assert (
        f"{store}: no such store. `python -m data_prep convert --help` says how to make one."
        in error
    )


def test_help_shows_examples_and_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    assert train.main() == 0
    output = capsys.readouterr().out
    assert "python -m eo_jax.train --config=configs/mae_demo.py" in output
    assert (
        all(f"--{flag}" in output for flag in ("config", "workdir", "extend-to"))
        and "dry-run" in output
    )


def test_a_traceback_is_there_on_request(command, monkeypatch):
    monkeypatch.setenv("EO_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="must be given"):
        command(SMOKE)
