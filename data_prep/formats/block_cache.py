"""Keeps decoded blocks of an image for the next patch, where decoding a block is slow.

JPEG 2000 decodes a block of 1024 x 1024 pixels as a whole, and GDAL forgets it with the dataset.
Patches come in rows, so each block would be decoded once for every patch in it.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

MAX_BYTES = 64 * 2**20  # of a process: blocks of the 13 bands of Sentinel-2 around a patch

_Key = tuple[str, int, int, int]  # checksum of the file, band, row and column
_kept: collections.OrderedDict[_Key, np.ndarray] = collections.OrderedDict()


class CachedBlocks:
    """A dataset that reads windows block by block; everything else is the dataset's.

    `checksum` identifies the content of the file.
    """

    def __init__(self, dataset: rasterio.DatasetReader, checksum: str):
        self._dataset, self._checksum = dataset, checksum

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, numbers: Sequence[int], window: Window | None = None) -> np.ndarray:
        """The bands with these 1-based numbers [c, h, w], as rasterio reads them."""
        if window is None or not self._is_cut_from_blocks(window):
            return self._dataset.read(numbers, window=window)
        return np.stack([self._read_band(number, window) for number in numbers])

    def _is_cut_from_blocks(self, window: Window) -> bool:
        """Whether a window is within the image, and its blocks are few bytes."""
        height, width = self._dataset.shape
        rows, columns = self._dataset.block_shapes[0]
        return (
            window.row_off + window.height <= height
            and window.col_off + window.width <= width
            and rows * columns * np.dtype(self._dataset.dtypes[0]).itemsize <= MAX_BYTES // 8
        )

    def _read_band(self, number: int, window: Window) -> np.ndarray:
        top, left = window.row_off, window.col_off
        bottom, right = top + window.height, left + window.width
        band = np.empty((window.height, window.width), self._dataset.dtypes[number - 1])
        for row, column in self._blocks(number, window):
            block = self._block(number, row, column)
            first, last = max(row, top), min(row + block.shape[0], bottom)
            begin, end = max(column, left), min(column + block.shape[1], right)
            part = block[first - row : last - row, begin - column : end - column]
            band[first - top : last - top, begin - left : end - left] = part
        return band

    def _blocks(self, number: int, window: Window) -> Iterator[tuple[int, int]]:
        """(row, column) of the upper left pixel of the blocks that a window touches."""
        rows, columns = self._dataset.block_shapes[number - 1]
        for row in range(window.row_off // rows * rows, window.row_off + window.height, rows):
            start = window.col_off // columns * columns
            for column in range(start, window.col_off + window.width, columns):
                yield row, column

    def _block(self, number: int, row: int, column: int) -> np.ndarray:
        rows, columns = self._dataset.block_shapes[number - 1]
        height = min(rows, self._dataset.height - row)
        width = min(columns, self._dataset.width - column)
        read = functools.partial(
            self._dataset.read, number, window=Window(column, row, width, height)
        )
        return _keep((self._checksum, number, row, column), read)


def _keep(key: _Key, read: functools.partial) -> np.ndarray:
    """What `read` gives, from memory if it is there; the least recent blocks are forgotten."""
    block = _kept.pop(key) if key in _kept else read()
    _kept[key] = block
    size = sum(each.nbytes for each in _kept.values())
    while size > MAX_BYTES:
        size -= _kept.popitem(last=False)[1].nbytes
    return block
