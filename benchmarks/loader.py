"""Compares the input path with its peers and with a plain copy, in one run with a warm page cache.

    python -m benchmarks.loader --tiles ../shared/data/enmap/potsdam_l2a_tiles \\
        --work /tmp/loader --json /tmp/loader.json

Each pipeline shuffles, crops at random, makes batches of 16 and calls device_put. Patches are
mosaics of different, rotated real EnMAP tiles (202 x 128 x 128 int16, 6.6 MB), crops 112 x 112. The
floor is one thread that copies whole patches from the page cache into an existing batch. Every
pipeline runs in its own process; they take turns, and the best turn of each is kept. Only ratios
count, since they come from one run on one machine; figures of two threads need two idle cores.
CPU time per patch is of one process with its threads, so that of workers is not in it; it tells
pipelines apart where other programs use the cores, too. The time to the first batch starts when the
store is opened, with JAX running and nothing verified yet.
Peers whose library is missing (`pip install lmdb torch webdataset`) are left out and named.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import stat
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

from benchmarks import loader_peers
from benchmarks.codec import load
from benchmarks.convert import mosaic
from benchmarks.loader_peers import BATCH, CROP, LINKS, SIDE, Consume
from benchmarks.stores import write_linked_store
from eo_jax.data.store import record
from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.reader import FORMATS
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

TURNS = 3
_TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_ARENA_MAX": "1",
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A pipeline: `open(work)` returns a function that consumes a number of batches.

    Attributes:
        data: the file or folder it reads.
        batches: consumed per turn, a second or two: starting a pipeline and its threads takes
            20 ms, which a real run pays once.
        names: hard links of each patch, all read before the first turn.
    """

    name: str
    open: Callable[..., Consume]
    arguments: tuple
    data: str
    batches: int
    names: int = 1
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def _ours(format: str, threads: int, undo: str, batches: int) -> Contender:
    """Our pipeline on a store; only the Zarr formats verify each link at its first read."""
    left = ", differences left to the device" if undo == "device" else ""
    return Contender(
        f"eo_jax {format}, {threads} thread{'s' * (threads > 1)}{left}",
        loader_peers.ours,
        (format, threads, undo),
        format,
        batches,
        1 if format == "array-record" else LINKS,
    )


