"""Checks that a store is intact: bytes match their checksums, records match index and manifest.

    python -m data_prep verify /data/stores/spectral_earth

Prints one line per problem, with shard and record, and exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.jobs import executors, progress
from data_prep.statistics.moments import Contents
from eo_jax.data import Store, open_store
from eo_jax.data.store import zarr_shards
from eo_jax.data.store.files import StoreError, check_size, regular_size, sha256_file
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.writer import index_row
from eo_jax.schema import Sample

HINT = "remove the store and convert again"


class ShardReport(NamedTuple):
    """Problems of one shard, and its contents as JSON."""

    shard: int
    samples: int
    raw_bytes: int
    problems: list[str]
    contents: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep verify`."""
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep verify /data/stores/spectral_earth --workers 4"
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    parser.add_argument(
        "--workers",
        type=int,
        default=executors.cores(),
        metavar="N",
        help="processes (default: one per core)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 where there is a problem."""
    problems = verify(args.store, max(1, args.workers))
    for problem in problems:
        print(problem)
    if not problems:
        store = open_store(args.store)
        print(
            f"{args.store}: {len(store)} records in {len(store.manifest['shards'])} shards are "
            f"intact; content {store.content_hash[:16]}"
        )
    return 1 if problems else 0


def verify(path: Path, workers: int = 1) -> list[str]:
    """The problems of a store; an empty list for an intact one."""
    try:
        store = open_store(path)
    except StoreError as error:
        return [str(error)]
    reports = []
    with progress.show("verify", len(store)) as advance:
        for report in executors.run(
            functools.partial(verify_shard, path), range(len(store.manifest["shards"])), workers
        ):
            reports.append(report)
            advance(report.samples, report.raw_bytes)
    reports.sort()
    in_shards = [problem for report in reports for problem in report.problems]
    # A damaged record alters every sum, which would report the same problem twice.
    return [
        *_manifest_problems(store),
        *in_shards,
        *([] if in_shards else _content_problems(store, reports)),
    ]


# ------------------------------------------------------------------ shards


@functools.lru_cache(1)
def _store(path: Path) -> Store:
    return open_store(path)


def verify_shard(path: Path, shard: int) -> ShardReport:
    """Checks the hash of one shard and each of its records."""
    store = _store(path)
    entry = store.manifest["shards"][shard]
    problems, contents, size = [], Contents(), 0
    for file in [entry, *entry.get("pixels", [])]:
        problems += _file_problems(path, file)
    rows = np.flatnonzero(store.index["shard"] == shard)
    for i in rows.tolist():
        try:
            sample = store[i]
        except RecordError as error:
            problems.append(str(error))
            continue
        missing = store.sensor_of(i).missing(sample.pixels)
        problems += _record_problems(store, i, sample, np.count_nonzero(missing) / missing.size)
        try:
            contents.add_sample(sample, str(store.index["split"][i]), missing)
        except ValueError as error:  # a label has two dtypes
            problems.append(f"{store.record_name(i)}: {error}")
        size += sample.pixels.nbytes
    return ShardReport(shard, len(rows), size, problems, contents.to_json())


def _record_problems(store: Store, i: int, sample: Sample, missing: float) -> Iterator[str]:
    for field, value in index_row(sample, str(store.index["split"][i]), missing).items():
        listed = store.index[field][i]
        expected = np.asarray(value)
        if not np.array_equal(listed, expected, equal_nan=expected.dtype.kind == "f"):
            yield f"{store.record_name(i)}: {field} is {value}, the index says {listed}; {HINT}"


# ------------------------------------------------------------------ manifest and index


def _manifest_problems(store: Store) -> Iterator[str]:
    file = store.path / "manifest.json"
    if sha256_file(file) != _sha256_as_written(store.manifest):
        yield f"{file}: is not what was written, so it is damaged or edited; {HINT}"
    for entry in (store.manifest.get("rejects"), store.manifest.get("pixels")):
        if entry:
            yield from _file_problems(store.path, entry)
    if store.manifest.get("arrays", {}) != _arrays(store):
        yield f"{file}: arrays does not match the samples in the index; {HINT}"
    repeated = [
        str(name) for name, times in Counter(store.index["id"].tolist()).items() if times > 1
    ]
    if repeated:
        yield (
            f"{store.path / 'index.npz'}: {len(repeated)} ids occur more than once, such as "
            f"{repeated[0]!r}; {HINT}"
        )


def _sha256_as_written(manifest: dict[str, Any]) -> str:
    """SHA-256 of manifest.json as `finish_store` writes it; one text would take much memory."""
    digest = hashlib.sha256()
    for piece in json.JSONEncoder(indent=1, sort_keys=True).iterencode(manifest):
        digest.update(piece.encode())
    digest.update(b"\n")
    return digest.hexdigest()


def _file_problems(store: Path, entry: dict[str, Any]) -> Iterator[str]:
    """Problems of a file that the manifest names."""
    file = store / entry["file"]
    try:
        size = regular_size(file)
        check_size(store, entry["file"], entry.get("bytes", size))
    except StoreError as error:
        yield str(error)
    else:
        if sha256_file(file) != entry["sha256"]:
            yield f"{file}: SHA-256 differs from the manifest's, so it is damaged; {HINT}"


def _arrays(store: Store) -> dict[str, dict[str, Any]]:
    """The manifest's entry on the Zarr arrays; empty in a store whose records hold the pixels."""
    if store.format not in zarr_shards.FORMATS:
        return {}
    columns = zip(
        store.index["sensor"].tolist(),
        store.index["dtype"].tolist(),
        map(tuple, store.index["shape"].tolist()),
        strict=True,
    )
    kinds = [zarr_shards.Kind(store.format, *key) for key in set(columns)]
    metadata = {
        kind: kind.metadata(store.manifest["tasks"], store.manifest["samples_a_shard"])
        for kind in kinds
    }
    return {
        kind.name: {
            "file": kind.metadata_name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for kind, data in metadata.items()
    }


def _content_problems(store: Store, reports: list[ShardReport]) -> Iterator[str]:
    contents = Contents()
    for report in reports:
        contents.add(Contents.from_json(report.contents))
    actual = {
        **contents.about(),
        "splits": dict(sorted(Counter(store.index["split"].tolist()).items())),
        "groups": len(set(store.index["group"].tolist())),
        "samples": len(store),
    }
    stated = {**store.manifest, "labels": _without_legends(store.manifest.get("labels", {}))}
    for name, value in actual.items():
        if stated.get(name) != value:
            yield f"{store.path / 'manifest.json'}: {name} does not match the records; {HINT}"


def _without_legends(labels: dict[str, dict]) -> dict[str, dict]:
    """What the records tell about labels: names and colours of classes come from the archive."""
    return {
        name: {field: value for field, value in about.items() if field != "classes"}
        for name, about in labels.items()
    }
