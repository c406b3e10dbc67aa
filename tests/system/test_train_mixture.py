"""Training on a mixture with paired sources and bad data: resumed bit for bit, compiled once.

A run that ends early saves its state.
"""

from __future__ import annotations

import copy
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
import mixed_run
import pytest
import tiny_archives
from run_results import end_of, hashes, numbers, steps
from tiny_store import write_tiny_store

from eo_jax import checkpoint, train
from eo_jax.config import parse_section
from eo_jax.data import Store, open_store
from eo_jax.data.pipeline import Pipeline
from eo_jax.data.store.record import RecordError
from eo_jax.monitor import goodput, writers


@pytest.fixture(scope="module")
def stores(tiny_store, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A store, one of the same locations by another sensor, and a larger one with a bad record."""
    folder = tmp_path_factory.mktemp("mixture")
    paired, single = (
        write_tiny_store(folder / "paired", seed=1),
        write_tiny_store(folder / "single", locations=9, seed=2),
    )
    damage(single, 0)
    return tiny_store, paired, single


def damage(store: Path, number: int) -> None:
    """Flips one bit of a record of an ArrayRecord store."""
    data = open_store(store).read(number)
    part = data[len(data) // 2 :][:100]  # ArrayRecord puts a header of its own after every 64 KiB
    shard = next(path for path in (store / "shards").iterdir() if part in path.read_bytes())
    tiny_archives.flip(shard, shard.read_bytes().index(part))


SKIP = {"data.on_error": "skip", "data.max_bad_fraction": 0.2}


@pytest.fixture(scope="module")
def mixed(stores, tmp_path_factory) -> Path:
    """A finished run of the mixture, not interrupted."""
    workdir = tmp_path_factory.mktemp("mixed")
    with mixed_run.training_the_mixture():
        assert train.train(mixed_run.config_of(*stores, **SKIP), workdir) == 0
    return workdir


@pytest.fixture
def mixture():
    with mixed_run.training_the_mixture():
        yield


@pytest.mark.slow
def test_a_killed_mixture_with_groups_and_a_bad_record_resumes_bit_for_bit(
    stores, mixed, mixture, tmp_path, capsys
):
    config, workdir = mixed_run.config_of(*stores, **SKIP), tmp_path / "run"
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [
        sys.executable,
        mixed_run.__file__,
        tmp_path / "config.json",
        workdir,
        str(mixed_run.SAVE_EVERY + 5),
    ]
    killed = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(golden_text.ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert train.train(config, workdir) == 0
    output = capsys.readouterr().out
    assert f"resuming at step {mixed_run.SAVE_EVERY} of 20" in output
    assert hashes(workdir) == hashes(mixed)
    assert numbers(workdir) == numbers(mixed)
    assert [
        checkpoint.Checkpoints(path).newest().manifest.bad_records for path in (workdir, mixed)
    ] == [{"x": [0]}] * 2


def test_lines_of_a_mixture_have_component_fractions_and_bad_records(mixed, stores):
    lines, mixture = writers.read_metrics(mixed), pipeline_of(stores).mixture
    assert [line["component"] for line in lines] == [mixture.component(n) for n in range(20)]
    assert {line["component"] for line in lines} == {"pair", "single"}
    for line in lines:
        assert line["mixture/pair"] + line["mixture/single"] == pytest.approx(1)
        assert line["mixture/pair"] == mixture.counts_before(line["step"])["pair"] / line["step"]
    bad = [line["bad_records"] for line in lines]
    assert bad == sorted(bad) and set(bad) == {0, 1}
    sources = {"pair": {"rankme/s1", "rankme/s2"}, "single": {"rankme/x"}}
    assert all(
        {name for name in line if name.startswith("rankme/")} == sources[line["component"]]
        for line in lines
    )


def pipeline_of(stores, **values) -> Pipeline:
    config = mixed_run.config_of(*stores, **values)
    return Pipeline(parse_section(config, "data"), config["run"]["seed"])


@pytest.mark.slow
def test_the_line_of_a_mixture_is_readable(stores, mixture, tmp_path, capsys):
    train.train(mixed_run.config_of(*stores, **SKIP, **{"run.writers": ("tensorboard",)}), tmp_path)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"mixture/pair") == 20
    output = capsys.readouterr().out
    assert re.search(
        r"step +4/20  (pair|single) \(so far pair \d+\.\d%, single \d+\.\d%\)  loss ", output
    )
    assert (
        output.count("skipped, another location is shown instead: ") == 1
        and "bad records 1" in output
    )
    assert "source s1: 4 locations, 6 samples, 0 locations dropped" in output


def test_every_component_is_compiled_before_the_first_step_and_nothing_after_it(
    stores, mixture, tmp_path, monkeypatch
):
    events, enter = [], goodput.Clock.enter
    monkeypatch.setattr(
        goodput.Clock, "enter", lambda clock, phase: (events.append(phase), enter(clock, phase))[1]
    )

    def lowered(event: str, _: float, **about) -> None:
        if event.endswith("jaxpr_to_mlir_module_duration"):
            events.append(f"lowered {about['fun_name']}")

    jax.monitoring.register_event_duration_secs_listener(lowered)
    train.train(mixed_run.config_of(*stores, **SKIP, **{"run.save_every": 100}), tmp_path)
    started = events.index("step")
    before = events[events.index("compile") : started]
    assert [
        sum(event.startswith("lowered") and name in event for event in before)
        for name in ("train_step", "pooled")
    ] == [2, 2]
    assert not [event for event in events[started:] if event.startswith("lowered")]


def test_a_dry_run_compiles_every_component(stores, mixture, tmp_path, capsys):
    assert train.train(mixed_run.config_of(*stores), tmp_path, dry_run=True) == 0
    output = capsys.readouterr().out
    assert all(
        re.search(
            r"compiled; memory per device: arguments \d+ MiB, temporary \d+ MiB \(component "
            rf"{component}\)",
            output,
        )
        for component in ("pair", "single")
    )


def test_a_corrupt_record_stops_the_run_with_its_name_and_the_state_saved(
    stores, mixture, tmp_path, capsys
):
    code, error = end_of(capsys, lambda: train.train(mixed_run.config_of(*stores), tmp_path))
    assert code == 1 and len(error.splitlines()) == 1
    assert error.startswith(f"error: {stores[2]}/shards/00000.array_record record 0 (id ")
    saved = checkpoint.Checkpoints(tmp_path).latest()
    assert saved and saved % mixed_run.SAVE_EVERY and steps(tmp_path) == list(range(1, saved + 1))


@pytest.mark.slow
def test_a_run_that_stopped_at_a_bad_record_goes_on_by_skipping_it(
    stores, mixture, mixed, tmp_path
):
    """Both settings may change on resume: they change no batch that could be read."""
    with pytest.raises(RecordError):
        train.train(mixed_run.config_of(*stores), tmp_path)
    assert train.train(mixed_run.config_of(*stores, **SKIP), tmp_path) == 0
    assert hashes(tmp_path) == hashes(mixed)


def test_more_bad_records_than_allowed_end_the_run_with_the_state_saved(
    stores, mixture, tmp_path, capsys
):
    limited = mixed_run.config_of(*stores, **{"data.on_error": "skip"})
    code, error = end_of(capsys, lambda: train.train(limited, tmp_path))
    assert (
        code == 1
        and "error: source 'x': 1 records cannot be decoded, config.data.max_bad_fraction allows "
        "0.009"
        in error
    )
    assert checkpoint.Checkpoints(tmp_path).latest() == steps(tmp_path)[-1] > 0


@pytest.mark.slow
def test_a_mount_that_vanishes_ends_the_run_with_the_state_saved_and_it_goes_on_when_it_is_back(
    stores, mixture, mixed, tmp_path, capsys, monkeypatch
):
    paired, away, read_into, write = (
        shutil.copytree(stores[1], tmp_path / "store"),
        tmp_path / "away",
        Store.read_into,
        writers.Writer.write,
    )
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(seconds / 100))

    def unmounting(writer, step, values):
        write(writer, step, values)
        if step == 8:
            paired.rename(away)

    def reopening(store, *arguments):
        """Open files survive a rename, but not a lost mount."""
        return read_into(copy.copy(store), *arguments)

    monkeypatch.setattr(Store, "read_into", reopening)
    monkeypatch.setattr(writers.Writer, "write", unmounting)
    config = mixed_run.config_of(stores[0], paired, stores[2], **SKIP)
    code, error = end_of(capsys, lambda: train.train(config, tmp_path / "run"))
    assert code == 1 and re.match(
        rf"error: step \d+: {paired}/shards/.* record \d .*No such file or directory.*; tried 4 "
        r"times in 2\.1 s\. ",
        error,
    )
    saved = checkpoint.Checkpoints(tmp_path / "run").latest()
    assert 8 <= saved < 20 and steps(tmp_path / "run")[-1] == saved
    away.rename(paired)
    monkeypatch.setattr(writers.Writer, "write", write)
    assert train.train(config, tmp_path / "run") == 0
    assert hashes(tmp_path / "run") == hashes(mixed)