CONTENDERS = {
    "floor": Contender("floor: copy, 1 thread", loader_peers.floor, (), "raw.npy", 96),
    "raw_1": _ours("zarr-raw", 1, "host", 72),
    "raw_2": _ours("zarr-raw", 2, "host", 96),
    "zarr_1": _ours("zarr", 1, "host", 24),
    "zarr_2": _ours("zarr", 2, "host", 48),
    "zarr_device_1": _ours("zarr", 1, "device", 24),
    "zarr_device_2": _ours("zarr", 2, "device", 48),
    "array_record_1": _ours("array-record", 1, "host", 24),
    "array_record_2": _ours("array-record", 2, "host", 36),
    "array_record_device_2": _ours("array-record", 2, "device", 36),
    "grain_raw": Contender(
        "Grain as documented, raw ArrayRecord",
        loader_peers.grain_documented,
        ("raw",),
        "raw.array_record",
        12,
    ),
    "grain": Contender(
        "Grain as documented, eo_jax records",
        loader_peers.grain_documented,
        ("record",),
        "array-record",
        12,
    ),
    "npy": Contender("memory-mapped npy + np.stack", loader_peers.npy, (), "raw.npy", 24),
    "lmdb_raw": Contender(
        "LMDB raw, tuned malloc", loader_peers.lmdb, ("raw",), "raw.lmdb", 72, environment=_TUNED
    ),
    "lmdb_raw_2": Contender(
        "LMDB raw, tuned malloc, 2 threads",
        loader_peers.lmdb_threads,
        ("raw", 2),
        "raw.lmdb",
        96,
        environment=_TUNED,
    ),
    "lmdb": Contender(
        "LMDB of eo_jax records, tuned malloc",
        loader_peers.lmdb,
        ("record",),
        "record.lmdb",
        24,
        environment=_TUNED,
    ),
    "lmdb_2": Contender(
        "LMDB of records, tuned malloc, 2 threads",
        loader_peers.lmdb_threads,
        ("record", 2),
        "record.lmdb",
        36,
        environment=_TUNED,
    ),
    "tars_raw": Contender(
        "WebDataset raw, tuned malloc",
        loader_peers.web_dataset,
        ("raw",),
        "raw.tars",
        24,
        environment=_TUNED,
    ),
    "tars": Contender(
        "WebDataset of eo_jax records, tuned malloc",
        loader_peers.web_dataset,
        ("record",),
        "record.tars",
        24,
        environment=_TUNED,
    ),
    "tif_raw_2": Contender(
        "rasterio, plain GeoTIFF, DataLoader, 2 workers",
        loader_peers.rasterio_torch,
        ("tif-raw", 2),
        "tif-raw",
        8,
    ),
    "tif_1": Contender(
        "rasterio, deflate GeoTIFF, DataLoader, no worker",
        loader_peers.rasterio_torch,
        ("tif", 0),
        "tif",
        2,
    ),
    "tif_2": Contender(
        "rasterio, deflate GeoTIFF, DataLoader, 2 workers",
        loader_peers.rasterio_torch,
        ("tif", 2),
        "tif",
        6,
    ),
}
# (title, contender, contender it is compared with, at least)
GOALS = (
    ("raw, two threads / floor", "raw_2", "floor", 0.8),
    ("raw, one thread / floor", "raw_1", "floor", 0.6),
    ("raw / Grain as documented", "raw_2", "grain_raw", 4),
    ("raw / LMDB raw with tuned malloc", "raw_2", "lmdb_raw", 1.3),
    ("raw / rasterio on plain GeoTIFF", "raw_2", "tif_raw_2", 10),
    ("raw / LMDB raw, two threads each", "raw_2", "lmdb_raw_2", 1),
    ("compressed / rasterio on deflate GeoTIFF, two threads", "zarr_2", "tif_2", 12),
    ("compressed / rasterio on deflate GeoTIFF, one thread", "zarr_1", "tif_1", 12),
    ("the same, differences left to the device, two threads", "zarr_device_2", "tif_2", 14),
    ("the same, differences left to the device, one thread", "zarr_device_1", "tif_1", 14),
    ("array-record / zarr, two threads each", "array_record_2", "zarr_2", 1 / 1.3),
    ("compressed / Grain as documented", "zarr_2", "grain", 2),
    ("compressed, one thread / LMDB of the same ratio", "zarr_1", "lmdb", 1),
)
# Comparisons without a goal: (title, contender, contender it is compared with)
COMPARISONS = (
    ("raw / LMDB raw, one thread each", "raw_1", "lmdb_raw"),
    ("compressed / LMDB of the same ratio, two threads each", "zarr_2", "lmdb_2"),
    ("array-record / LMDB of the same records, two threads each", "array_record_2", "lmdb_2"),
    ("differences left to the device / undone, zarr", "zarr_device_2", "zarr_2"),
    (
        "differences left to the device / undone, array-record",
        "array_record_device_2",
        "array_record_2",
    ),
    ("raw / WebDataset raw, one thread each", "raw_1", "tars_raw"),
    ("compressed / WebDataset of the same ratio, one thread each", "zarr_1", "tars"),
)
MEMORY_MB = 150  # besides the batch buffers


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, 1 for an error, 3 where a goal is missed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.loader", description=__doc__, formatter_class=raw
    )
    parser.add_argument(
        "--tiles",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder of real EnMAP tiles, as `convert enmap-tiles` reads it",
    )
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder, 60 MB per patch; removed at the end",
    )
    parser.add_argument(
        "--patches", type=int, default=64, metavar="N", help="patches in the data set (default: 64)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="PIPELINE",
        help=f"run only some of: {', '.join(CONTENDERS)} (default: all)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="also write the figures to this file"
    )
    args = parser.parse_args(arguments)
    chosen = {key: CONTENDERS[key] for key in args.only}
    try:
        cubes = load(args.tiles, 64)
        args.work.mkdir(parents=True)
        needed = {contender.data for contender in chosen.values()}
        figures = {
            "patches": args.patches,
            **write_data(cubes, args.work, args.patches, needed),
            **measure(args.work, args.patches, chosen),
        }
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    goals, comparisons = _goals(figures), _comparisons(figures["rates"])
    _print(figures, goals, comparisons)
    if args.json:
        write_atomically(
            args.json,
            (
                json.dumps({**figures, "goals": goals, "comparisons": comparisons}, indent=1) + "\n"
            ).encode(),
        )
    return 0 if all(goal["reached"] for goal in goals) else 3


# ------------------------------------------------------------------ the data


