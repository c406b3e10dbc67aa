"""Crafted stores, with every hash and checksum right: a correct read or one clear error, in bounded
memory; never another error, a crash or a hang.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import crafted_stores
import pytest

TRIES = 60
TRIES_AT_LENGTH = 2000


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return crafted_stores.write_originals(tmp_path_factory.mktemp("crafted"))


def test_intact_stores_are_read(originals: dict[str, Path]):
    """Otherwise the crafted ones could be refused for what they have in common."""
    for path in originals.values():
        store = crafted_stores.open_store(path)
        for i in range(len(store)):
            for read in crafted_stores.READS:
                read(store, i)


def test_crafted_stores(originals: dict[str, Path]):
    for seed in range(TRIES):
        crafted_stores.try_case(originals, seed)


@pytest.mark.slow
def test_crafted_stores_at_length():
    """In a process of their own, whose memory is then theirs."""
    command = [sys.executable, crafted_stores.__file__, str(TRIES), str(TRIES_AT_LENGTH)]
    folders = [str(folder) for folder in Path(__file__).parents[1:3]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == [], done.stderr
    assert found["bytes"] < crafted_stores.MOST_BYTES
