"""Shared by the readers of products that describe their own bands: PRISMA, EMIT, DESIS.

A store has one row per kind of product, that of the first one; others have to be alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.formats import remarks
from data_prep.formats.band_identity import check_wavelengths
from data_prep.formats.tiling import full_tiles, tile_name
from data_prep.reader import File, Item
from eo_jax.sensors import Band, Sensor

_RED_GREEN_BLUE_NM = (650.0, 560.0, 470.0)


def make_row(bands: Sequence[Band], **fields) -> Sensor:
    """A row with the bands nearest to red, green and blue as its colours. Raises ValueError."""
    nm = np.array([band.centre_nm for band in bands])
    colours = tuple(int(np.abs(nm - wanted).argmin()) for wanted in _RED_GREEN_BLUE_NM)
    sensor = Sensor(
        bands=tuple(bands), true_colour=colours if len(set(colours)) == 3 else None, **fields
    )
    sensor.check()
    return sensor


def without_bad(row: Sensor) -> Sensor:
    """The row without the bands that its product declares bad."""
    good = [band.name for band in row.bands if not band.bad]
    return row if len(good) == len(row.bands) else row.select(good)


def check_like(name: str, found: Sensor, row: Sensor, way_out: str) -> None:
    """Raises ArchiveError where a product is not like the one whose row the store has: in bands,
    wavelengths within the tolerance of tables, dtype, no-data value, scale or offset.
    """
    for what, one, other in (
        ("number of bands", len(found.bands), len(row.bands)),
        ("bands", [band.name for band in found.bands], [band.name for band in row.bands]),
        ("dtype", found.dtype, row.dtype),
        ("no-data value", found.nodata, row.nodata),
    ):
        if one != other:
            said = f" {one} and {other}" if what != "bands" else ""
            raise ArchiveError(name, f"has another {what} than the first product{said}; {way_out}")
    check_wavelengths(name, found.centres_nm, row)
    for what in ("scales", "offsets"):
        one, other = getattr(found, what), getattr(row, what)
        different = ~np.isclose(one, other, rtol=1e-6, atol=1e-12)
        if different.any():
            band = int(different.argmax())
            raise ArchiveError(
                name,
                f"band {found.bands[band].name} has the {what[:-1]} {one[band]:g}, in the first "
                f"product {other[band]:g}; {way_out}",
            )


def positions_of(found: Sensor, kept: Sensor) -> list[int]:
    """The positions of the kept bands among those of a product."""
    order = {band.name: index for index, band in enumerate(found.bands)}
    return [order[band.name] for band in kept.bands]


def exclude_bad(pixels: np.ndarray, bands: Sequence[Band], nodata: float) -> np.ndarray:
    """The pixels [c, h, w] with no-data in the bands that their product declares bad."""
    bad = [index for index, band in enumerate(bands) if band.bad]
    if bad:
        remarks.note("bands that the product declares bad are no-data")
        pixels[bad] = nodata
    return pixels


def tiles(
    stem: str, files: tuple[File, ...], shape: tuple[int, int], patch_size: int
) -> Iterator[Item]:
    """The items of a product: full tiles, or the whole of it where `patch_size` is 0."""
    if not patch_size:
        yield Item(stem, stem, files, part=(0, 0))
        return
    for part in full_tiles(files[0].name, shape, patch_size):
        yield Item(f"{stem}/{tile_name(part)}", f"{stem}/{tile_name(part)}", files, part=part)


def extent(part: tuple[int, ...], shape: tuple[int, int], patch_size: int) -> tuple[slice, slice]:
    """Rows and columns of an item of `tiles`."""
    (row, column), (height, width) = part, shape
    if not patch_size:
        return slice(0, height), slice(0, width)
    return slice(row, row + patch_size), slice(column, column + patch_size)
