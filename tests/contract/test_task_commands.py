"""The command that the file of every task names, and the label and splits that it gives."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import geobench, spectral_earth_downstream

from data_prep import convert
from data_prep.reader import options
from data_prep.readers import reader_class
from data_prep.readers._geobench_tasks import TASKS
from eo_jax.evaluation.task import Task, find_task, task_names

# Scenes of one image are whatever the user names, so there is no archive to read.
ARCHIVES = [name for name in task_names() if not find_task(name).convert.startswith("hsi-scene")]
DRAWN = ("l7irish", "l8biome", "geonrw")  # archives without lists, split by the command


def parsed(task: Task) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return parser.parse_args([*shlex.split(task.convert), "--input", "in", "--output", "out"])


@pytest.mark.parametrize("name", task_names())
def test_the_command_is_one(name):
    assert parsed(find_task(name)).archive


def test_the_table_of_tasks_is_complete():
    listed = {}
    for line in Path("docs/evaluation.md").read_text().splitlines():
        names = re.findall(r"`(\w+)`", line.split("|")[1]) if line.startswith("| `") else []
        listed |= {name: line.split("|")[2].strip() for name in names}
    assert {name: listed.get(name) for name in task_names()} == {
        name: find_task(name).kind for name in task_names()
    }


def write(name: str, root: Path, task: Task) -> dict:
    """A tiny archive of the task; the options that make its samples small."""
    if name == "spectral-earth-downstream":
        wanted = task.convert.split()[-1]
        spectral_earth_downstream.write_task(root, wanted, (1, 111), "uint8", "int16")
        return {}
    if name == "geobench":
        wanted = task.convert.split()[-1]
        arrays = {key: band % 200 for key, band in geobench.bands(wanted, 0).items()}
        label = [0] * TASKS[wanted].classes if TASKS[wanted].kind == "multilabel" else 1
        arrays |= {"label": np.ones((16, 16), np.uint8)} if TASKS[wanted].kind == "map" else {}
        for sample in ("a", "b", "c"):
            geobench.write_sample(root / wanted / f"{sample}.hdf5", arrays, label)
        lists = {"train": ["a"], "valid": ["b"], "test": ["c"]}
        geobench.write_lists(root / wanted, lists)
        return {}
    return layouts.write(name, root)


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_store_has_the_label_and_the_splits(name, tmp_path):
    task = find_task(name)
    given = parsed(task)
    small = write(given.archive, tmp_path, task)
    asked = {
        field.name: getattr(given, field.name) for field in options(reader_class(given.archive))
    }
    defaults = {field.name: field.default for field in options(reader_class(given.archive))}
    chosen = small | {key: value for key, value in asked.items() if value != defaults[key]}
    reader = layouts.make_reader(given.archive, tmp_path, **chosen)
    items = reader.items()
    samples = layouts.read_all(given.archive, tmp_path, **chosen)
    assert all(task.label in sample.labels for sample in samples)
    if given.archive in DRAWN:
        assert given.test_fraction and (given.val_fraction or not task.val)
    else:
        assert {task.train, task.val, task.test} - {""} <= {item.split for item in items}
