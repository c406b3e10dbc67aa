"""Writes tiny stores for tests: any samples, or simulated locations with a label map."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.index_file import CHECKSUMS
from eo_jax.data.store.manifest import content_sha256
from eo_jax.data.store.writer import finish_store, index_row, write_shard
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

PER_SHARD = 5
CLASSES = 3
_START = 1_650_000_000  # 15 April 2022


def write_store(
    path: Path,
    samples: Sequence[Sample],
    splits: Sequence[str] | None = None,
    about: dict | None = None,
    format: str = "array-record",
) -> Path:
    """A store of the samples, PER_SHARD in each shard; all in split "train" by default."""
    splits = ["train"] * len(samples) if splits is None else splits
    path.mkdir(parents=True, exist_ok=True)
    shards, rows = [], []
    for first in range(0, len(samples), PER_SHARD):
        part = slice(first, first + PER_SHARD)
        shards.append(write_shard(path, len(shards), format, PER_SHARD, samples[part]))
        rows.append(
            [
                index_row(sample, split, 0.0)
                for sample, split in zip(samples[part], splits[part], strict=True)
            ]
        )
    finish_store(path, shards, rows, {} if about is None else about, format, len(shards))
    return path


def write_tiny_store(
    path: Path, locations: int = 6, size: int = 32, seed: int = 0, format: str = "array-record"
) -> Path:
    """A store of locations with one, two or three dates and a label map "landuse".

    Pixels are int16 [202, size, size]; every third location is in split "val". Classes 1 to 3 are
    squares of 8 x 8 pixels, brighter the higher the class; a corner is 0, unlabelled. Every band
    has the published mean for its level, and the first two rows of one date of the second location
    are no-data.
    """
    rng = np.random.default_rng(seed)
    samples, splits = [], []
    for location in range(locations):
        for date in range(1 + location % 3):
            samples.append(_sample(rng, location, date, size))
            splits.append("val" if location % 3 == 2 else "train")
    return write_store(path, samples, splits, _about(samples, splits), format)


def change_manifest(path: Path, **changes) -> None:
    """Changes the manifest and signs it again."""
    manifest = {**json.loads((path / "manifest.json").read_bytes()), **changes}
    manifest["content_sha256"] = content_sha256(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def change_index(
    path: Path, change: Callable[[dict[str, np.ndarray]], None], save: Callable = np.savez
) -> None:
    """Changes the columns of an index, and signs index and manifest again."""
    with np.load(path / "index.npz") as archive:
        columns = dict(archive)
    change(columns)
    buffer = io.BytesIO()
    save(buffer, **columns)
    sign_index(path, buffer.getvalue())


def sign_index(path: Path, data: bytes) -> None:
    """Replaces an index, and signs the manifest again."""
    write_atomically(path / "index.npz", data)  # by rename: stores that are open keep theirs
    change_manifest(path, index_sha256=hashlib.sha256(data).hexdigest())


def without_checksums(columns: dict[str, np.ndarray]) -> None:
    """Turns an index into one of an older version, without checksums."""
    for name in CHECKSUMS:
        columns.pop(name, None)


def _sample(rng: np.random.Generator, location: int, date: int, size: int) -> Sample:
    squares = rng.integers(1, CLASSES + 1, (-(-size // 8), -(-size // 8)))
    label = np.kron(squares, np.ones((8, 8), int))[:size, :size].astype(np.uint8)
    level = np.asarray(ENMAP.mean)[:, None, None] * (0.6 + 0.2 * label)
    pixels = (level + rng.normal(0, 30, (len(ENMAP.bands), size, size))).astype(np.int16)
    label[:4, :4] = 0
    if (location, date) == (1, 0):
        pixels[:, :2] = ENMAP.nodata
    return Sample(
        pixels=pixels,
        sensor=ENMAP.id,
        id=f"{location:07d}/{date:05d}",
        group=f"{location:07d}",
        product="V010400",
        time=_START + 86400 * (100 * location + date),
        lonlat=(13.0 + 0.1 * location, 52.0),
        crs="EPSG:32633",
        affine=(30.0, 0.0, 366015.0 + 3840 * location, 0.0, -30.0, 5809965.0),
        gsd_m=30.0,
        labels={"landuse": label},
    )


def _about(samples: Sequence[Sample], splits: Sequence[str]) -> dict:
    """The manifest's statistics of the train split and labels of all samples."""
    train = [
        sample.pixels for sample, split in zip(samples, splits, strict=True) if split == "train"
    ]
    values = np.ma.masked_equal(np.concatenate(train, axis=1), ENMAP.nodata)
    codes, counts = np.unique([sample.labels["landuse"] for sample in samples], return_counts=True)
    return {
        "sensors": {ENMAP.id: ENMAP.row()},
        "splits": {split: splits.count(split) for split in sorted(set(splits))},
        "groups": len({sample.group for sample in samples}),
        "statistics": {
            ENMAP.id: {"mean": values.mean((1, 2)).tolist(), "std": values.std((1, 2)).tolist()}
        },
        "labels": {
            "landuse": {
                "dtype": "uint8",
                "shape": "map",
                "values": dict(zip(map(str, codes.tolist()), counts.tolist(), strict=True)),
            }
        },
    }
