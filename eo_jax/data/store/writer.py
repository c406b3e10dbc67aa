"""Writes a store: shards one by one, then index and manifest. reader.py shows the files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from eo_jax.data.store import record, zarr_shards
from eo_jax.data.store.files import replacing, sha256_file, write_atomically
from eo_jax.data.store.index_file import CHECKSUMS, index_bytes
from eo_jax.data.store.manifest import (
    MAX_MANIFEST_BYTES,
    NO_TIME,
    STORE_FORMAT,
    check_written,
    content_sha256,
)
from eo_jax.data.store.zarr_shards import Kind, ShardWriter
from eo_jax.schema import Sample

# In a manifest, with long names.
_SHARD_ENTRY_BYTES, _PIXELS_ENTRY_BYTES = 220, 360


def index_row(sample: Sample, split: str, nodata_fraction: float) -> dict[str, Any]:
    """One sample's row of the index; `finish_store` adds shard and row."""
    return {
        "id": sample.id,
        "group": sample.group,
        "split": split,
        "sensor": sample.sensor,
        "shape": list(sample.pixels.shape),
        "dtype": sample.pixels.dtype.name,
        "time": NO_TIME if sample.time is None else sample.time,
        "lonlat": [float("nan")] * 2 if sample.lonlat is None else list(sample.lonlat),
        "nodata_share": nodata_fraction,
    }


def write_shard(
    output: Path, number: int, format: str, samples_per_shard: int, samples: Iterable[Sample]
) -> dict[str, Any]:
    """Writes one shard of a store, holding one sample in memory at a time.

    Equal samples give equal bytes, and a failure leaves nothing behind. Several processes, on one
    machine or more, may write the same shard: files get their names when they are complete.

    Args:
        output: folder of the store.
        number: of the shard, from 0.
        format: one of `reader.FORMATS`.
        samples_per_shard: the largest number of samples in a shard of this store.

    Returns:
        The shard's entry in the manifest: {"file", "samples", "bytes", "sha256"}; in the Zarr
        formats also "samples_a_shard" and "pixels", a list of {"array", "file", "samples", "bytes",
        "sha256"}. Besides, for the index, "record_crc32c", of each record, and in the Zarr formats
        "chunk_crc32c", of each chunk of each sample.

    Raises:
        ValueError: a sample that the format cannot hold.
        OSError: the disk is full.
    """
    name = f"shards/{number:05d}.array_record"
    (output / "shards").mkdir(parents=True, exist_ok=True)
    if format == "array-record":
        return {"file": name, **_write_file(output / name, map(record.encode, samples))}
    with ShardWriter(output, number, format, samples_per_shard) as pixels:
        entry = _write_file(output / name, _records_without_pixels(samples, pixels))
        return {
            "file": name,
            **entry,
            "samples_a_shard": samples_per_shard,
            "pixels": pixels.finish(),
            "chunk_crc32c": pixels.chunk_crc32c,
        }


def _records_without_pixels(samples: Iterable[Sample], pixels: ShardWriter) -> Iterator[bytes]:
    """The record of each sample, whose pixels go to `pixels`."""
    for sample in samples:
        pixels.put(sample)
        yield record.encode_without_pixels(sample)


def _write_file(path: Path, records: Iterable[bytes]) -> dict[str, Any]:
    """Writes records to `path`. Returns {"samples", "bytes", "sha256", "record_crc32c"}."""
    with replacing(path) as temporary:
        checksums = _write_records(temporary, records, path)
        return {
            "samples": len(checksums),
            "bytes": temporary.stat().st_size,
            "sha256": sha256_file(temporary),
            "record_crc32c": checksums,
        }


