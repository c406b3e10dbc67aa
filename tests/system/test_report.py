"""Tests of `eo_jax.report`: the page of a run has its numbers and pictures and loads nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from eo_jax import checkpoint, cli
from eo_jax.monitor import writers
from eo_jax.monitor.metric import Card
from eo_jax.report import __main__ as report
from eo_jax.report import collect


class Page(HTMLParser):
    """What a page loads and links."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.loads += [
            values[name]
            for name in ("src", "srcset", "data", "poster", "xlink:href")
            if values.get(name)
        ]
        self.links += [values["href"]] if values.get("href") else []


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory):
    """(workdir, text of its report.html), written by the command."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("report") / "run")
    (workdir / "encoder.safetensors").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["report", f"--workdir={workdir}"])
        cli.run(report.main)
    assert stopped.value.code == 0
    return workdir, (workdir / "report.html").read_text()


def test_the_page_has_the_numbers_of_the_run(page):
    workdir, text = page
    lines = writers.read_metrics(workdir)
    scores = next(line for line in lines if "eval/reconstruction/rmse" in line)
    assert f"{lines[0]['loss']:.4f} to {lines[-2]['loss']:.4f}" in text
    assert (
        f"{scores['eval/reconstruction/rmse']:.4f}" in text
        and f"{scores['eval/reconstruction/nearest_token_rmse']:.4f}" in text
    )
    assert (
        "step 30" in text
        and json.loads((workdir / "data.json").read_text())["enmap"]["content_sha256"] in text
    )


def test_the_page_has_pictures_of_held_out_samples(page):
    text = page[1]
    pictures = [
        source for source in Page(text).loads if source.startswith("data:image/png;base64,")
    ]
    assert len(pictures) >= 4 * 3  # four samples: original, what the encoder saw, reconstruction
    assert {f"000000{place}/" in text for place in (2, 5)} == {True}
    assert not re.search(r"000000[0134]/0000", text), "pictures come from the validation split"


def test_the_page_loads_nothing(page):
    found = Page(page[1])
    assert all(
        source.startswith(("data:", "#")) for source in found.loads
    )  # "#": glyphs inside the same drawing
    assert found.links == ["encoder.safetensors"]
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert not re.search(r"url\((?!['\"]?(data:|#))|@import", page[1])


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(page, monkeypatch):
    workdir, text = page
    monkeypatch.setattr(sys, "argv", ["report", f"--workdir={workdir}"])
    assert report.main() == 0
    assert (workdir / "report.html").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split=tset"], "split 'tset' is empty; the store has train, val"),
        ([], "no checkpoint there"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    page, tmp_path, monkeypatch, capsys, arguments, message
):
    workdir = page[0] if arguments else tmp_path
    monkeypatch.setattr(sys, "argv", ["report", f"--workdir={workdir}", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.run(report.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and message in error and len(error.splitlines()) == 1


def test_a_store_without_a_val_split_is_shown_by_its_train_split():
    assert collect.default_split(np.array(["train", "val"])) == "val"
    assert collect.default_split(np.array(["train", "test"])) == "train"


# --- the headline


def labels_and_values(lines: list[dict]) -> list[tuple[str, str]]:
    return [(card.label, card.value) for card in collect.headline(lines)]


def test_the_headline_takes_the_last_of_each_score():
    scores = {
        "rmse": 0.5,
        "mean_visible_rmse": 1.0,
        "nearest_token_rmse": 0.8,
        "ratio_to_mean_visible": 0.5,
        "ratio_to_nearest_token": 0.625,
    }
    named = {f"eval/reconstruction/{name}": value for name, value in scores.items()}
    probe = {"accuracy": 0.9, "untrained_accuracy": 0.7, "gain": 0.2}
    lines = [
        {"step": 1, "loss": 1.0},
        {"step": 1, **{name: 9.0 for name in named}},
        {"step": 2, "loss": None, "skipped": 1.0},
        {"step": 3, "loss": 0.25},
        {"step": 3, **named},
        {"step": 3, **{f"eval/linear_probe/{name}": value for name, value in probe.items()}},
    ]
    assert collect.headline(lines) == [
        Card("Loss", "1.0000 to 0.2500", "first and last logged step"),
        Card(
            "Reconstruction RMSE",
            "0.5000",
            "in the units of the sensor, masked tokens of held-out patches",
            "better",
            "better than both baselines, which need no training",
        ),
        Card("Mean of the visible pixels", "1.0000", "baseline; model / baseline = 0.500"),
        Card("Nearest visible token copied", "0.8000", "baseline; model / baseline = 0.625"),
        Card(
            "Linear probe",
            "90.0%",
            "untrained encoder 70.0%, gain +20.0 points",
            "better",
            "better than the same probe on the untrained encoder",
        ),
    ]


def test_every_evaluator_of_a_run_has_its_cards_and_one_that_no_longer_exists_has_none():
    line = {
        "step": 1,
        "eval/knn/accuracy": 0.5,
        "eval/knn/average_accuracy": 0.25,
        "eval/knn/kappa": 0.125,
        "eval/collapse/rankme": 12.0,
        "eval/collapse/rank_fraction": 0.5,
        "eval/collapse/feature_std": 0.75,
        "eval/removed/score": 1.0,
    }
    assert labels_and_values([line]) == [("Nearest neighbours", "50.0%"), ("RankMe", "12.0")]


def test_a_collapsed_run_has_a_card_that_says_since_when():
    lines = [
        {"step": step, "loss": 1.0, **({"collapsed": "feature_std"} if step in (20, 30) else {})}
        for step in (10, 20, 30)
    ]
    assert labels_and_values(lines) == [
        ("Loss", "1.0000 to 1.0000"),
        ("Collapsed", "step 20 to 30"),
    ]
    assert "(feature_std)" in collect.headline(lines)[1].note


def test_each_source_that_is_probed_has_a_card():
    probe = {"accuracy": 0.9, "untrained_accuracy": 0.7, "gain": 0.2, "test_classes": 3}
    line = {
        f"eval/linear_probe/{source}/{name}": value
        for source in ("s1", "l1c")
        for name, value in probe.items()
    }
    assert labels_and_values([{"step": 1, **line}]) == [
        ("Linear probe of l1c", "90.0%"),
        ("Linear probe of s1", "90.0%"),
    ]


def test_a_run_that_logged_nothing_has_no_headline():
    assert collect.headline([]) == []
    assert collect.headline([{"step": 1, "loss": None}]) == []


def test_a_probe_that_could_not_be_scored_says_so():
    (card,) = collect.headline([{"step": 3, "eval/linear_probe/test_classes": 1}])
    assert (card.label, card.value) == ("Linear probe", "not scored")
    assert "hold out more" in card.note


def test_scores_of_a_run_that_diverged_are_left_out():
    """NaN is null in metrics.jsonl."""
    names = (
        "rmse",
        "mean_visible_rmse",
        "nearest_token_rmse",
        "ratio_to_mean_visible",
        "ratio_to_nearest_token",
    )
    line = {"step": 1, "loss": 1.0, **{f"eval/reconstruction/{name}": None for name in names}}
    assert [card.label for card in collect.headline([line])] == ["Loss"]


def test_where_the_time_went_is_a_card_of_its_own(page):
    lines = [
        {"step": 1, "time/compile": 1.0, "time/wall_s": 1.0},
        {"step": 2, "time/step": 1.0, "time/wall_s": 3.0},
    ]
    expected = Card("Time in training steps", "75%", "step 75%, compile 25%")
    assert collect.time_spent(lines) == [expected]
    assert collect.time_spent([{"step": 1, "loss": 1.0}]) == []
    assert collect.time_spent(writers.read_metrics(page[0]))[0].note in page[1]


def test_the_report_restores_the_newest_checkpoint(page):
    assert f"step {checkpoint.load(page[0])[1]}" in page[1]
