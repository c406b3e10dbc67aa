"""Windows cut from kept blocks are those that rasterio reads, and blocks are decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tiny_archives
from rasterio.windows import Window

from data_prep.formats import block_cache


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(block_cache, "_kept", type(block_cache._kept)())
    cube = np.random.default_rng(0).integers(0, 9000, (2, 70, 90)).astype(np.uint16)
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 16}
    return tiny_archives.write(tmp_path / "a.tif", cube, **blocks)


@pytest.mark.parametrize("most", [10_000, 4000, 0])
def test_windows_are_those_of_rasterio(path: Path, monkeypatch, most: int) -> None:
    monkeypatch.setattr(block_cache, "MAX_BYTES", most)
    rng = np.random.default_rng(1)
    with rasterio.open(path) as file:
        cached = block_cache.CachedBlocks(file, "a")
        for _ in range(60):
            row, column = rng.integers(70), rng.integers(90)
            height, width = rng.integers(1, 71 - row), rng.integers(1, 91 - column)
            window = Window(int(column), int(row), int(width), int(height))
            np.testing.assert_array_equal(
                cached.read([2, 1], window=window), file.read([2, 1], window=window)
            )
            assert sum(block.nbytes for block in block_cache._kept.values()) <= most
        np.testing.assert_array_equal(cached.read([1]), file.read([1]))
        outside = Window(80, 60, 20, 20)
        np.testing.assert_array_equal(cached.read([1], window=outside).shape, (1, 10, 10))


def test_a_block_is_decoded_once_and_per_file(path: Path) -> None:
    class Counting:
        """A dataset that counts its reads."""

        def __init__(self, dataset: rasterio.DatasetReader):
            self.dataset, self.reads = dataset, 0

        def __getattr__(self, name: str):
            return getattr(self.dataset, name)

        def read(self, *args, **kwargs) -> np.ndarray:
            self.reads += 1
            return self.dataset.read(*args, **kwargs)

    with rasterio.open(path) as file:
        counting = Counting(file)
        for checksum, reads in (("a", 1), ("a", 1), ("b", 2)):
            cached = block_cache.CachedBlocks(counting, checksum)
            cached.read([1], window=Window(3, 3, 5, 5))
            cached.read([1], window=Window(20, 8, 5, 5))
            assert counting.reads == reads
