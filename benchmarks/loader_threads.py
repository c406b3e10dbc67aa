"""How far the loader scales with threads: the part of a patch's CPU time that holds the GIL.

    python -m benchmarks.loader_threads --tiles ../shared/data/enmap/potsdam_l2a_tiles \\
        --work /tmp/threads

Model: a patch takes c ms of CPU time, g of them under Python's lock. N threads on N cores decode
min(N / c, 1 / g) patches per ms, as long as memory keeps up, which it does not know. c is that of
`Pipeline.batch` on patches of 202 x 128 x 128, in one thread. g is the same on patches of
202 x 2 x 2, since decompressing, copying and adding release the lock, plus, for records, their
checksum and the copy into Python's bytes, which do not. It also counts what the libraries do once
per call without the lock, so that N is rather too small.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.codec import load
from benchmarks.convert import mosaic
from benchmarks.loader import write_store
from benchmarks.loader_peers import BATCH, CROP, LINKS
from eo_jax.data.pipeline import Config, Pipeline, SourceConfig
from eo_jax.data.store import record
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

PATCHES, SMALL, BATCHES, TURNS, CORES = 16, 2, 20, 3, 16
WAYS = (
    ("zarr-raw", "host"),
    ("zarr", "host"),
    ("zarr", "device"),
    ("array-record", "host"),
    ("array-record", "device"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 for an error."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.loader_threads", description=__doc__, formatter_class=raw
    )
    parser.add_argument("--tiles", type=Path, required=True, metavar="DIR", help="EnMAP tiles")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="new folder")
    args = parser.parse_args(arguments)
    try:
        cubes = load(args.tiles, 64)
        args.work.mkdir(parents=True)
        _print([_row(cubes, args.work, *way) for way in WAYS])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    return 0


def _row(cubes: Sequence[np.ndarray], work: Path, format: str, undo: str) -> tuple:
    """(format, undo, CPU ms per patch, ms of them under the GIL)."""
    rng = np.random.default_rng(0)
    patches = [mosaic(cubes, rng) for _ in range(PATCHES)]
    small = [patch[:, :SMALL, :SMALL] for patch in patches]
    whole_ms = _pipeline_ms(work / f"{format}-{undo}", format, undo, patches, CROP)
    held_ms = _pipeline_ms(work / f"{format}-{undo}-small", format, undo, small, 1)
    if format == "array-record":
        held_ms += _record_ms(patches[0])
    return format, undo, whole_ms, held_ms


def _pipeline_ms(
    path: Path, format: str, undo: str, patches: Sequence[np.ndarray], crop: int
) -> float:
    samples = [Sample(patch, ENMAP.id, str(i), str(i)) for i, patch in enumerate(patches)]
    write_store(path, format, samples)
    source = SourceConfig(str(path), ENMAP.id)
    pipeline = Pipeline(Config({"enmap": source}, BATCH, crop, undo_differences=undo), 0)
    for n in range(-(-LINKS * len(patches) // BATCH)):
        pipeline.batch(n)  # the first read of each link verifies it

    def batches() -> None:
        for n in range(BATCHES):
            pipeline.batch(n)

    return _cpu_ms(batches) / BATCHES / BATCH


def _record_ms(patch: np.ndarray) -> float:
    """Of a record's checksum and of its bytes."""
    data = np.frombuffer(record.encode(Sample(patch, ENMAP.id, "", "")), np.uint8)
    return _cpu_ms(functools.partial(google_crc32c.value, data)) + _cpu_ms(data.tobytes)


def _cpu_ms(work: Callable[[], object]) -> float:
    """Of this thread, in the best turn."""
    found = []
    for _ in range(TURNS):
        start = time.thread_time()
        work()
        found.append(1000 * (time.thread_time() - start))
    return min(found)


def _print(rows: Sequence[tuple]) -> None:
    table = Table(
        "format", "differences", "CPU ms", "of them under the GIL", "threads used at most",
        f"patches/s on {CORES} cores", title="per patch of 202 x 128 x 128, crop 112 x 112",
    )  # fmt: skip
    for format, undo, whole_ms, held_ms in rows:
        rate = 1000 * min(CORES / whole_ms, 1 / held_ms)
        table.add_row(
            format,
            undo,
            f"{whole_ms:.2f}",
            f"{held_ms:.2f}",
            f"{whole_ms / held_ms:.0f}",
            f"{rate:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
