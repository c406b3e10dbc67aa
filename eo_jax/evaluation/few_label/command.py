"""Learning from few labels on hyperspectral scenes: one table of floors and pretrained encoders.

    python -m eo_jax.evaluate few-label --store stores/pavia stores/hymap --output results
    python -m eo_jax.evaluate few-label --store stores/pavia --labels 5 10 --splits blocks \\
        --weights encoder.safetensors --output results

Without --weights it pretrains an encoder on each scene without its labels, by
configs/barlow_scene.py, in OUTPUT/<store>/pretraining. few_label.html has tables, curves over label
counts, the spread over draws and classification maps; few_label.csv every draw. Rows that exist are
kept, so that the same command goes on after a stop. The protocol is that of
eo_jax/evaluation/few_label/protocol.py; docs/few-label.md explains it.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from eo_jax import compile_cache
from eo_jax.evaluation.candidates import load
from eo_jax.evaluation.few_label import page, protocol
from eo_jax.evaluation.few_label.methods import METHODS, Method, Predictors, scores
from eo_jax.evaluation.few_label.pretraining import pretrain
from eo_jax.evaluation.few_label.results import Rows, margin
from eo_jax.evaluation.few_label.scene import Scene, read_scene
from eo_jax.exchange import matching
from eo_jax.trained_encoder import TrainedEncoder

_VERSION = 1  # of methods: a change of theirs makes other rows


def main(arguments: Sequence[str]) -> int:
    """The command."""
    args = parser().parse_args(arguments)
    if args.weights and len(args.store) > 1:
        raise ValueError("--weights: are of one scene; give one --store at a time")
    compile_cache.enable()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, drawn = Rows(args.output), {}
    for store in args.store:
        scene = read_scene(store, args.label)
        name = Path(store).name
        trained = load(_weights(args, scene, name))
        check_same_data(trained, scene)
        drawn[name] = evaluate(name, scene, trained, rows, args)
    page.write(args.output, rows.found.values(), drawn)
    for name in drawn:
        _say_margins(name, [row for row in rows.found.values() if row["scene"] == name])
    print(args.output / page.NAME)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    found = argparse.ArgumentParser(
        prog="python -m eo_jax.evaluate few-label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--store", nargs="+", required=True, metavar="STORE", help="stores of one scene each")
    add("--output", type=Path, required=True, metavar="FOLDER", help="of table, page and runs")
    add("--label", default="landcover", metavar="NAME", help="label map (default: landcover)")
    add(
        "--labels",
        nargs="+",
        type=_count,
        default=list(protocol.LABELS),
        metavar="N",
        help=f"labels per class (default: {' '.join(map(str, protocol.LABELS))})",
    )
    add("--splits", nargs="+", choices=protocol.SPLITS, default=list(protocol.SPLITS))
    add("--weights", type=Path, metavar="PATH", help="file of eo_jax.export, or folder of a run")
    add(
        "--pretrain",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="ARG",
        help="last: what follows goes to eo_jax.train, such as --config.run.steps=2000",
    )
    return found


def _count(text: str) -> int:
    found = int(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected at least 1")
    return found


def _weights(args: argparse.Namespace, scene: Scene, name: str) -> Path:
    if args.weights:
        return args.weights
    return pretrain(scene, args.output / name / "pretraining", args.pretrain)


def check_same_data(trained: TrainedEncoder, scene: Scene) -> None:
    """Raises ValueError where the numbers of the scene mean something else than the encoder's."""
    mine, its = trained.sensor, scene.sensor
    try:
        matching.band_order(mine, [band.name for band in its.bands], None)
        matching.check_product(mine, its.id, its.dtype, its.scales, its.offsets, its.nodata)
    except ValueError as error:
        raise ValueError(f"{scene.store}: {error}") from error


def evaluate(
    name: str, scene: Scene, trained: TrainedEncoder, rows: Rows, args: argparse.Namespace
) -> page.Drawn:
    """Adds the rows of a scene that are missing; what the page draws of it."""
    predictors = Predictors(trained, scene)
    facts = {"store": scene.content, "encoder": trained.facts, "version": _VERSION}
    for split, labels in itertools.product(args.splits, args.labels):
        draws = protocol.draws(scene.classes, labels, split)
        for method in METHODS:
            about = {**facts, "method": method.name, "split": split, "labels": labels}
            if about in rows:
                continue
            predict = predictors.of(method)
            found = [scores(predict(draw, i), scene, draw) for i, draw in enumerate(draws)]
            row = _row(name, method, split, labels, found)
            rows.add(about, row)
            mean = 100 * sum(row["accuracy"]) / len(draws)
            print(f"{name}  {split}  {labels} labels  {method.name}: {mean:.1f} %", flush=True)
    return page.drawn(scene, predictors)


def _row(
    scene: str, method: Method, split: str, labels: int, found: list[dict[str, float]]
) -> dict[str, Any]:
    about = {"scene": scene, "method": method.name, "kind": method.kind}
    values = {score: [draw[score] for draw in found] for score in found[0]}
    return {**about, "split": split, "labels": labels, **values}


def _say_margins(name: str, rows: Sequence[Any]) -> None:
    """Prints the result, for each split and number of labels."""
    cells = sorted({(row["split"], row["labels"]) for row in rows})
    for split, labels in cells:
        found = margin(rows, split, labels)
        if found:
            print(
                f"{name}  {split}  {labels} labels: {found.mean:.1f} %, best floor "
                f"{found.floor_mean:.1f} % ({found.floor}): {found.difference:+.1f} points "
                f"({found.low:+.1f} to {found.high:+.1f})"
            )