def write_data(
    cubes: Sequence[np.ndarray], work: Path, patches: int, needed: set[str]
) -> dict[str, float]:
    """Writes the same patches in the needed formats, named by the file or folder of each.

    Returns the record codec's compression ratios of the patches and of the tiles in them.
    """
    rng = np.random.default_rng(0)
    samples = [Sample(mosaic(cubes, rng), ENMAP.id, f"{i:04d}", f"{i:04d}") for i in range(patches)]
    pixels = np.stack([sample.pixels for sample in samples])
    np.save(work / "raw.npy", pixels)
    encoded = [record.encode(sample) for sample in samples]
    plain = [patch.tobytes() for patch in pixels]
    writers = {
        **{
            format: functools.partial(
                write_linked_store, format=format, samples=samples, links=LINKS
            )
            for format in FORMATS
        },
        "raw.array_record": functools.partial(loader_peers.write_array_record, records=plain),
    }
    if loader_peers.has("lmdb"):
        for name, records in (("raw.lmdb", plain), ("record.lmdb", encoded)):
            writers[name] = functools.partial(loader_peers.write_lmdb, records=records)
    if loader_peers.has("webdataset"):
        for name, records in (("raw.tars", plain), ("record.tars", encoded)):
            writers[name] = functools.partial(loader_peers.write_tars, records=records)
    if loader_peers.has("torch"):
        options = {"compress": "deflate", "predictor": 2}
        writers["tif"] = functools.partial(_write_tifs, pixels=pixels, **options)
        writers["tif-raw"] = functools.partial(_write_tifs, pixels=pixels)
    for name in sorted(needed & writers.keys()):
        writers[name](work / name)
    of_tiles = sum(cube.nbytes for cube in cubes) / sum(
        len(record.encode(Sample(cube, ENMAP.id, "", ""))) for cube in cubes
    )
    return {"ratio_of_patches": pixels.nbytes / sum(map(len, encoded)), "ratio_of_tiles": of_tiles}


def _write_tifs(folder: Path, pixels: np.ndarray, **options: str | int) -> None:
    folder.mkdir()
    for number, patch in enumerate(pixels):
        profile = {
            "driver": "GTiff",
            "count": len(patch),
            "height": SIDE,
            "width": SIDE,
            "dtype": "int16",
            **options,
        }
        with rasterio.open(
            folder / f"{number:04d}.tif",
            "w",
            **profile,
            transform=rasterio.Affine(30, 0, 3e5, 0, -30, 58e5),
        ) as file:
            file.write(patch)


# ------------------------------------------------------------------ measuring


def measure(work: Path, patches: int, chosen: dict[str, Contender]) -> dict[str, dict]:
    """{"rates": {contender: patches per second}, "ratios": {contender: compression},
    "cpu_ms": {contender: of a patch, without worker processes}, "anonymous_mb", "first_batch_s",
    "skipped": [name]}.
    """
    raw_bytes = (work / "raw.npy").stat().st_size
    there = {
        key: contender for key, contender in chosen.items() if (work / contender.data).exists()
    }
    pools, first_batch = {}, {}
    for key, contender in there.items():
        pools[key], first_batch[key] = _start(contender, work, patches)
    rates: dict[str, list[float]] = {key: [] for key in pools}
    cpu_ms: dict[str, list[float]] = {key: [] for key in pools}
    memory: dict[str, float] = {}
    try:
        for _ in range(TURNS):
            for key, pool in pools.items():
                rate, cpu, memory[key] = pool.submit(_turn, there[key].batches).result()
                rates[key].append(rate)
                cpu_ms[key].append(cpu)
    finally:
        for pool in pools.values():
            pool.shutdown()
    return {
        "rates": {key: max(found) for key, found in rates.items()},
        "median_rates": {key: statistics.median(found) for key, found in rates.items()},
        "cpu_ms": {key: min(found) for key, found in cpu_ms.items()},
        "ratios": {
            key: raw_bytes / _size(work / contender.data) for key, contender in there.items()
        },
        "anonymous_mb": memory,
        "first_batch_s": first_batch,
        "skipped": [contender.name for key, contender in chosen.items() if key not in there],
    }


