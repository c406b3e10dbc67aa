"""Measures opening a store of a million records: time to the first batch, memory, on resume too.

    python -m benchmarks.opening --json /tmp/opening.json

The store is real except for its pixels: patches of 2 x 2 pixels, 1000 records per shard, all shards
hard links of one. Manifest and index are those that a conversion writes for locations with four
dates each of Sentinel-2 and Sentinel-1, in random order, so that the dates of a location are not
neighbours. Each figure comes from its own process and starts after all imports; the best of three
is kept. Files are in the page cache, since they have just been written. "one" is Sentinel-2 alone;
in the "pair" Sentinel-1 is its paired source, and each opens the store itself. `cpu_s` is the
process's CPU time until the first batch, i.e. the time on an otherwise idle machine. Memory is
measured over 10,000 batches.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.loader_peers import anonymous_mb
from eo_jax.data import open_store
from eo_jax.data.index import Order, group_samples
from eo_jax.data.pipeline import Config, Pipeline
from eo_jax.data.source import SourceConfig
from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.writer import finish_store, index_row, write_shard
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

PER_SHARD = 1000
DATES = 4
SENSORS = {"sentinel2_l2a": "uint16", "sentinel1_grd": "float32"}
BATCH, SIDE = 64, 2
RESUMED = 123_456  # the first batch of a resumed run
TURNS = 3
GROWTH_BATCHES = 10_000
TWO_DAYS = 2 * 86_400 * 5_000  # positions, at 5,000 patches per second
FORMATS = ("array-record", "zarr-raw")
_ORDER_DRAWS = 2_000
STEP = 514_229  # a prime, so that its multiples visit all locations before any comes again

FIRST_BATCH_S, GROWTH_MB = 1.0, 5.0  # the goals


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 where a goal is missed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.opening", description=__doc__, formatter_class=raw
    )
    parser.add_argument(
        "--records",
        type=int,
        default=1_000_000,
        metavar="N",
        help="records of the store, a multiple of 1000 (default: 1000000)",
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=GROWTH_BATCHES,
        metavar="N",
        help="batches drawn to measure memory growth (default: 10000)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="where to create a folder of 600 MB, removed at the end (default: the system's)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="also write the figures to this file"
    )
    args = parser.parse_args(arguments)
    if args.records < PER_SHARD or args.records % PER_SHARD:
        parser.error(f"--records {args.records}: expected a multiple of {PER_SHARD}")
    try:
        with tempfile.TemporaryDirectory(prefix="opening-", dir=args.work) as work:
            formats = {
                format: _measure_format(Path(work) / format, format, args) for format in FORMATS
            }
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = {"records": args.records, "batches": args.batches, "formats": formats}
    goals = list(_goals(figures))
    _print(figures, goals)
    if args.json:
        write_atomically(
            args.json, (json.dumps({**figures, "goals": goals}, indent=1) + "\n").encode()
        )
    return 0 if all(goal["reached"] for goal in goals) else 3


# ------------------------------------------------------------------ the store


def write_store(path: Path, format: str, records: int) -> None:
    """A finished store of `records` records, whose shards are all the same file."""
    samples = [_sample(number) for number in range(PER_SHARD)]
    shards = records // PER_SHARD
    entries = numbered(write_shard(path, 0, format, PER_SHARD, samples), shards)
    for entry in entries[1:]:
        for file, source in zip(files(entry), files(entries[0]), strict=True):
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(path / source, path / file)
    about = {"sensors": {sensor: get_sensor(sensor).row() for sensor in SENSORS}}
    finish_store(path, entries, list(_rows(samples, records)), about, format, shards)


def numbered(first: dict[str, Any], shards: int) -> list[dict[str, Any]]:
    """The entries of so many shards, alike but for the names of their files."""
    text = json.dumps(first)
    return [
        json.loads(text.replace("shards/00000", f"shards/{k:05d}").replace("/c/0/", f"/c/{k}/"))
        for k in range(shards)
    ]


def files(entry: dict[str, Any]) -> list[str]:
    """Every file of a shard."""
    return [entry["file"], *(pixels["file"] for pixels in entry.get("pixels", []))]


def _sample(number: int) -> Sample:
    sensor = list(SENSORS)[number % len(SENSORS)]
    pixels = np.full((len(get_sensor(sensor).bands), SIDE, SIDE), number, SENSORS[sensor])
    name = f"{number:07d}/{number:09d}"
    return Sample(pixels, sensor, name, name, time=1_650_000_000 + number, lonlat=(13.0, 52.0))


def _rows(samples: Sequence[Sample], records: int) -> Iterator[list[dict[str, Any]]]:
    """The index rows of each shard, with the ids of the one shard that all are.

    All share one shape, one position and so on: a million of each would take 2 GB here.
    """
    rows = [index_row(sample, "train", 0.0) for sample in samples]
    locations = max(1, records // (DATES * len(SENSORS)))
    for first in range(0, records, PER_SHARD):
        numbers = range(first, first + PER_SHARD)
        names = [f"{number // 2 * STEP % locations:07d}" for number in numbers]
        yield [{**row, "group": name} for name, row in zip(names, rows, strict=True)]


# ------------------------------------------------------------------ measuring


def _measure_format(path: Path, format: str, args: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    write_store(path, format, args.records)
    figures: dict[str, Any] = {
        "write_s": time.perf_counter() - start,
        "index_mb": (path / "index.npz").stat().st_size / 1e6,
    }
    for case, n in itertools.product(("one", "pair"), (0, RESUMED)):
        turns = [in_new_process(opening, path, case, n) for _ in range(TURNS)]
        figures[f"{case} from {n}"] = min(turns, key=lambda turn: turn["first_batch_s"])
    figures["parts_s"] = in_new_process(parts, path)
    figures["drawing"] = in_new_process(drawing, path, args.batches)
    return figures


def in_new_process(measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """The figures of a measurement in a fresh process, which has imported this module and thus
    everything it needs.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def pipeline_config(path: Path, case: str) -> Config:
    """The config of "one" source, or of a "pair" with the second paired with the first."""
    sources = {"s2": SourceConfig(str(path), "sentinel2_l2a", dates=1)}
    if case == "pair":
        sources["s1"] = SourceConfig(str(path), "sentinel1_grd", dates=1, paired_with="s2")
    return Config(sources, batch_size=BATCH, crop=SIDE)


