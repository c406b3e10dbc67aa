"""Computes count, mean, std, min, max, no-data fraction and exact quantiles of every band.

    python -m data_prep stats /data/stores/spectral_earth --split train \\
        --quantiles 0.01 0.5 0.99 --output stats.json

All values are digital numbers as stored; no-data, NaN and infinity are excluded. Quantiles equal
those of numpy.quantile. They take one pass over the store for pixels of 8 and 16 bits, two for 32
bits and four for 64 bits (statistics/quantiles.py says why). A worker holds 64 MB of pixels and
their counts: at most bands x 65,536 x 10 bytes in the first pass, 130 MB for 202 bands. The result
does not depend on shards or workers.

The JSON file, with null for a band without data:

    {"content_sha256", "split", "levels": [...],
     "sensors": {id: {"bands": [names], "dtype", "units": "digital number",
                      "count", "mean", "std", "min", "max", "nodata_share": one value per band,
                      "quantiles": for each level, one value per band}}}
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.jobs import executors, progress
from data_prep.statistics import quantiles
from data_prep.statistics.moments import BandSums
from data_prep.statistics.quantiles import PrefixCounts, Selection
from eo_jax.data import Store, open_store
from eo_jax.data.store.files import write_atomically
from eo_jax.sensors import Sensor

LEVELS = (0.01, 0.02, 0.25, 0.5, 0.75, 0.98, 0.99)
_BATCH_BYTES = 64e6
_COLUMNS = 150  # of text: narrower tables would truncate numbers


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard in one pass: the samples to read, and per sensor the dtype and the wanted prefixes
    of each band.
    """

    store: Path
    samples: tuple[int, ...]
    number: int
    wanted: dict[str, tuple[np.dtype, list[list[int]]]]


