"""Trains like `python -m eo_jax.train`, and records what each batch holds on the devices.

    python -m multidevice.recorded FOLDER STOP ARGUMENTS...

Every process appends a line [number of the batch, {row of the global batch: SHA-256}] to a file of
its own in FOLDER, for each batch before its step: the rows that its devices hold. Once batch number
STOP is taken, process 0 gets SIGTERM.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from eo_jax import cli, sharding, train
from eo_jax.data.pipeline import Pipeline
from eo_jax.schema import Batch


def digests(batch: Batch) -> dict[int, str]:
    """{row of the global batch: SHA-256 of its fields} of the rows on this process's devices."""
    rows = collections.defaultdict(hashlib.sha256)
    for path, array in sorted(jax.tree_util.tree_leaves_with_path(batch), key=str_of_path):
        for shard in array.addressable_shards:
            first = shard.index[0].start or 0
            for k, row in enumerate(np.asarray(shard.data)):
                rows[first + k].update(jax.tree_util.keystr(path).encode() + row.tobytes())
    return {row: digest.hexdigest() for row, digest in sorted(rows.items())}


def str_of_path(item: tuple) -> str:
    return jax.tree_util.keystr(item[0])


def record(folder: Path, stop: int) -> None:
    """Lets runs of this process write there what they train on."""
    draw, place = Pipeline.batches, sharding.prefetch
    first = 0

    def batches(pipeline: Pipeline, start: int, *more) -> Iterator[Batch]:
        nonlocal first
        first = start
        return draw(pipeline, start, *more)

    def prefetch(*arguments) -> Iterator[Batch]:
        for n, batch in enumerate(place(*arguments), start=first):
            with open(folder / f"{jax.process_index()}.jsonl", "a") as file:
                file.write(json.dumps([n, digests(batch)]) + "\n")
            if n == stop and jax.process_index() == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    Pipeline.batches, sharding.prefetch = batches, prefetch


if __name__ == "__main__":
    record(Path(sys.argv[1]), int(sys.argv[2]))
    del sys.argv[1:3]
    cli.run(train.main)
