"""Writes a store of few patches and many locations."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from eo_jax.data.store.writer import finish_store, index_row, write_shard
from eo_jax.schema import Sample


def write_linked_store(path: Path, format: str, samples: Sequence[Sample], links: int) -> None:
    """The samples `links` times, as hard links: Grain's shuffle is slow below some thousand
    locations, which is not measured here.
    """
    first = json.dumps(write_shard(path, 0, format, len(samples), samples))
    shards = [
        json.loads(first.replace("shards/00000", f"shards/{k:05d}").replace("/c/0/", f"/c/{k}/"))
        for k in range(links)
    ]
    for shard in shards[1:]:
        for entry, source in zip(
            [shard, *shard.get("pixels", [])],
            [shards[0], *shards[0].get("pixels", [])],
            strict=True,
        ):
            (path / entry["file"]).parent.mkdir(parents=True, exist_ok=True)
            os.link(path / source["file"], path / entry["file"])
    rows = [index_row(sample, "train", 0.0) for sample in samples]
    rows_of = [[{**row, "group": f"{k}-{row['group']}"} for row in rows] for k in range(links)]
    finish_store(path, shards, rows_of, {}, format, links)
