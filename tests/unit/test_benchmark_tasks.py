"""`benchmarks.evaluation_tasks`: its commands are ones that there are, for every kind of task."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import evaluation_tasks, few_label_scenes
from data_prep import convert, simulate
from eo_jax.evaluation.protocol import find_protocol
from eo_jax.evaluation.task import find_task

SIMULATED = {
    name: one
    for name, one in evaluation_tasks.SETS.items()
    if isinstance(one, evaluation_tasks.Simulated)
}


def parsed(module, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("name", SIMULATED)
def test_the_commands_of_a_simulated_set_are_understood(name):
    made, converted, _ = SIMULATED[name].commands(Path("out"))
    assert parsed(simulate, made[4:]).archive == SIMULATED[name].archive
    assert parsed(convert, converted[4:]).archive == SIMULATED[name].convert[0]


@pytest.mark.parametrize("name", evaluation_tasks.SETS)
def test_every_protocol_of_a_set_takes_its_kind_of_task(name):
    chosen = evaluation_tasks.SETS[name]
    kind, _, label = chosen.task.partition(":")
    kind = kind if label else find_task(chosen.task).kind
    for protocol in (*chosen.protocols, evaluation_tasks._TUNED):
        assert kind in find_protocol(protocol).kinds
    if name in SIMULATED:
        assert kind == name
    else:
        assert chosen.scene in few_label_scenes.SCENES


def test_the_headlines_are_of_the_whole_test_set(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "candidate,protocol,class,score,value,low,high,trivial,fitted,tested\n"
        "run,plain:knn,,accuracy,0.5,0.4,0.6,0.25,10,20\n"
        "run,plain:knn,,kappa,0.3,0.2,0.4,,10,20\n"
        "run,plain:knn,water,accuracy,0.9,0.8,1.0,,10,20\n"
    )
    assert evaluation_tasks.headlines(table) == [
        {
            **{"candidate": "run", "protocol": "plain:knn", "score": "accuracy", "value": 0.5},
            **{"low": 0.4, "high": 0.6, "trivial": 0.25, "fitted": 10, "tested": 20},
        }
    ]
