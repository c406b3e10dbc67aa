"""Reads the Zarr files of SSL4EO-S12 v1.1 (arXiv 2503.00168): Sentinel-1 GRD, Sentinel-2 and RGB.

    <root>/{train,val}/{S1GRD,S2L1C,S2L2A,S2RGB}/ssl4eos12_{train,val}_seasonal_data_000001.zarr.zip
        64 locations per file
    <root>/splits/ssl4eos12_{train,val}.txt
        one file per line; optional: without them, the split is the folder

There are 246,144 locations with four dates each. A file has the array `bands` [sample, time, band,
y, x], int16 for Sentinel-2 (L1C, L2A), float16 dB for Sentinel-1, uint8 for RGB, and the arrays
`band`, `sample`, `time_`, `center_lat`, `center_lon`, `crs`, `x_`, `y_`, `file_id` and, for
Sentinel-2, `cloud_mask`. Files of the same name have the same locations in the same order in every
product, which is checked. A group is a location, named as in `sample`; `product` is the scene in
`file_id`. The mask `cloud_mask` has the codes of the file (its attribute cloud_classes: 0 land, 1
water, 2 snow, 3 thin and 4 thick cloud, 5 cloud shadow, 6 no data).

Digital numbers of Sentinel-2 are those of v1.0 + 1000. They are kept, and the sensor's offset
accounts for them: reflectance = DN / 10000 - 0.1. (A later release of v1.1, in tar files with one
Zarr per sample, is published with means 1000 lower. It has another layout and is not read here.)
`x_` and `y_` are interpreted as pixel centres, as in xarray. Ids are
<split>/<file>/<product>/<date>/<location>, in the order of the chunks in the files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import rasterio
from rasterio.errors import CRSError

from data_prep.archive import Archive, ArchiveError
from data_prep.formats import zarr_zip
from data_prep.formats.attributes import check_attributes
from data_prep.formats.listing import sorted_by_id, split_lists
from data_prep.formats.zarr_zip import Source
from data_prep.reader import File, Files, Item, option
from eo_jax.schema import Sample
from eo_jax.sensors import Sensor, get_sensor

PRODUCTS = {
    "S1GRD": get_sensor("sentinel1_grd_v1_1"),
    "S2L1C": get_sensor("sentinel2_l1c_offset"),
    "S2L2A": get_sensor("sentinel2_l2a_offset"),
    "S2RGB": get_sensor("sentinel2_rgb"),
}
SPLITS = ("train", "val")
_FILE = re.compile(r"ssl4eos12_(?:train|val)_seasonal_data_(\d+)\.zarr\.zip", re.ASCII)
_MAX_IMAGES = 10_000  # per file; published files have 256
_RGB_NAMES = ("B04", "B03", "B02"), ("R", "G", "B")  # accepted besides those of the sensor table
_TIME_UNITS = {
    "days": 86400 * 10**9,
    "hours": 3600 * 10**9,
    "minutes": 60 * 10**9,
    "seconds": 10**9,
}
_TIME_UNITS |= {"milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
_AGAIN = "download the file again"


@dataclass(frozen=True)
class Reader:
    """SSL4EO-S12 v1.1, one sample per location, product and date.

    The `part` of an item is (sample, date) in its file.
    """

    TITLE: ClassVar[str] = "SSL4EO-S12 v1.1"
    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "CC-BY-4.0; contains modified Copernicus Sentinel data"
    sensors: ClassVar = tuple(PRODUCTS.values())
    archive: Archive
    products: tuple[str, ...] = option(
        (),
        f"some of {', '.join(PRODUCTS)} (default: those in the archive)",
        choices=tuple(PRODUCTS),
    )

    def items(self) -> list[Item]:
        files = self._files()
        names = {name.rpartition("/")[2] for name, _ in files}
        lists = {split: f"splits/ssl4eos12_{split}.txt" for split in SPLITS}
        splits = split_lists(self.archive, lists, names)
        found, first = [], dict[str, tuple[str, list[str]]]()
        for name, product in files:
            items, locations = self._items(name, product, splits)
            other, expected = first.setdefault(name.rpartition("/")[2], (name, locations))
            if locations != expected:
                raise ArchiveError(
                    name,
                    f"its samples differ from those of {other}, expected the same locations and "
                    f"dates; {_AGAIN}",
                )
            found += items
        return sorted_by_id(found)

    def read(self, item: Item, files: Files) -> Sample:
        name = item.files[0].name
        with files.local("image") as path:
            source = Source(name, path, self.archive.entry(name).stamp)
            sensor = PRODUCTS[name.split("/")[1]]
            _check(source, sensor)
            product = zarr_zip.read_small(source, "file_id")
            cloud_mask = zarr_zip.find_array(source, "cloud_mask")
            return Sample(
                pixels=_pixels(source, item.part, sensor),
                sensor=sensor.id,
                id=item.id,
                group=item.group,
                product=None if product is None else str(product[item.part]),
                time=_time(source, item.part),
                masks={}
                if cloud_mask is None
                else {"cloud_mask": zarr_zip.read_part(source, "cloud_mask", item.part)},
                **_georeference(source, item.part[0]),
            )

    def _files(self) -> list[tuple[str, str]]:
        """(file, product) of the files to read."""
        found = []
        for name in self.archive.names((".zarr.zip",)):
            parts = name.split("/")
            if len(parts) != 3 or parts[0] not in SPLITS or not _FILE.fullmatch(parts[2]):
                raise ArchiveError(
                    name,
                    "is not at "
                    "{train,val}/<product>/ssl4eos12_<split>_seasonal_data_<number>.zarr.zip; move "
                    "it away",
                )
            if parts[1] in (self.products or PRODUCTS):
                found.append((name, parts[1]))
        absent = sorted(set(self.products) - {product for _, product in found})
        if absent or not found:
            product = absent[0] if absent else "S2L1C"
            raise ArchiveError(
                f"train/{product}",
                "contains no *.zarr.zip, and neither does val; give the folder with train and val, "
                "and --products that it has",
            )
        return found

    def _items(
        self, name: str, product: str, splits: dict[str, str]
    ) -> tuple[list[Item], list[str]]:
        """The items of a file, and their locations."""
        with self.archive.local(name) as path:
            source = Source(name, path, self.archive.entry(name).stamp)
            _check(source, PRODUCTS[product])
            samples, dates = zarr_zip.find_array(source, "bands").shape[:2]
            names = zarr_zip.read_small(source, "sample")
        folder, _, file = name.split("/")
        number = _FILE.fullmatch(file)[1]
        locations = (
            [f"{folder}_{number}_{sample:02d}" for sample in range(samples)]
            if names is None
            else [_check_location(source, str(each)) for each in names]
        )
        split = splits.get(file, folder)
        items = [
            Item(
                f"{folder}/{number}/{product}/{date}/{location}",
                location,
                (File("image", name),),
                split,
                (sample, date),
            )
            for date in range(dates)
            for sample, location in enumerate(locations)
        ]
        return items, locations * dates


def _check_location(source: Source, location: str) -> str:
    if not re.fullmatch(r"\w{1,40}", location, re.ASCII):
        raise ArchiveError(
            f"{source.name}/sample",
            f"has the location {location[:60]!r}, expected one such as '0080717'; {_AGAIN}",
        )
    return location


# ------------------------------------------------------------------ contents of a file


def _check(source: Source, sensor: Sensor) -> None:
    """Raises ArchiveError for other bands, another dtype, or arrays whose shapes do not match."""
    bands = zarr_zip.find_array(source, "bands")
    if bands is None:
        raise ArchiveError(
            source.name, f"has no array `bands`, expected [sample, time, band, y, x]; {_AGAIN}"
        )
    if (
        bands.dtype.newbyteorder("=") != np.dtype(sensor.dtype)
        or len(bands.shape) != 5
        or bands.shape[2] != len(sensor.bands)
        or 0 in bands.shape
    ):
        expected = f"{sensor.dtype} [sample, time, {len(sensor.bands)}, y, x] of {sensor.title}"
        raise ArchiveError(
            f"{source.name}/bands",
            f"is {bands.dtype} {list(bands.shape)}, expected {expected}; {_AGAIN}",
        )
    if bands.shape[0] * bands.shape[1] > _MAX_IMAGES:
        raise ArchiveError(
            f"{source.name}/bands",
            f"has {bands.shape[0] * bands.shape[1]:,} images, at most {_MAX_IMAGES:,}; {_AGAIN}",
        )
    _check_names(source, sensor)
    check_attributes(f"{source.name}/bands", zarr_zip.attributes(source, "bands"), sensor)
    samples, dates, _, height, width = bands.shape
    for key, (shape, kinds) in _companions(samples, dates, height, width).items():
        array = zarr_zip.find_array(source, key)
        if array is not None and (array.shape != shape or array.dtype.kind not in kinds):
            raise ArchiveError(
                f"{source.name}/{key}",
                f"is {array.dtype} {list(array.shape)}, expected {list(shape)} to match `bands`; "
                f"{_AGAIN}",
            )


def _companions(
    samples: int, dates: int, height: int, width: int
) -> dict[str, tuple[tuple[int, ...], str]]:
    """{array: (shape, kinds of its dtype)} of the arrays that a file may have besides `bands`."""
    return {
        "sample": ((samples,), "US"),
        "time_": ((samples, dates), "iM"),
        "center_lat": ((samples,), "f"),
        "center_lon": ((samples,), "f"),
        "crs": ((samples,), "iu"),
        "x_": ((samples, width), "f"),
        "y_": ((samples, height), "f"),
        "file_id": ((samples, dates), "US"),
        "cloud_mask": ((samples, dates, height, width), "iu"),
    }


def _check_names(source: Source, sensor: Sensor) -> None:
    names = zarr_zip.read_small(source, "band")
    if names is None or names.ndim != 1 or names.dtype.kind != "U":
        raise ArchiveError(
            f"{source.name}/band", f"are not names, so the order of bands is unknown; {_AGAIN}"
        )
    expected = tuple(band.name for band in sensor.bands)
    others = _RGB_NAMES if sensor.id == "sentinel2_rgb" else ()
    if tuple(names.tolist()) not in (expected, *others):
        raise ArchiveError(
            f"{source.name}/band",
            f"are {', '.join(names.tolist())[:200]}, expected {', '.join(expected)} in this order; "
            f"{_AGAIN}",
        )


def _pixels(source: Source, part: tuple[int, ...], sensor: Sensor) -> np.ndarray:
    pixels = zarr_zip.read_part(source, "bands", part)
    missing = sensor.missing(pixels)
    if missing.any() and sensor.nodata is None:
        where = f"sample {part[0]}, date {part[1]}: {missing.sum()} values are NaN or infinite"
        raise ArchiveError(
            f"{source.name}/bands", f"{where}, expected numbers; {_AGAIN}, or give --skip-bad"
        )
    return pixels


def _time(source: Source, part: tuple[int, ...]) -> int | None:
    """Seconds since 1970 UTC."""
    times = zarr_zip.read_small(source, "time_")
    if times is None or times[part].astype(np.int64) == np.iinfo(np.int64).min:  # absent, or NaT
        return None
    if times.dtype.kind == "M":
        seconds = int(times[part].astype("M8[s]").astype(np.int64))
    else:
        begin, unit = _since(source)
        seconds = begin + int(times[part]) * unit // 10**9
    if not 0 < seconds < 2**31:
        raise ArchiveError(
            f"{source.name}/time_",
            f"has a time {seconds} s after 1970, expected one between 1970 and 2038; {_AGAIN}",
        )
    return seconds


def _since(source: Source) -> tuple[int, int]:
    """(start in seconds since 1970, unit in nanoseconds) of the attribute units, such as "seconds
    since 2019-12-01 10:20:30".
    """
    units = zarr_zip.attributes(source, "time_").get("units")
    found = (
        re.fullmatch(r"(\w+) since (\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.0+)?)?", units)
        if isinstance(units, str)
        else None
    )
    if not found or found[1] not in _TIME_UNITS:
        raise ArchiveError(
            f"{source.name}/time_",
            f"has the units {str(units)[:80]!r}, expected units such as 'seconds since "
            f"1970-01-01'; {_AGAIN}",
        )
    try:
        begin = np.datetime64(f"{found[2]}T{found[3] or '00:00:00'}", "s")
    except ValueError as error:
        raise ArchiveError(
            f"{source.name}/time_", f"has the units {units!r}, without a valid date; {_AGAIN}"
        ) from error
    return int(begin.astype(np.int64)), _TIME_UNITS[found[1]]


# ------------------------------------------------------------------ georeference


def _georeference(source: Source, sample: int) -> dict[str, Any]:
    """The fields lonlat, crs, affine and gsd_m of a Sample; None for each that the file does not
    have.
    """
    code, lonlat = zarr_zip.read_small(source, "crs"), _lonlat(source, sample)
    if code is None:
        return {"lonlat": lonlat}
    try:
        crs = rasterio.crs.CRS.from_epsg(int(code[sample]))
    except (CRSError, OverflowError) as error:
        raise ArchiveError(
            f"{source.name}/crs", f"is {code[sample]}, expected an EPSG number; {_AGAIN}"
        ) from error
    affine = _affine(source, sample)
    gsd_m = (
        math.sqrt(abs(affine[0] * affine[4])) * crs.linear_units_factor[1]
        if affine and crs.is_projected
        else None
    )
    return {"lonlat": lonlat, "crs": f"EPSG:{int(code[sample])}", "affine": affine, "gsd_m": gsd_m}


def _lonlat(source: Source, sample: int) -> tuple[float, float] | None:
    longitude, latitude = (
        zarr_zip.read_small(source, "center_lon"),
        zarr_zip.read_small(source, "center_lat"),
    )
    if longitude is None or latitude is None:
        return None
    if not (abs(longitude[sample]) <= 180 and abs(latitude[sample]) <= 90):
        raise ArchiveError(
            f"{source.name}/center_lon",
            f"sample {sample} is at {longitude[sample]}, {latitude[sample]}, expected degrees; "
            f"{_AGAIN}",
        )
    return float(longitude[sample]), float(latitude[sample])


def _affine(source: Source, sample: int) -> tuple[float, ...] | None:
    """The transform from the pixel centres `x_` and `y_`; None with fewer than two."""
    x, y = zarr_zip.read_small(source, "x_"), zarr_zip.read_small(source, "y_")
    if x is None or y is None or min(x.shape[1], y.shape[1]) < 2:
        return None
    (left, column), (top, row) = _line(source, "x_", x[sample]), _line(source, "y_", y[sample])
    return column, 0.0, left - column / 2, 0.0, row, top - row / 2


def _line(source: Source, key: str, centres: np.ndarray) -> tuple[float, float]:
    """The first of evenly spaced coordinates, and their step."""
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    if not (step != 0 and np.allclose(np.diff(centres), step, rtol=1e-3, atol=0)):
        raise ArchiveError(
            f"{source.name}/{key}",
            f"goes from {centres[0]} to {centres[-1]} in unequal steps, expected a regular grid; "
            f"{_AGAIN}",
        )
    return float(centres[0]), float(step)
