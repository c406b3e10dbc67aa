"""Writes a store from samples of others, bit for bit the same and resumable like `convert`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_prep.conversion import output_lock
from data_prep.conversion.finalise import finalise_store
from data_prep.conversion.shard_task import Task, convert_shard
from data_prep.formats import remarks
from data_prep.formats.left_out import LeftOut
from data_prep.jobs import executors, progress
from data_prep.reader import File, Files, Item
from eo_jax.data import Store, open_store
from eo_jax.data.store.files import StoreError
from eo_jax.data.store.reader import FORMATS
from eo_jax.data.store.writer import check_shard_count
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor

_MAX_OPEN = 64  # stores that a worker keeps open


@dataclasses.dataclass(frozen=True)
class StoreReader:
    """Reads samples of stores; satisfies the contract of a reader as far as shard tasks need it.

    The `part` of an item is (number of the store, number of the sample).
    """

    stores: tuple[Path, ...]
    archive: ClassVar[None] = None

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensor rows of all stores, each once."""
        opened = [_store(path) for path in self.stores]
        return tuple(
            {
                name: store.sensor(name) for store in opened for name in store.about("sensors")
            }.values()
        )

    def read(self, item: Item, files: Files) -> Sample:
        """The sample with the id and group of its item, otherwise unchanged. Raises RecordError."""
        number, i = item.part
        store = _store(self.stores[number])
        shard = store.manifest["shards"][store.index["shard"][i]]
        files.hashes[item.files[0].name] = shard["sha256"]
        for label, about in store.about("labels").items():
            remarks.note_classes(label, about.get("classes", {}))
        return dataclasses.replace(store[i], id=item.id, group=item.group)


@functools.lru_cache(_MAX_OPEN)
def _store(path: Path) -> Store:
    return open_store(path)


def items_of(store: Store, number: int, chosen: Iterable[int], prefix: str = "") -> list[Item]:
    """Items for the chosen samples of store `number`, in the given order, with `prefix` in front of
    ids and groups.
    """
    index, shards = store.index, store.manifest["shards"]
    columns = {name: index[name].tolist() for name in ("id", "group", "split", "shard")}
    return [
        Item(
            prefix + columns["id"][i],
            prefix + columns["group"][i],
            (File("record", f"{store.content_hash[:12]}/{shards[columns['shard'][i]]['file']}"),),
            columns["split"][i],
            (number, i),
        )
        for i in chosen
    ]


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the new store."""
    parser.add_argument(
        "--output",
        type=output_lock.local_folder,
        required=True,
        metavar="NEW",
        help="folder of the store to write or resume",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the new store (default: that of the first)"
    )
    parser.add_argument(
        "--shard-mb",
        type=_positive,
        default=64.0,
        metavar="MB",
        help="raw pixels per shard (default: 64)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=executors.cores(),
        metavar="N",
        help="processes (default: one per core)",
    )


def _positive(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected more than 0")
    return float(text)


def describe_sources(
    reader: str,
    name: str,
    sources: Sequence[Store],
    options: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The manifest's "archive" of a store that `reader`, "subset" or "merge", writes; without
    paths, so that equal stores have equal bytes on every machine.
    """
    archives = [store.about("archive") for store in sources]
    return {
        "name": name,
        "reader": reader,
        "reader_version": 1,
        "licence": "; ".join(
            dict.fromkeys(archive.get("licence", "not stated") for archive in archives)
        ),
        "options": {
            **options,
            "format": args.format or sources[0].format,
            "shard_mb": args.shard_mb,
        },
        "sources": [
            {
                "content_sha256": store.content_hash,
                "name": store_name(store),
                "archive": archive,
                "found": store.manifest.get("found", {}),
            }
            for store, archive in zip(sources, archives, strict=True)
        ],
    }


def archive_name(store: Store) -> str:
    """The title of the archive it was converted from. Raises StoreError where there is none."""
    archive = store.about("archive")
    if "name" not in archive:
        raise StoreError(f"{store.path}/manifest.json: archive has no 'name'; convert again")
    return archive["name"]


def store_name(store: Store) -> str:
    """The name of its folder."""
    return store.path.resolve().name


def write(
    sources: Sequence[Store], items: Sequence[Item], about: dict[str, Any], args: argparse.Namespace
) -> None:
    """Writes the store, or its missing shards.

    Raises ValueError for an output that is something else, RecordError, OSError.
    """
    if not items:
        raise ValueError(f"{sources[0].path}: has no samples; there is nothing to write")
    _check_no_overlap(sources, args.output)
    output_lock.check_output(args.output)
    if output_lock.is_finished(args.output, about):
        print(f"{args.output}: up to date")
        return
    with output_lock.hold(args.output):
        output_lock.check_resumable(args.output, about)
        tasks = _tasks(sources, items, about["options"]["format"], args)
        with progress.show(about["reader"], len(items)) as advance:
            for samples, size in executors.run(convert_shard, tasks, max(1, args.workers)):
                advance(samples, size)
        notes, sensors = [task.note for task in tasks], tasks[0].reader.sensors
        finalise_store(args.output, notes, about, sensors, LeftOut())
    store = open_store(args.output)
    splits = ", ".join(f"{name} {count}" for name, count in store.manifest["splits"].items())
    print(
        f"{args.output}: {len(store)} samples of {store.manifest['groups']} locations ({splits}) "
        f"in {len(store.manifest['shards'])} shards"
    )


def _check_no_overlap(sources: Sequence[Store], output: Path) -> None:
    for store in sources:
        one, other = store.path.resolve(), output.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise ValueError(
                f"{output}: overlaps the input store {store.path}, which must not change; give "
                "another --output"
            )


def _tasks(
    sources: Sequence[Store], items: Sequence[Item], store_format: str, args: argparse.Namespace
) -> list[Task]:
    size = max(1, int(args.shard_mb * 1e6 // _largest(sources, items)))
    reader = StoreReader(tuple(store.path.resolve() for store in sources))
    output = args.output.resolve()
    chunks = [tuple(items[start : start + size]) for start in range(0, len(items), size)]
    check_shard_count(output, store_format, len(chunks), len(_kinds(sources, items)))
    return [
        Task(reader, chunk, output, n, store_format, size, skip_bad=False, quantiser=None)
        for n, chunk in enumerate(chunks)
    ]


def _largest(sources: Sequence[Store], items: Sequence[Item]) -> int:
    """Bytes of the largest sample."""
    return max(
        math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, *shape in _kinds(sources, items)
    )


def _kinds(sources: Sequence[Store], items: Sequence[Item]) -> set[tuple]:
    """(sensor, dtype, c, h, w) of each kind of pixels."""
    columns = [[store.index[name] for name in ("sensor", "dtype", "shape")] for store in sources]
    return {
        (str(sensor[i]), str(dtype[i]), *shape[i].tolist())
        for (sensor, dtype, shape), i in ((columns[item.part[0]], item.part[1]) for item in items)
    }
