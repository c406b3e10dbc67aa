"""Tests of `eo_jax.monitor.writers`: lines that any JSON reader reads, whole after a kill."""

from __future__ import annotations

import json
import sys

import pytest

from eo_jax.monitor import writers


def written(workdir, *lines: tuple[int, dict], first_step: int = 0) -> list[str]:
    writer = writers.Writer(workdir, first_step, ())
    for step, values in lines:
        writer.write(step, values)
    writer.close()
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_nan_and_infinity_become_null(tmp_path):
    (line,) = written(tmp_path, (3, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5}))
    strict = json.loads(
        line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON")
    )
    assert strict == {"step": 3, "loss": None, "grad_norm": None, "lr": 0.5}


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = writers.Writer(tmp_path, 0, ())
    writer.write(1, {"loss": 1.0})
    assert writers.read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]
    writer.close()


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    written(tmp_path, (1, {"loss": 1.0}), (2, {"loss": 0.5}))
    path = tmp_path / "metrics.jsonl"
    for cut in range(1, len('{"step": 2, "loss": 0.5}')):
        content = path.read_bytes()
        path.write_bytes(content[: -1 - cut])
        assert writers.read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]
        path.write_bytes(content)


def test_a_folder_without_metrics_has_none(tmp_path):
    assert writers.read_metrics(tmp_path) == []


def test_resuming_cuts_what_was_logged_after_the_checkpoint_and_goes_on(tmp_path):
    written(tmp_path, *((step, {"loss": 1.0}) for step in range(1, 6)))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    lines = written(tmp_path, (4, {"loss": 2.0}), first_step=3)
    assert [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_that_is_not_installed_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ValueError,
        match=r"config\.run\.writers: 'tensorboard' needs tensorboardX: pip install "
        r"'eo_jax\[log\]'",
    ):
        writers.Writer(tmp_path, 0, ("tensorboard",))
