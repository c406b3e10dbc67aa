"""The pipelines that benchmarks/loader.py compares. Each is a function that opens the pipeline, in
its own process, and returns a function that consumes batches.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import grain
import jax
import numpy as np
import rasterio
from array_record.python.array_record_module import ArrayRecordWriter

from eo_jax import sharding
from eo_jax.data.pipeline import Config, Pipeline, SourceConfig
from eo_jax.data.store import record
from eo_jax.sensors import ENMAP

BATCH, CROP, SIDE = 16, 112, 128
LINKS = 80  # hard links of each shard
PREFETCH = 2
_PER_TAR = 16  # patches
# patches in WebDataset's shuffle buffer, 0.4 GB: the 1000 of its documentation would be 6.6 GB
_SHUFFLED = 64
_SHAPE = (len(ENMAP.bands), SIDE, SIDE)
Consume: TypeAlias = Callable[[int], Iterator[None]]  # yields when a batch is on the device


def has(library: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def buffers(threads: int) -> int:
    """Number of batch buffers that eo_jax keeps."""
    return threads + PREFETCH + 2


def anonymous_mb() -> float:
    """Anonymous resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e3


def write_array_record(path: Path, records: Sequence[bytes]) -> None:
    """One record per group, as Grain's documentation recommends; not compressed."""
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for data in records:
        writer.write(data)
    writer.close()


def write_lmdb(path: Path, records: Sequence[bytes]) -> None:
    """Records keyed by their numbers."""
    import lmdb as library

    with (
        library.open(str(path), map_size=2 * sum(map(len, records)) + 2**24) as database,
        database.begin(write=True) as transaction,
    ):
        for number, data in enumerate(records):
            transaction.put(str(number).encode(), data)


def write_tars(folder: Path, records: Sequence[bytes]) -> None:
    """Shards of WebDataset."""
    import webdataset

    folder.mkdir()
    for first in range(0, len(records), _PER_TAR):
        with webdataset.TarWriter(str(folder / f"{first:05d}.tar")) as tar:
            for number, data in enumerate(records[first : first + _PER_TAR], first):
                tar.write({"__key__": f"{number:05d}", "bin": data})


# ------------------------------------------------------------------ lower bound and our pipeline


def floor(work: Path) -> Consume:
    """One thread that copies whole patches in random order from the page cache into an existing
    batch.
    """
    patches = np.load(work / "raw.npy", mmap_mode="r")
    batch, order = (
        np.zeros((BATCH, *_SHAPE), np.int16),
        np.random.default_rng(0).permutation(len(patches)),
    )

    def consume(batches: int) -> Iterator[None]:
        for n in range(batches):
            for row in range(BATCH):
                np.copyto(batch[row], patches[order[(n * BATCH + row) % len(order)]])
            yield

    return consume


def ours(work: Path, format: str, threads: int, undo: str) -> Consume:
    """The pipeline of the training loop, with its prefetch to the device.

    `undo` is `config.data.undo_differences`; what the device would do is not done.
    """
    config = Config(
        {"enmap": SourceConfig(str(work / format), "enmap")},
        BATCH,
        CROP,
        threads=threads,
        prefetch=PREFETCH,
        undo_differences=undo,
    )
    pipeline, mesh = Pipeline(config, 0), sharding.make_mesh(sharding.Config())

    def consume(batches: int) -> Iterator[None]:
        for batch in sharding.prefetch(pipeline.batches(0, batches), mesh, 1):
            jax.block_until_ready(batch)
            yield

    return consume


# ------------------------------------------------------------------ peers


def _crop(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, SIDE - CROP + 1, 2)
    return patch[:, top : top + CROP, left : left + CROP]


def _plain(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.int16).reshape(_SHAPE)


_DECODE = {"raw": _plain, "record": lambda data: record.decode(bytes(data), "benchmark").pixels}


def _stacked(count: int, read: Callable[[int], np.ndarray], n: int) -> np.ndarray:
    """Batch n: random patches, cropped and stacked."""
    rng = np.random.default_rng(n)
    return np.stack([_crop(read(int(i)), rng) for i in rng.choice(count, BATCH, replace=False)])


def _in_one_thread(stacked: Callable[[int], np.ndarray]) -> Consume:
    """The usual loop: read, crop, np.stack, device_put."""

    def consume(batches: int) -> Iterator[None]:
        for n in range(batches):
            jax.device_put(stacked(n)).block_until_ready()
            yield

    return consume