def _size(path: Path) -> int:
    """Bytes on disk; a file with several names counts once."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(
        {
            status.st_ino: status.st_blocks * 512
            for status in map(Path.stat, files)
            if stat.S_ISREG(status.st_mode)
        }.values()
    )


def _start(contender: Contender, work: Path, patches: int) -> tuple[ProcessPoolExecutor, float]:
    """(a process in which the pipeline is open and has read everything once, the seconds to its
    first batch).
    """
    before = dict(os.environ)
    os.environ |= {"JAX_PLATFORMS": "cpu", **contender.environment}
    try:
        pool = ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            _open,
            (contender.open, work, contender.arguments),
        )
        first_batch = pool.submit(
            _warm_up, max(contender.batches, -(-contender.names * patches // BATCH))
        ).result()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return pool, first_batch


def _open(open_contender: Callable[..., Consume], work: Path, arguments: tuple) -> None:
    """Runs first in the process of a contender."""
    global _consume, _anonymous_mb, _opened
    jax.devices()
    _opened = time.perf_counter()
    _consume = open_contender(work, *arguments)
    _anonymous_mb = loader_peers.anonymous_mb()


def _warm_up(batches: int) -> float:
    """Seconds from opening to the first batch."""
    consumed = _consume(batches)
    next(consumed)
    seconds = time.perf_counter() - _opened
    for _ in consumed:
        pass
    return seconds


def _turn(batches: int) -> tuple[float, float, float]:
    """(patches per second, ms of all threads' CPU time per patch, MB of anonymous memory more than
    before the first batch).
    """
    peak, start, cpu_start = 0.0, time.perf_counter(), time.process_time()
    for _ in _consume(batches):
        peak = max(peak, loader_peers.anonymous_mb())
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    patches = batches * BATCH
    return patches / seconds, 1000 * cpu / patches, peak - _anonymous_mb


# ------------------------------------------------------------------ printed tables


def _goals(figures: dict) -> list[dict]:
    """{"goal", "at_least" or "at_most", "found", "reached"} of each goal, without those of skipped
    peers.
    """
    rates, rows = figures["rates"], []
    for goal, one, other, least in GOALS:
        if {one, other} <= rates.keys():
            rows.append({"goal": goal, "at_least": least, "found": rates[one] / rates[other]})
    for key in ("zarr_2", "array_record_2"):
        if key in rates:
            goal = f"compression of {CONTENDERS[key].data}"
            rows.append({"goal": goal, "at_least": 2.0, "found": figures["ratios"][key]})
    for key in filter(rates.__contains__, ("raw_2", "zarr_2", "array_record_2")):
        most = loader_peers.buffers(2) * BATCH * len(ENMAP.bands) * CROP**2 * 2 / 1e6 + MEMORY_MB
        rows.append(
            {
                "goal": f"{CONTENDERS[key].name}: anonymous MB",
                "at_most": most,
                "found": figures["anonymous_mb"][key],
            }
        )
    rows.append(
        {
            "goal": "compression of patches / of tiles",
            "at_most": 1.05,
            "found": figures["ratio_of_patches"] / figures["ratio_of_tiles"],
        }
    )
    for row in rows:
        row["reached"] = (
            row["found"] >= row["at_least"] if "at_least" in row else row["found"] <= row["at_most"]
        )
    return rows


def _comparisons(rates: dict[str, float]) -> list[dict]:
    """{"comparison", "found"} of each comparison, without those of skipped peers."""
    return [
        {"comparison": what, "found": rates[one] / rates[other]}
        for what, one, other in COMPARISONS
        if {one, other} <= rates.keys()
    ]


def _print(figures: dict, goals: Sequence[dict], comparisons: Sequence[dict]) -> None:
    rates = figures["rates"]
    title = (
        f"{figures['patches']} patches; compression of patches {figures['ratio_of_patches']:.2f}, "
        f"of their tiles {figures['ratio_of_tiles']:.2f}"
    )
    table = Table(
        "pipeline",
        "ratio",
        "patches/s",
        "/ floor",
        "raw_2 /",
        "zarr_2 /",
        "median",
        "CPU ms",
        "first s",
        title=title,
    )
    for key, rate in rates.items():
        ratios = (
            f"{top / bottom:.2f}" if top and bottom else ""
            for top, bottom in (
                (rate, rates.get("floor")),
                (rates.get("raw_2"), rate),
                (rates.get("zarr_2"), rate),
            )
        )
        about = (
            f"{figures['median_rates'][key]:.0f}",
            f"{figures['cpu_ms'][key]:.2f}",
            f"{figures['first_batch_s'][key]:.2f}",
        )
        table.add_row(
            CONTENDERS[key].name,
            f"{figures['ratios'][key]:.2f}",
            f"{rate:.0f}",
            *ratios,
            *about,
        )
    console = Console(width=130)
    console.print(table)
    verdicts = Table("goal", "", "measured", "")
    for row in goals:
        limit = f">= {row['at_least']:g}" if "at_least" in row else f"<= {row['at_most']:.4g}"
        verdicts.add_row(
            row["goal"], limit, f"{row['found']:.2f}", "reached" if row["reached"] else "MISSED"
        )
    for row in comparisons:
        verdicts.add_row(row["comparison"], "", f"{row['found']:.2f}", "")
    console.print(verdicts)
    for name in figures["skipped"]:
        print(f"skipped because its library is not installed: {name}")


if __name__ == "__main__":
    sys.exit(main())
