"""Opens GeoTIFFs as images of one sensor, and reads windows of them.

Whatever a file says about itself (bands, wavelengths, dtype, no-data, scale, masks, sidecars,
processing baseline) is honoured or refused by the code that converts archives, `data_prep.formats`:
a second set of rules would in time accept what the first refuses. No other module of eo_jax imports
data_prep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window

from data_prep.archive import ArchiveError, open_archive
from data_prep.formats import geotiff, remarks, sentinel2
from data_prep.formats.band_identity import Bands, data_bands, identify
from data_prep.formats.listing import TIFF, image_files
from data_prep.reader import AUX, MASK, STAC, File, Files, Item, with_sidecars
from eo_jax.sensors import SENSORS, Sensor

_LISTED = 15  # band names in a message


class Declared(NamedTuple):
    """What the user vouches for.

    Attributes:
        in_order: files that do not say which band is which have the sensor's bands in its order.
        reorder: put bands in the sensor's order by their names or wavelengths.
        harmonised: see `sentinel2.check_offset`.
    """

    in_order: bool = False
    reorder: bool = False
    harmonised: bool = False


class Image(NamedTuple):
    """An open file.

    Attributes:
        name: relative to the input folder.
        sha256: of the file.
        sidecars: {name: SHA-256} of the files beside it that speak about it.
        height, width: in pixels.
        crs: "EPSG:..." or WKT; None where the file has none.
        affine: six numbers, from column and row to coordinates; None where the file has none.
        lonlat: of the centre, in degrees; None where it is not known.
        time: seconds since 1970 UTC, or None.
        remarks: what the file says about itself and what was done about it.
        read: (row, column, height, width) -> (digital numbers float32, valid mask), both
            [c, height, width]; outside of the file nothing is valid.
    """

    name: str
    sha256: str
    sidecars: dict[str, str]
    height: int
    width: int
    crs: str | None
    affine: tuple[float, ...] | None
    lonlat: tuple[float, float] | None
    time: int | None
    remarks: tuple[str, ...]
    read: Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray]]


def is_geotiff(path: Path) -> bool:
    """Whether an input is one file, rather than a folder or an archive of files."""
    return path.is_file() and path.suffix.lower() in TIFF


class Images:
    """The GeoTIFFs of a folder (or tar or zip), or one file.

    Raises ValueError where there is none.
    """

    def __init__(self, path: Path, sensor: Sensor, declared: Declared):
        self._sensor, self._declared = sensor, declared
        if is_geotiff(path):
            real = path.resolve()
            self._archive, items = open_archive(real.parent), [_item_of_file(real)]
        else:
            self._archive = open_archive(path)
            items = with_sidecars(self._archive, list(map(_item, image_files(self._archive))))
        if not items:
            raise ValueError(f"--input: {path}: contains no GeoTIFF; expected *.tif or *.tiff")
        self._items = {item.id: item for item in items}

    @property
    def names(self) -> list[str]:
        """Sorted."""
        return sorted(self._items)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Image]:
        """Opens a file. Raises ValueError where it is not an image of the sensor."""
        files = Files(self._archive, self._items[name])
        try:
            with geotiff.open_tiff_path(files, "image") as dataset, remarks.collect() as found:
                sentinel2.check_offset(name, dataset, self._sensor, self._declared.harmonised)
                bands = _bands(name, dataset, self._sensor, self._declared)
                read = _reader(name, dataset, self._sensor, bands)
                read(0, 0, 1, 1)  # dtype, no-data and scale are checked with the pixels
                yield Image(
                    name,
                    files.hashes[name],
                    {key: files.hashes[key] for key in sorted(files.hashes) if key != name},
                    *dataset.shape,
                    time=geotiff.stated_time(name, dataset),
                    remarks=tuple(sorted(found.texts)),
                    read=read,
                    **_place(dataset),
                )
        except ArchiveError as error:
            raise ValueError(f"{error}{_sensor_is_given(error, self._sensor)}") from error


def _item(name: str) -> Item:
    return Item(name, name, (File("image", name),))


def _item_of_file(path: Path) -> Item:
    """The item of one file, with its sidecars, without listing the folder that it is in."""
    beside = {AUX: path.name + AUX, MASK: path.name + MASK, STAC: path.stem + STAC}
    sidecars = tuple(
        File(f"image{ending}", name)
        for ending, name in beside.items()
        if os.path.lexists(path.parent / name)
    )
    return dataclasses.replace(_item(path.name), sidecars=sidecars)


def _place(dataset: rasterio.DatasetReader) -> dict[str, Any]:
    found = geotiff.georeference(dataset)
    return {key: found[key] for key in ("crs", "affine", "lonlat")}


def _sensor_is_given(error: ArchiveError, sensor: Sensor) -> str:
    """Messages of the conversion speak of its options."""
    if "--sensor" not in error.reason:
        return ""
    return (
        f". (--sensor is of `data_prep convert`: here the sensor is that of the weights, "
        f"{sensor.id}, so change the file or use other weights)"
    )


def _reader(
    name: str, dataset: rasterio.DatasetReader, sensor: Sensor, bands: Bands
) -> Callable[[int, int, int, int], tuple[np.ndarray, np.ndarray]]:
    # Tools that cut tiles often write integers as float32.
    dtypes = (sensor.dtype, "float32")

    def read(row: int, column: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = min(height, dataset.height - row), min(width, dataset.width - column)
        shape = (len(sensor.bands), height, width)
        numbers, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
        if rows > 0 and columns > 0:
            window = Window(column, row, columns, rows)
            pixels = geotiff.read_bands(name, dataset, sensor, window, bands, dtypes)
            numbers[:, :rows, :columns] = pixels
            valid[:, :rows, :columns] = ~sensor.missing(pixels)
        return numbers, valid

    return read


# ------------------------------------------------------------------ bands


def _bands(name: str, dataset: rasterio.DatasetReader, sensor: Sensor, declared: Declared) -> Bands:
    """The sensor's bands in a file, which may have all bands of the product that they are from."""
    count = len(data_bands(dataset))
    product = _product(sensor, count)
    if product is None:
        raise ArchiveError(
            name,
            f"{count} bands ({_names(dataset)}), but the weights are for "
            f"{len(sensor.bands)} ({_expected(sensor)}); give files with these bands",
        )
    bands = identify(name, dataset, product, declared.reorder)
    if not bands.told and not declared.in_order:
        raise ArchiveError(
            name,
            f"says nothing that tells which band is which (it has {_names(dataset)}), and the "
            f"weights are for {_expected(product)}; write band descriptions or wavelengths, or, "
            "where you know that it has these bands in this order, give --bands-are-in-order",
        )
    position = {(band.number, band.name): at for at, band in enumerate(product.bands)}
    return bands.pick([position[band.number, band.name] for band in sensor.bands])


def _product(sensor: Sensor, count: int) -> Sensor | None:
    """The sensor itself, or the product with that many bands of which it has some."""
    if count == len(sensor.bands):
        return sensor
    wanted = {(band.number, band.name, band.centre_nm) for band in sensor.bands}
    for product in SENSORS.values():
        same = (product.dtype, product.scale, product.offset, product.nodata) == (
            sensor.dtype,
            sensor.scale,
            sensor.offset,
            sensor.nodata,
        )
        has = {(band.number, band.name, band.centre_nm) for band in product.bands}
        if len(product.bands) == count and same and wanted <= has:
            return product
    return None


def _names(dataset: rasterio.DatasetReader) -> str:
    listed = [str(dataset.descriptions[number - 1] or "unnamed") for number in data_bands(dataset)]
    return _shortened([name[:40] for name in listed])


def _expected(sensor: Sensor) -> str:
    return _shortened([band.name for band in sensor.bands])


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
