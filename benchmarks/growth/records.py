"""What the host pays for records, sources, bad records and files of a conversion.

Times are CPU time of this process, the least of a few repeats, which on an otherwise idle machine
is the time that passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import opening
from benchmarks.loader_peers import anonymous_mb
from data_prep.conversion.overlaps import join_overlapping
from eo_jax.data import open_store
from eo_jax.data.bad_records import BadRecord, BadRecords
from eo_jax.data.mixture import ComponentConfig
from eo_jax.data.pipeline import Config, Pipeline
from eo_jax.data.source import SourceConfig
from eo_jax.data.store.index_file import index_bytes
from eo_jax.data.store.writer import index_row
from eo_jax.schema import Sample

_FAR = 1_000_003  # a batch whose location are in no cache
_DRAWN_S = 0.1  # about how long drawing is repeated
_REPEATS = 3  # of what takes less than _LONG_S
_LONG_S = 1.0


def opened(path: Path) -> dict[str, float]:
    """Opening a store and making pipelines, their memory, and what a batch costs, by itself and in
    a log.
    """
    before = anonymous_mb()
    with opening.Peak() as peak:
        one, one_s = _timed(lambda: Pipeline(opening.pipeline_config(path, "one"), seed=0))
    held = anonymous_mb()
    return {
        "open_s": _seconds(lambda: open_store(path)),
        "pipeline_s": one_s,
        "pipeline_mb": held - before,
        "pipeline_peak_mb": peak.mb - before,
        "pair_s": _seconds(lambda: Pipeline(opening.pipeline_config(path, "pair"), seed=0)),
        "draw_s": _per_call(one.samples),
        "batch_s": _per_call(one.batch),
        "describe_s": _per_call(one.describe),
        "counts_s": _per_call(one.counts),
    }


def mixed(path: Path, count: int) -> dict[str, float]:
    """A mixture of `count` components, each with a source of its own, all of one store."""
    source = SourceConfig(str(path), "sentinel2_l2a")
    sources = {f"s{number:02}": source for number in range(count)}
    components = {name: ComponentConfig((name,)) for name in sources}
    return _of_several(Config(sources, opening.BATCH, opening.SIDE, mixture=components))


def paired(path: Path, count: int) -> dict[str, float]:
    """One source, and others that are paired with it: `count` in all."""
    sources = {
        f"s{number:02}": SourceConfig(
            str(path), list(opening.SENSORS)[number % 2], paired_with="s00" if number else ""
        )
        for number in range(count)
    }
    return _of_several(Config(sources, opening.BATCH, opening.SIDE))


def _of_several(config: Config) -> dict[str, float]:
    before = anonymous_mb()
    pipeline, seconds = _timed(lambda: Pipeline(config, seed=0))
    return {
        "pipeline_s": seconds,
        "pipeline_mb": anonymous_mb() - before,
        "draw_s": _per_call(pipeline.samples),
        "batch_s": _per_call(pipeline.batch),
        "counts_s": _per_call(pipeline.counts),
    }


def skipped(count: int) -> dict[str, float]:
    """Counting so many bad records, and a line of the log after them."""
    bad = BadRecords({"s2": float("inf")})
    for n in range(count):
        bad.report(n, [BadRecord("s2", n, "")])

    def commit() -> None:
        for n in range(count):
            bad.commit(n, str)

    return {"commit_s": _timed(commit)[1], "log_s": _seconds(lambda: bad.skipped_before(count))}


def converted(count: int) -> dict[str, float]:
    """What the end of a conversion of so many files does with all of them: locations of four dates,
    each of which overlaps its neighbours.
    """
    side, dates = 0.01, opening.DATES
    numbers = np.arange(count) // dates
    low = np.stack([numbers % 1000, numbers // 1000], axis=-1) * (0.9 * side)
    corners = (low[:, None] + side * np.array([(0, 0), (1, 0), (1, 1), (0, 1)])).reshape(-1, 8)
    footprints: dict[str, list] = {}
    for number, corner in zip(numbers.tolist(), corners.tolist(), strict=True):
        footprints.setdefault(str(number), []).append(corner)
    pixels = np.zeros((3, opening.SIDE, opening.SIDE), np.uint8)
    rows = [
        index_row(Sample(pixels, "geonrw_rgb", f"{number:09}", f"{group:07}"), "train", 0.0)
        for number, group in enumerate(numbers.tolist())
    ]
    shard = {"record_crc32c": [0] * count}
    return {
        "overlaps_s": _timed(lambda: join_overlapping(footprints))[1],
        "index_s": _timed(lambda: index_bytes([rows], [shard]))[1],
    }


def revisited(count: int) -> dict[str, float]:
    """Two neighbouring locations with so many acquisitions in all, of one footprint each."""
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    footprints = {
        str(place): [(0.01 * (square + 0.9 * place)).ravel().tolist()] * (count // 2)
        for place in range(2)
    }
    return {"overlaps_s": _timed(lambda: join_overlapping(footprints))[1]}


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(result, CPU seconds) of one call."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def _seconds(call: Callable[[], Any]) -> float:
    """The least CPU time of a few calls, of one where it is long."""
    least = _timed(call)[1]
    if least < _LONG_S:
        least = min(least, *(_timed(call)[1] for _ in range(_REPEATS - 1)))
    return least


def _per_call(call: Callable[[int], Any]) -> float:
    """CPU seconds of call(n) for batches n far into training, after a few others."""
    first = _timed(lambda: [call(_FAR + n) for n in range(4)])[1] / 4
    calls = max(4, round(_DRAWN_S / max(first, 1e-6)))

    def window(start: int) -> float:
        return _timed(lambda: [call(start + n) for n in range(calls)])[1] / calls

    return min(window(_FAR + turn * calls) for turn in range(1, _REPEATS + 1))