def _write_records(temporary: Path, records: Iterable[bytes], path: Path) -> list[int]:
    """Writes records and returns their checksums.

    An error of ArrayRecord becomes an OSError that names `path`; errors of the iterator pass
    through.
    """

    def checked(call: Callable, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except RuntimeError as error:  # a full disk, too
            raise OSError(
                f"{path}: cannot be written ({error}). Free space on that disk and run the same "
                "command again."
            ) from error

    # One record per group for random access; the payloads are already compressed; and the converter
    # runs one process per core, so no threads.
    options = "group_size:1,uncompressed,max_parallelism:1"
    writer = checked(ArrayRecordWriter, str(temporary), options)
    checksums = []
    try:
        for data in records:
            checked(writer.write, data)
            checksums.append(record.checksum(data))
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is the one to report
            writer.close()
        raise
    checked(writer.close)
    return checksums


def finish_store(
    path: Path, shards: list[dict], rows: list[list[dict]], about: dict, format: str, tasks: int
) -> None:
    """Writes index and manifest, the manifest last: a store without one is unfinished.

    Args:
        shards: the results of `write_shard`, in order, without shards that have no sample.
        rows: for each shard, `index_row` of each record, in order.
        about: archive, sensors, splits, labels and statistics, copied into the manifest.
        format: as given to `write_shard`.
        tasks: the number of shards, including those without samples.
    """
    index = index_bytes(rows, shards)
    write_atomically(path / "index.npz", index)
    shards = [
        {name: value for name, value in shard.items() if name not in CHECKSUMS} for shard in shards
    ]
    manifest = {
        "store_format": STORE_FORMAT,
        "record_format": record.FORMAT_VERSION,
        **about,
        "samples": sum(map(len, rows)),
        "shards": shards,
    }
    manifest |= {"format": format, "tasks": tasks}
    if format in zarr_shards.FORMATS:
        manifest |= _write_arrays(path, shards, rows, format, tasks)
    manifest["index_sha256"] = hashlib.sha256(index).hexdigest()
    manifest = json.loads(json.dumps(manifest))  # as a reader will see it: keys are text
    manifest["content_sha256"] = content_sha256(manifest)
    data = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    try:
        check_written(data)
    except ValueError as error:
        raise ValueError(
            f"{path}: the manifest could not be read ({error}); where it is too long, convert into "
            "another folder with larger shards (--shard-mb), or into array-record"
        ) from error
    write_atomically(path / "manifest.json", data)


def check_shard_count(path: Path, format: str, shards: int, kinds: int) -> None:
    """Raises ValueError where the manifest of so many shards will be too large.

    `kinds` is the number of kinds of pixels, all of which each shard may have.
    """
    per_shard = _SHARD_ENTRY_BYTES
    if format in zarr_shards.FORMATS:
        per_shard += kinds * _PIXELS_ENTRY_BYTES
    most = MAX_MANIFEST_BYTES // per_shard
    if shards > most:
        raise ValueError(
            f"{path}: {shards} shards, expected at most {most}; give a --shard-mb that is "
            f"{-(-shards // most)} times as large"
        )


def _write_arrays(
    path: Path, shards: list[dict], rows: list[list[dict]], format: str, tasks: int
) -> dict[str, Any]:
    """Writes the zarr.json of every kind of pixels.

    Returns their part of the manifest: {"arrays": {kind: {"file", "bytes", "sha256"}},
    "samples_a_shard": number}.
    """
    sizes = {shard["samples_a_shard"] for shard in shards}
    if len(sizes) > 1:
        raise ValueError(
            f"{path}: shards of {' and '.join(map(str, sorted(sizes)))} samples in one store; "
            "write all with one samples_per_shard"
        )
    samples_per_shard, arrays = max(sizes, default=0), {}
    for sensor, dtype, shape in sorted(
        {(row["sensor"], row["dtype"], tuple(row["shape"])) for shard in rows for row in shard}
    ):
        kind = Kind(format, sensor, dtype, shape)
        data = kind.metadata(tasks, samples_per_shard)
        write_atomically(path / kind.metadata_name, data)
        arrays[kind.name] = {
            "file": kind.metadata_name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return {"arrays": arrays, "samples_a_shard": samples_per_shard}
