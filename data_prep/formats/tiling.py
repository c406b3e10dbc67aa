"""Cuts scenes into square, non-overlapping tiles."""

from __future__ import annotations

from rasterio.windows import Window

from data_prep.archive import ArchiveError
from data_prep.formats import left_out
from data_prep.reader import SkipSample


def check_patch_size(size: int, whole: str) -> None:
    """Raises ArchiveError for a negative --patch-size. `whole` names what 0 leaves whole."""
    if size < 0:
        raise ArchiveError("--patch-size", f"is {size}, expected pixels, or 0 for whole {whole}")


def full_tiles(name: str, shape: tuple[int, int], size: int) -> list[tuple[int, int]]:
    """(row, column) of the upper left pixel of each full tile of size x size pixels; remainders at
    the right and bottom edge are left out, which is noted.

    Raises ArchiveError where no tile fits, because of SkipSample.
    """
    if size < 1:
        raise ArchiveError("--patch-size", f"is {size}, expected 1 or more pixels")
    height, width = shape
    tiles = [
        (row, column)
        for row in range(0, height - size + 1, size)
        for column in range(0, width - size + 1, size)
    ]
    if not tiles:
        raise too_small(name, shape, size)
    left_out.note_edges(shape, size, len(tiles) * size**2)
    return tiles


def too_small(name: str, shape: tuple[int, int], size: int) -> ArchiveError:
    """The error of an image that is smaller than a patch; SkipSample is its cause."""
    height, width = shape
    error = ArchiveError(
        name,
        f"{height} x {width} pixels, too few for a tile of {size} x {size}; give a smaller "
        "--patch-size",
    )
    error.__cause__ = SkipSample(f"smaller than a patch of {size} x {size} (--patch-size)")
    return error


def tile_window(part: tuple[int, int], size: int) -> Window:
    """The window of a tile from `full_tiles`."""
    row, column = part
    return Window(column, row, size, size)


def tile_name(part: tuple[int, int]) -> str:
    """The sortable name of a tile in ids and groups: "00096_00192"."""
    return "{:05}_{:05}".format(*part)
