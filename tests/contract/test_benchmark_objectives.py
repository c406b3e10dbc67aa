"""The table of objectives: what is kept of an earlier run, what counts as missed, what is
refused.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import objectives

GOOD = {
    "loss": 1e-7,
    "gradient": 1e-6,
    "eight_devices": 1e-15,
    "resume": True,
    "over_untrained": 9.0,
    "over_moments": 50.0,
}
PARITY, TRAINED, LEARNT = [
    {key: GOOD[key] for key in keys}
    for keys in (("loss", "gradient"), ("eight_devices", "resume"), tuple(GOOD)[4:])
]


@pytest.fixture
def found(monkeypatch):
    """What is measured in place of the real thing, which takes minutes."""
    figures = {"parity": dict(PARITY), "trained": dict(TRAINED), "learnt": dict(LEARNT)}
    monkeypatch.setattr(
        objectives, "workers", lambda jobs: ThreadPoolExecutor(1)
    )  # in this process, where the patches are
    monkeypatch.setattr(objectives, "loss_parity", lambda objective: figures["parity"])
    monkeypatch.setattr(objectives, "trained_alike", lambda objective, backbone: figures["trained"])
    monkeypatch.setattr(objectives, "learns", lambda objective, backbone: figures["learnt"])
    return figures


def rows_of(path) -> dict:
    return {(row["objective"], row["backbone"]): row for row in json.loads(path.read_text())}


def test_a_row_measured_again_replaces_its_old_one_and_the_others_stay(found, tmp_path, capsys):
    path = tmp_path / "table.json"
    assert objectives.main(["--objectives", "simclr,mae", "--json", str(path)]) == 0
    found["learnt"]["over_untrained"] = 12.5
    assert objectives.main(["--objectives", "mae", "--backbones", "vit", "--json", str(path)]) == 0
    rows = rows_of(path)
    assert list(rows) == [
        ("mae", "vit"),
        ("mae", "resnet"),
        ("simclr", "vit"),
        ("simclr", "resnet"),
    ]  # the order of the objectives
    assert (
        rows["mae", "vit"]["over_untrained"] == 12.5
        and rows["simclr", "vit"]["over_untrained"] == 9.0
    )
    assert rows["mae", "resnet"]["eight_devices"] is None  # it has no such backbone
    assert capsys.readouterr().out.count("12.5") == 1


def test_rows_are_there_when_a_later_one_fails(found, tmp_path, monkeypatch):
    def fails(objective, backbone):
        if backbone == "resnet":
            raise OSError("no room")
        return TRAINED

    monkeypatch.setattr(objectives, "trained_alike", fails)
    assert objectives.main(["--objectives", "simclr", "--json", str(tmp_path / "table.json")]) == 1
    assert list(rows_of(tmp_path / "table.json")) == [("simclr", "vit")]


@pytest.mark.parametrize(
    ("part", "figure", "value"),
    [
        ("parity", "loss", 2e-5),
        ("parity", "gradient", 2e-4),
        ("trained", "eight_devices", 1e-9),
        ("trained", "resume", False),
        ("learnt", "over_untrained", 2.9),
        ("learnt", "over_moments", float("nan")),
    ],
)
def test_a_figure_beyond_its_limit_is_missed(found, capsys, part, figure, value):
    found[part][figure] = value
    assert objectives.main(["--objectives", "byol", "--backbones", "vit"]) == 3
    assert capsys.readouterr().out.count("MISSED: byol vit: ") == 1


def test_speeds_come_from_the_file_of_the_step_benchmark(found, tmp_path):
    steps, path = tmp_path / "step.json", tmp_path / "table.json"
    of_ours = [
        {"objective": "dino", "backbone": name, "samples_per_s": rate}
        for name, rate in (("vit_s", 9.5), ("resnet50", 2.75))
    ]
    peers = [
        {"objective": "dino", "backbone": "vit_s", "contender": way, "ours_to_it": ratio}
        for way, ratio in (("eager", 1.1), ("compiled", 3.0))
    ]
    steps.write_text(json.dumps({"steps_of_ours": of_ours, "peers": peers}))
    assert (
        objectives.main(["--objectives", "dino", "--step-json", str(steps), "--json", str(path)])
        == 0
    )
    rows = rows_of(path)
    assert (rows["dino", "vit"]["samples_per_s"], rows["dino", "vit"]["ours_to_pytorch"]) == (
        9.5,
        1.1,
    )
    assert (rows["dino", "resnet"]["samples_per_s"], rows["dino", "resnet"]["ours_to_pytorch"]) == (
        2.75,
        None,
    )
    assert objectives.main(["--objectives", "dino,mae", "--json", str(path)]) == 0
    assert rows_of(path)["dino", "vit"]["samples_per_s"] == 9.5  # stays without the file


def test_rows_without_learning_do_not_replace_those_with(found, tmp_path, capsys):
    path = tmp_path / "table.json"
    assert objectives.main(["--objectives", "dino", "--json", str(path)]) == 0
    assert objectives.main(["--objectives", "dino", "--fast", "--json", str(path)]) == 1
    assert (
        "--fast" in capsys.readouterr().err
        and rows_of(path)["dino", "vit"]["over_untrained"] == 9.0
    )


@pytest.mark.parametrize(
    "content",
    ["{", "{}x", '[{"objective": "mae"}]', '[{"objective": "mae", "backbone": "vit"}]', "3"],
)
def test_a_file_that_is_no_table_is_refused_and_left_alone(found, tmp_path, capsys, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    assert objectives.main(["--objectives", "mae", "--json", str(path)]) == 1
    assert str(path) in capsys.readouterr().err and path.read_text() == content


def test_unknown_names_are_named(capsys):
    assert objectives.main(["--objectives", "mea"]) == 1
    assert "no 'mea'; there are mae, " in capsys.readouterr().err


def test_no_job_is_refused(capsys):
    assert objectives.main(["--jobs", "0"]) == 1
    assert "--jobs 0: expected at least 1" in capsys.readouterr().err


def end_of_process(*row):
    os._exit(1)


@pytest.mark.slow
def test_rows_at_a_time_share_the_cores_and_a_process_that_ends_is_told(monkeypatch, capsys):
    with objectives.workers(2) as executor:
        shares = [
            set(done.result())
            for done in [executor.submit(os.sched_getaffinity, 0) for _ in range(20)]
        ]
    cores = os.sched_getaffinity(0)
    assert set().union(*shares) <= cores and all(
        len(share) <= max(1, (len(cores) + 1) // 2) for share in shares
    )
    monkeypatch.setattr(objectives, "measure_row", end_of_process)
    assert objectives.main(["--objectives", "mae", "--jobs", "2"]) == 1
    assert "terminated abruptly" in (told := capsys.readouterr().err) and "Fewer --jobs" in told
