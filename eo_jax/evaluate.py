"""Judges trained encoders on tasks, by the protocols of the field, beside floors without training.

    python -m eo_jax.evaluate --weights encoder.safetensors --task eurosat=stores/eurosat \\
        --protocol dino:knn torchgeo_bench:linear --output results
    python -m eo_jax.evaluate --weights runs/a runs/b --task segmentation:landuse=stores/demo \\
        --protocol plain:linear --fraction 0.1 1 --output results

    python -m eo_jax.evaluate few-label --help

A task is one of `eo_jax/evaluation/tasks`, or KIND:LABEL of a store of your own, with splits train,
val and test, or train and val. Rows that exist are kept, so the same command goes on, and a longer
one adds rows. table.html and table.csv have every row with its 95 % interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eo_jax import cli, compile_cache
from eo_jax.data.store.reader import open_store
from eo_jax.evaluation import candidates
from eo_jax.evaluation.features import Featurizer
from eo_jax.evaluation.few_label import command as few_label
from eo_jax.evaluation.floors import FLOORS
from eo_jax.evaluation.protocol import (
    NORMALISATIONS,
    POOLINGS,
    EvaluationProtocol,
    find_protocol,
    protocol_names,
)
from eo_jax.evaluation.reading import TaskData, asked_task, data_of
from eo_jax.evaluation.row import Row, judge
from eo_jax.evaluation.table import Table
from eo_jax.evaluation.task import Task, task_names
from eo_jax.report import class_maps


class Asked(NamedTuple):
    """A task as asked for.

    Attributes:
        name: as in the command.
        task: it.
        store: its folder or URL.
    """

    name: str
    task: Task
    store: str


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["few-label"]:
        return few_label.main(sys.argv[2:])
    arguments = parser().parse_args()
    compile_cache.enable()
    asked = [parse_task(text) for text in arguments.task]
    protocols = _protocols(arguments)
    _check_kinds(asked, protocols)
    for fraction in arguments.fraction:
        if not 0 < fraction <= 1:
            raise ValueError(f"--fraction: {fraction}; expected above 0 and at most 1")
    table = Table(arguments.output)
    _check_baseline(arguments, table)
    try:
        _fill(table, arguments, asked, protocols)
    finally:
        print(table.write_page(arguments.baseline))
    return 0


def _check_baseline(arguments: argparse.Namespace, table: Table) -> None:
    """Raises ValueError for a baseline that will not be in the table."""
    known = {row["candidate"] for row in table.rows.values()} | set(FLOORS)
    known |= {_title(path, arguments.weights) for path in arguments.weights}
    if arguments.baseline and arguments.baseline not in known:
        expected = ", ".join(sorted(known))
        raise ValueError(f"--baseline: {arguments.baseline!r}; expected one of {expected}")


def _fill(
    table: Table,
    arguments: argparse.Namespace,
    asked: Sequence[Asked],
    protocols: Mapping[str, EvaluationProtocol],
) -> None:
    """Adds every row that is missing."""
    for task, (name, protocol) in itertools.product(asked, protocols.items()):
        for title, featurizer, data in _candidates(arguments, task, protocol):
            for fraction, seed in itertools.product(arguments.fraction, arguments.seed):
                about = {
                    "features": featurizer.facts,
                    "store": data.content,
                    "task": task.name,
                    "protocol": [name, protocol.description],
                    "crop": data.crop,
                    "fraction": fraction,
                    "seed": seed,
                }
                if about not in table:
                    folder = arguments.output / "features"
                    row = judge(featurizer, data, protocol, folder, fraction=fraction, seed=seed)
                    _add(table, about, title, task, row)


def _protocols(arguments: argparse.Namespace) -> dict[str, EvaluationProtocol]:
    """{name: protocol} with every pooling and normalisation that is asked for in place of its own;
    these are part of the name.
    """
    found = {}
    for name, pooling, normalisation in itertools.product(
        arguments.protocol, arguments.pooling or [""], arguments.normalisation or [""]
    ):
        asked = {"pooling": pooling, "normalisation": normalisation}
        changes = {field: value for field, value in asked.items() if value}
        varied = " ".join([name, *(f"{field}={value}" for field, value in changes.items())])
        found[varied] = dataclasses.replace(find_protocol(name), **changes)
    return found


def _check_kinds(asked: Sequence[Asked], protocols: Mapping[str, EvaluationProtocol]) -> None:
    """Raises ValueError for a protocol that one of the tasks is not for."""
    for task, (name, protocol) in itertools.product(asked, protocols.items()):
        if task.task.kind not in protocol.kinds:
            raise ValueError(
                f"--protocol: {name!r} takes {', '.join(protocol.kinds)}, and task {task.name!r} "
                f"is {task.task.kind}; run them apart, into the same --output for one table"
            )


def _add(table: Table, about: dict[str, Any], title: str, asked: Asked, row: Row) -> None:
    """Adds a row to the table, and says its headline."""
    (name, settings), headline = about["protocol"], asked.task.headline
    manifest = open_store(asked.store).manifest
    names = {
        "candidate": title,
        "task": asked.task.title,
        "store": Path(asked.store).name,
        "split": manifest.get("archive", {}).get("options", {}).get("split", "archive"),
        "content": about["store"],
        "classes": class_maps.names_of(manifest["labels"][asked.task.label]),
        "protocol": name,
        "title": f"{name}: {settings}",
        "headline": headline,
        "fraction": about["fraction"],
        "seed": about["seed"],
    }
    table.add(about, names, row)
    value, low, high = row.verdict.scores[headline]
    print(
        f"{asked.name}  {name}  {title}: {headline} {value:.4f} ({low:.4f} to {high:.4f}), fitted "
        f"on {row.fitted}",
        flush=True,
    )


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(
        prog="python -m eo_jax.evaluate",
        description=__doc__,
        formatter_class=raw,
        epilog=f"tasks: {', '.join(task_names())}\nprotocols: {', '.join(protocol_names())}",
    )
    add = found.add_argument
    add(
        "--weights",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="files of eo_jax.export, or folders of runs",
    )
    add("--task", nargs="+", required=True, metavar="NAME=STORE", help="tasks and their stores")
    add("--protocol", nargs="+", required=True, metavar="NAME", help="see below")
    add("--output", type=Path, required=True, metavar="FOLDER", help="of table and features")
    add(
        "--fraction",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="F",
        help="of the training split, drawn without replacement (default: 1)",
    )
    add("--seed", nargs="+", type=int, default=[0], metavar="N", help="of draws (default: 0)")
    for field, values in (("pooling", POOLINGS), ("normalisation", NORMALISATIONS)):
        add(
            f"--{field}",
            nargs="+",
            default=[],
            choices=tuple(values),
            metavar=field.upper(),
            help=f"of {', '.join(values)}, in place of the protocol's",
        )
    add(
        "--baseline",
        default="",
        metavar="NAME",
        help="row that others are compared with, by its name in the table (default: imagestats)",
    )
    add("--no-floors", action="store_true", help="leave out the rows without pretraining")
    return found


def parse_task(text: str) -> Asked:
    """The task of NAME=STORE or KIND:LABEL=STORE. Raises ValueError."""
    name, _, store = text.partition("=")
    if not store:
        raise ValueError(f"--task: {text!r}; expected NAME=STORE or KIND:LABEL=STORE")
    return Asked(name, asked_task(name, store), store)


def _candidates(
    arguments: argparse.Namespace, asked: Asked, protocol: EvaluationProtocol
) -> Iterator[tuple[str, Featurizer, TaskData]]:
    """(title, candidate, its data); floors first, so that what is below them is marked at once."""
    for number, path in enumerate(arguments.weights):
        trained, data = _sized(path, asked, protocol)
        trained = candidates.adapted(trained, data, protocol)
        if not (number or arguments.no_floors):
            for title, floor in candidates.floors(trained, data, protocol).items():
                yield title, floor, data
        yield _title(path, arguments.weights), trained, data


def _sized(
    path: Path, asked: Asked, protocol: EvaluationProtocol
) -> tuple[candidates.TrainedEncoder, TaskData]:
    """The encoder for the views of a task, and the task's windows."""
    trained = candidates.load(path)
    if asked.task.kind == "pixel":
        return trained, data_of(asked.task, asked.store, trained.sensor, crop=trained.view)
    multiple = 1 if protocol.resize else trained.patch
    data = data_of(asked.task, asked.store, trained.sensor, multiple)
    return candidates.load(path, protocol.resize or data.crop), data


def _title(path: Path, paths: Sequence[Path]) -> str:
    """The file's name, with its folder where several have the same."""
    alike = [other for other in paths if other.name == path.name]
    return path.name if len(alike) == 1 else f"{path.parent.name}/{path.name}"


if __name__ == "__main__":
    cli.run(main)
