"""One task of every kind from the archive to the table: convert, pretrain, judge frozen and
fine-tuned, on simulated archives and on the real scenes of the sample data.

    python -m benchmarks.evaluation_tasks --output /tmp/tasks --json /tmp/tasks.json

EO_JAX_SAMPLE_DATA names the folder of the sample data; without it only the simulated sets run. Each
set's commands are printed before they run, and what exists is kept, so that the same command goes
on. <output>/<set>/results/table.html has everything; the JSON has the headline of every row with
its 95 % interval, beside the score of a prediction without images.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import few_label_scenes
from benchmarks.step import environment
from eo_jax.data.store.files import write_atomically

_POOLED = ("plain:linear", "dino:knn")
_MAPS = ("plain:knn",)
_TUNED = "plain:fine_tune"
# MAE of the demo on any store of patches.
_MAE = (
    "--config=configs/mae_demo.py:tiles",
    "--config.augment.statistics=store",
    "--evals=collapse",
)


class Simulated(NamedTuple):
    """A simulated archive.

    Attributes:
        archive: its name; locations, size: of `data_prep simulate`.
        convert: reader and options.
        sensor: what is pretrained on.
        task: of `eo_jax.evaluate`, without its store.
        protocols: of frozen features.
        overrides: of the config.
    """

    archive: str
    locations: int
    size: int
    convert: tuple[str, ...]
    sensor: str
    task: str
    protocols: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    def commands(self, folder: Path) -> list[list[str]]:
        """What makes the store and the run."""
        archive, store = str(folder / "archive"), str(folder / "store")
        source = "--config.data.sources.enmap"
        return [
            _python(
                *("data_prep", "simulate", "--archive", self.archive, "--output", archive),
                *("--locations", str(self.locations), "--size", str(self.size)),
            ),
            _python("data_prep", "convert", *self.convert, "--input", archive, "--output", store),
            _python(
                *("eo_jax.train", *_MAE, *self.overrides, f"--workdir={folder / 'run'}"),
                *(f"{source}.store={store}", f"{source}.sensor={self.sensor}"),
            ),
        ]


class Real(NamedTuple):
    """A scene of the sample data in tiles, half of them for the test.

    Attributes:
        scene: of `few_label_scenes.SCENES`.
        tile: side in pixels; what is left at the edges has to hold the 5 x 5 of the config.
    """

    scene: str
    tile: int
    task: str = "pixel:landcover"
    protocols: tuple[str, ...] = _POOLED

    def commands(self, folder: Path) -> list[list[str]]:
        """What makes the run; the store is made beforehand."""
        source, store = "--config.data.sources.pixels", folder / "store"
        return [
            _python(
                *(
                    "eo_jax.train",
                    "--config=configs/barlow_scene.py",
                    f"--workdir={folder / 'run'}",
                ),
                *(f"{source}.store={store}", f"{source}.sensor={_sensor_of(store)}"),
            ),
        ]

    def convert(self, folder: Path) -> None:
        """Makes the store, if it is missing."""
        if (folder / "store").exists():
            return
        scene = few_label_scenes.SCENES[self.scene]
        data = Path(os.environ["EO_JAX_SAMPLE_DATA"]) / "hyperspectral"
        tiles = ("--patch-size", str(self.tile), "--val-fraction", "0.01", "--test-fraction", "0.5")
        scene = scene._replace(options=(*scene.options, *tiles))
        few_label_scenes.convert(scene, data, folder / "store")


SETS: dict[str, Simulated | Real] = {
    "segmentation": Simulated(
        *("spectral-earth", 96, 64, ("spectral-earth", "--labels", "landuse")),
        *("enmap", "segmentation:landuse", _MAPS),
    ),
    "multi_label": Simulated(
        *("enmap-corine", 160, 32),
        *(("spectral-earth-downstream", "--task", "enmap_corine"), "enmap"),
        *("spectral_earth_enmap_corine", _POOLED),
    ),
    "regression": Simulated(
        *("hyperview", 640, 32, ("hyperview",), "hyperview", "hyperview"),
        ("plain:linear", "spectral_earth:mlp"),
    ),
    "change": Simulated(
        *("oscd", 120, 64, ("oscd", "--patch-size", "64")),
        *("sentinel2_l1c", "oscd", _MAPS, ("--config.model.stems.enmap.name=patch_embed",)),
    ),
    "pavia": Real("pavia", 10),
    "hymap": Real("hymap", 10),
    "salinas_a": Real("salinas_a", 13),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sets; results are written after each."""
    args = _parser().parse_args(arguments)
    real_too = "EO_JAX_SAMPLE_DATA" in os.environ
    chosen = args.only or [n for n, s in SETS.items() if real_too or isinstance(s, Simulated)]
    found: dict[str, Any] = {**environment(), "sets": {}}
    for name in chosen:
        found["sets"][name] = judged(SETS[name], args.output / name)
        print(json.dumps({name: found["sets"][name]}, indent=1), flush=True)
        if args.json:
            write_atomically(args.json, (json.dumps(found, indent=1) + "\n").encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evaluation_tasks", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="of archives, runs, results")
    add("--only", nargs="+", choices=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    add("--json", type=Path, metavar="F", help="file of the results")
    return parser


def judged(chosen: Simulated | Real, folder: Path) -> list[dict[str, Any]]:
    """The headlines of a set. Raises CalledProcessError."""
    if isinstance(chosen, Real):
        chosen.convert(folder)
    commands = chosen.commands(folder)
    commands.append(
        _python(
            *("eo_jax.evaluate", "--weights", str(folder / "run")),
            *("--task", f"{chosen.task}={folder / 'store'}", "--output", str(folder / "results")),
            *("--protocol", *chosen.protocols, _TUNED),
        )
    )
    for command in commands:
        print(f"$ {shlex.join(command)}", flush=True)
        subprocess.run(command, check=True)
    return headlines(folder / "results" / "table.csv")


def headlines(table: Path) -> list[dict[str, Any]]:
    """The first score of every row, which is that of its kind of task, for the whole test set."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["class"] and row["trivial"]]
    return [
        {field: row[field] for field in ("candidate", "protocol", "score")}
        | {field: round(float(row[field]), 4) for field in ("value", "low", "high", "trivial")}
        | {field: int(row[field]) for field in ("fitted", "tested")}
        for row in rows
    ]


def _sensor_of(store: Path) -> str:
    (sensor,) = json.loads((store / "manifest.json").read_bytes())["sensors"]
    return sensor


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


if __name__ == "__main__":
    sys.exit(main())