def _in_threads(stacked: Callable[[int], np.ndarray], threads: int) -> Consume:
    """The same loop with batches prepared ahead, one per thread."""
    pool = ThreadPoolExecutor(threads)

    def consume(batches: int) -> Iterator[None]:
        ahead: collections.deque[Future] = collections.deque()
        for n in range(batches + threads):
            if n >= threads:
                jax.device_put(ahead.popleft().result()).block_until_ready()
                yield
            if n < batches:
                ahead.append(pool.submit(stacked, n))

    return consume


def npy(work: Path) -> Consume:
    """One memory-mapped array of all patches."""
    patches = np.load(work / "raw.npy", mmap_mode="r")
    return _in_one_thread(functools.partial(_stacked, len(patches), patches.__getitem__))


def lmdb(work: Path, kind: str) -> Consume:
    """LMDB in one thread."""
    return _in_one_thread(_lmdb(work, kind))


def lmdb_threads(work: Path, kind: str, threads: int) -> Consume:
    """LMDB in a pool of threads."""
    return _in_threads(_lmdb(work, kind), threads)


def _lmdb(work: Path, kind: str) -> Callable[[int], np.ndarray]:
    """Batches from LMDB without copying the value: buffers into its memory map."""
    import lmdb as library

    database = library.open(str(work / f"{kind}.lmdb"), readonly=True, lock=False, readahead=False)
    count = database.stat()["entries"]

    def stacked(n: int) -> np.ndarray:
        with database.begin(buffers=True) as transaction:
            return _stacked(count, lambda i: _DECODE[kind](transaction.get(str(i).encode())), n)

    return stacked


def web_dataset(work: Path, kind: str) -> Consume:
    """WebDataset as its documentation shows it: shards one after the other in random order, samples
    through a shuffle buffer.
    """
    import webdataset

    rng, paths = np.random.default_rng(0), sorted(map(str, (work / f"{kind}.tars").iterdir()))
    samples = webdataset.WebDataset(paths, resampled=True, shardshuffle=False, seed=0).shuffle(
        _SHUFFLED, initial=_SHUFFLED
    )
    stream = iter(
        samples.map(lambda sample: _crop(_DECODE[kind](sample["bin"]), rng)).batched(
            BATCH, collation_fn=np.stack
        )
    )

    def consume(batches: int) -> Iterator[None]:
        for rows in itertools.islice(stream, batches):
            jax.device_put(rows).block_until_ready()
            yield

    return consume


def grain_documented(work: Path, kind: str) -> Consume:
    """Grain as its documentation shows it: source, shuffle, map, batch, default options."""
    paths = (
        [work / "raw.array_record"] * LINKS
        if kind == "raw"
        else sorted((work / "array-record/shards").iterdir())
    )
    source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])

    def consume(batches: int) -> Iterator[None]:
        dataset = (
            grain.MapDataset.source(source)
            .seed(0)
            .shuffle()
            .repeat(-(-batches * BATCH // len(source)))
        )
        dataset = dataset.random_map(lambda data, rng: _crop(_DECODE[kind](data), rng)).batch(BATCH)
        for _, rows in zip(range(batches), dataset.to_iter_dataset(), strict=False):
            jax.device_put(rows).block_until_ready()
            yield

    return consume


class Tifs:
    """A PyTorch dataset of a folder of GeoTIFFs, read whole and cropped as in the loaders of
    published archives.
    """

    def __init__(self, folder: Path, count: int):
        self.paths, self.count = sorted(folder.glob("*.tif")), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        with rasterio.open(self.paths[i % len(self.paths)]) as file:
            return np.ascontiguousarray(_crop(file.read(), np.random.default_rng(i)))


def rasterio_torch(work: Path, folder: str, workers: int) -> Consume:
    """rasterio in a PyTorch DataLoader with persistent workers. An epoch is the batches of one
    turn, so that nothing is read ahead between turns.
    """
    from torch.utils.data import DataLoader

    context = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader_of = functools.cache(
        lambda batches: DataLoader(
            Tifs(work / folder, batches * BATCH),
            BATCH,
            shuffle=True,
            num_workers=workers,
            **context,
        )
    )

    def consume(batches: int) -> Iterator[None]:
        for rows in loader_of(batches):
            jax.device_put(rows.numpy()).block_until_ready()
            yield

    return consume