@dataclasses.dataclass
class ShardCounts:
    """Results of one shard: per sensor the counts of digits and, in the first pass, sums."""

    samples: int
    size: int
    digits: dict[str, PrefixCounts] = dataclasses.field(default_factory=dict)
    sums: dict[str, BandSums] = dataclasses.field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep stats`."""
    parser.description = __doc__
    parser.epilog = (
        "example: python -m data_prep stats /data/stores/spectral_earth --split all --output "
        "stats.json"
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    parser.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="samples to include: train (default), val, ... or all",
    )
    parser.add_argument(
        "--quantiles",
        type=_level,
        nargs="+",
        default=LEVELS,
        metavar="Q",
        help="from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=executors.cores(),
        metavar="N",
        help="processes (default: one per core)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the values as JSON")


def _level(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 to 1")
    return float(text)


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises StoreError, RecordError, ValueError for a split without samples."""
    store = open_store(args.store)
    found = measure(store, args.split, args.quantiles, max(1, args.workers))
    console = Console(width=max(Console().width, _COLUMNS))
    for sensor_id, about in found["sensors"].items():
        console.print(table(store.sensor(sensor_id), about, found["levels"], args.split))
    if args.output:
        write_atomically(args.output, (json.dumps(found, indent=1) + "\n").encode())
        print(args.output)
    return 0


def measure(store: Store, split: str, levels: Sequence[float], workers: int = 1) -> dict[str, Any]:
    """The contents of the JSON file for a split or "all". Raises ValueError, RecordError."""
    chosen = np.flatnonzero(store.in_split(split))
    selections = {
        sensor: _selection(store, chosen, sensor, levels)
        for sensor in np.unique(store.index["sensor"][chosen]).tolist()
    }
    sums: dict[str, BandSums] = {}
    for number in range(
        max(quantiles.passes(selection.dtype) for selection in selections.values())
    ):
        unfinished = {
            sensor: selection
            for sensor, selection in selections.items()
            if number < quantiles.passes(selection.dtype)
        }
        counts = _pass(store, chosen, number, unfinished, workers)
        sums |= counts.sums
        for sensor, selection in unfinished.items():
            selection.narrow(number, counts.digits[sensor])
    about = {
        sensor: _about(store.sensor(sensor), sums[sensor], selection)
        for sensor, selection in selections.items()
    }
    return {
        "content_sha256": store.content_hash,
        "split": split,
        "levels": list(levels),
        "sensors": about,
    }


def _selection(store: Store, chosen: np.ndarray, sensor: str, levels: Sequence[float]) -> Selection:
    dtypes = np.unique(store.index["dtype"][chosen][store.index["sensor"][chosen] == sensor])
    return Selection(np.result_type(*dtypes.tolist()), len(store.sensor(sensor).bands), levels)


def _about(sensor: Sensor, sums: BandSums, selection: Selection) -> dict[str, Any]:
    names = [band.name for band in sensor.bands]
    fields = {"bands": names, "dtype": selection.dtype.name, "units": "digital number"}
    return {**fields, **sums.moments(), "quantiles": selection.result()}


# ------------------------------------------------------------------ passes


def _pass(
    store: Store, chosen: np.ndarray, number: int, unfinished: dict[str, Selection], workers: int
) -> ShardCounts:
    """One pass over the chosen samples of the sensors that need it."""
    samples = chosen[np.isin(store.index["sensor"][chosen], list(unfinished))]
    wanted = {
        sensor: (selection.dtype, selection.prefixes) for sensor, selection in unfinished.items()
    }
    parts = np.split(samples, np.flatnonzero(np.diff(store.index["shard"][samples])) + 1)
    tasks = [Task(store.path.resolve(), tuple(part.tolist()), number, wanted) for part in parts]
    total = ShardCounts(0, 0)
    with progress.show(f"stats, pass {number + 1}", len(samples)) as advance:
        for counts in executors.run(count_shard, tasks, workers):
            _add(total, counts)
            advance(counts.samples, counts.size)
    return total


@functools.lru_cache(1)
def _store(path: Path) -> Store:
    return open_store(path)


def count_shard(task: Task) -> ShardCounts:
    """Counts the samples of one shard. Raises RecordError."""
    store, total = _store(task.store), ShardCounts(0, 0)
    for sensor_id, group in _by_sensor(store, task.samples):
        for pixels in _batches(store, group):
            _add(total, _count(store.sensor(sensor_id), pixels, task))
    return total


def _by_sensor(store: Store, samples: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    sensors = store.index["sensor"][list(samples)].tolist()
    for sensor_id in sorted(set(sensors)):
        yield (
            sensor_id,
            [i for i, sensor in zip(samples, sensors, strict=True) if sensor == sensor_id],
        )


def _batches(store: Store, samples: Iterable[int]) -> Iterator[list[np.ndarray]]:
    """Pixels of samples, in batches large enough for efficient counting."""
    batch: list[np.ndarray] = []
    for i in samples:
        batch.append(store.pixels(i))
        if sum(pixels.nbytes for pixels in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _count(sensor: Sensor, batch: list[np.ndarray], task: Task) -> ShardCounts:
    dtype, prefixes = task.wanted[sensor.id]
    valid = [~sensor.missing(pixels) for pixels in batch]
    digits: PrefixCounts = {}
    for band, wanted in enumerate(prefixes):
        values = np.concatenate(
            [pixels[band][mask[band]] for pixels, mask in zip(batch, valid, strict=True)]
        )
        digits |= quantiles.count(band, values.astype(dtype, copy=False), task.number, wanted)
    counts = ShardCounts(len(batch), sum(pixels.nbytes for pixels in batch), {sensor.id: digits})
    if task.number == 0:
        for pixels, mask in zip(batch, valid, strict=True):
            _add_sums(counts, sensor.id, BandSums.of(pixels, ~mask))
    return counts


def _add(total: ShardCounts, counts: ShardCounts) -> None:
    total.samples, total.size = total.samples + counts.samples, total.size + counts.size
    for sensor, digits in counts.digits.items():
        quantiles.merge(total.digits.setdefault(sensor, {}), digits)
    for sensor, sums in counts.sums.items():
        _add_sums(total, sensor, sums)


def _add_sums(total: ShardCounts, sensor: str, sums: BandSums) -> None:
    if sensor in total.sums:
        total.sums[sensor].add(sums)
    else:
        total.sums[sensor] = sums


# ------------------------------------------------------------------ table


def table(sensor: Sensor, about: dict[str, Any], levels: Sequence[float], split: str) -> Table:
    """The statistics of a sensor with one row per band."""
    title = f"{sensor.id}, split {split}, digital numbers ({about['dtype']})"
    columns = {"mean": about["mean"], "std": about["std"], "min": about["min"]}
    columns |= {
        f"{level:g}": values for level, values in zip(levels, about["quantiles"], strict=True)
    } | {"max": about["max"]}
    result = Table("band", "nm", title=title, title_justify="left")
    for name in (*columns, "no-data"):
        result.add_column(name, justify="right")
    for b, band in enumerate(sensor.bands):
        nm = "" if band.centre_nm is None else f"{band.centre_nm:g}"
        result.add_row(
            band.name,
            nm,
            *(_number(values[b]) for values in columns.values()),
            f"{about['nodata_share'][b]:.2%}",
        )
    return result


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