def opening(path: Path, case: str, n: int) -> dict[str, float]:
    """Seconds to the first batch, through Grain's threads as in training, and peak anonymous memory
    above that of the imports.
    """
    before = anonymous_mb()
    with Peak() as peak:
        start, used = time.perf_counter(), time.process_time()
        pipeline = Pipeline(pipeline_config(path, case), seed=0)
        opened = time.perf_counter()
        next(iter(pipeline.batches(n, n + 1)))
        end, used = time.perf_counter(), time.process_time() - used
    return {
        "pipeline_s": opened - start,
        "batch_s": end - opened,
        "first_batch_s": end - start,
        "cpu_s": used,
        "peak_mb": peak.mb - before,
    }


def parts(path: Path) -> dict[str, float]:
    """Seconds of each part of opening, one after the other."""
    marks = {"": time.perf_counter()}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter()

    store = open_store(path)
    mark("open_store")
    groups = group_samples(store, "train", 1, "repeat", "sentinel2_l2a")
    mark("group_samples")
    Order(len(groups), 0)
    mark("Order")
    pipeline = Pipeline(pipeline_config(path, "one"), seed=0)
    mark("Pipeline, a second store")
    pipeline.batch(0)
    mark("batch 0")
    pipeline.batch(RESUMED)
    mark(f"batch {RESUMED}")
    return {
        name: after - before for (_, before), (name, after) in itertools.pairwise(marks.items())
    }


def drawing(path: Path, batches: int) -> dict[str, float]:
    """Memory growth after the first batch, time per batch, and time per position now and after two
    days.
    """
    pipeline = Pipeline(pipeline_config(path, "one"), seed=0)
    drawn = pipeline.batches(0, batches + 1)
    next(drawn)
    before, resident, start = anonymous_mb(), _resident_mb(), time.perf_counter()
    collections.deque(drawn, maxlen=0)
    seconds = time.perf_counter() - start
    found = {
        "growth_mb": anonymous_mb() - before,
        "resident_growth_mb": _resident_mb() - resident,
        "batch_ms": 1e3 * seconds / batches,
    }
    order = Order(len(pipeline.sources["s2"].groups), 0)
    return found | {
        "position_us": _position_us(order, 0),
        "position_after_two_days_us": _position_us(order, TWO_DAYS),
    }


def _position_us(order: Order, first: int) -> float:
    start = time.perf_counter()
    for position in range(first, first + _ORDER_DRAWS):
        order[position]
    return 1e6 * (time.perf_counter() - start) / _ORDER_DRAWS


def _resident_mb() -> float:
    """Resident memory of this process, including mapped files."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


class Peak:
    """Peak anonymous memory of this process within the context, sampled every 2 ms, since the
    system does not record it.
    """

    def __enter__(self) -> Peak:
        self.mb, self._done = anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.002):
            self.mb = max(self.mb, anonymous_mb())

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        self._thread.join()


# ------------------------------------------------------------------ printed tables


def _goals(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """{"goal", "at_most", "found", "reached"} of each goal."""
    for format, found in figures["formats"].items():
        for case, n in itertools.product(("one", "pair"), (0, RESUMED)):
            name = f"{format}, {case}: seconds to batch {n}"
            yield _goal(name, FIRST_BATCH_S, found[f"{case} from {n}"]["first_batch_s"])
        yield _goal(
            f"{format}: memory growth over {figures['batches']} batches, MB",
            GROWTH_MB,
            found["drawing"]["growth_mb"],
        )


def _goal(name: str, most: float, found: float) -> dict[str, Any]:
    return {
        "goal": name,
        "at_most": most,
        "found": found,
        "reached": math.isfinite(found) and found <= most,
    }


def _print(figures: dict[str, Any], goals: Sequence[dict[str, Any]]) -> None:
    console = Console(width=130)
    for format, found in figures["formats"].items():
        table = Table(
            "measurement",
            "figures",
            title=f"{format}: {figures['records']} records, index of {found['index_mb']:.0f} MB",
        )
        for what, figure in found.items():
            table.add_row(
                what,
                "  ".join(f"{k} {v:.3g}" for k, v in figure.items())
                if isinstance(figure, dict)
                else f"{figure:.3g}",
            )
        console.print(table)
    verdicts = Table("goal", "", "measured", "")
    for goal in goals:
        verdicts.add_row(
            goal["goal"],
            f"<= {goal['at_most']:g}",
            f"{goal['found']:.2f}",
            "reached" if goal["reached"] else "MISSED",
        )
    console.print(verdicts)


if __name__ == "__main__":
    sys.exit(main())
